"""A task: how a model is trained and judged. It is handed its parts and says two things about them.

A subclass says how the model's answer is compared with the truth (``compare``) and what is decided on it
(``decide``); the base class holds the steps, the metrics, the log rows and the parameter groups.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from paribus.metrics import WeightedMean
from paribus.models.backbones import depths, freeze_stages
from paribus.models.normalization import freeze_batch_norms
from paribus.optimizers import parameter_groups
from paribus.tasks.diverged import DivergedError, diverged
from paribus.tasks.summed import Summed

Batch = tuple[Any, Any, list[str]]  # images, targets, ids


class Task(Summed, ABC):
    """Steps, metrics and optimizer around a model.

    Args:
        model: maps images to answers; its ``backbone`` is the part that ``freeze``, ``head_first``,
            ``backbone_lr_factor`` and ``layer_decay`` mean.
        metrics: makes the metric of one split; one each for val and test.
        optimizer: takes parameter groups; its ``lr`` and ``weight_decay`` are those of the config.
        scheduler: (step, all steps) -> factor on the rate.
        monitor, mode: the validation metric that chooses the best checkpoint, and its direction.
        freeze: none, all of the backbone, or its first stages by number (1 is the stem); frozen batch
            statistics too.
        freeze_norm: of all of the backbone's batch norms neither statistics nor weight and bias move, as is usual
            for detectors, whose batches are small (He et al. 2016, ResNet, appendix A).
        head_first: steps (an integer), or share of the training (a float), before the backbone learns.
        layer_decay: factor of the backbone's rate for each block further from the head (Bao et al. 2022,
            BEiT, appendix; Clark et al. 2020, ELECTRA).
        log_every: steps between two rows of training losses.
        seed: of what the model draws while it trains (dropout).
    """

    def __init__(
        self,
        *,
        target: str,
        monitor: str,
        mode: Literal["max", "min"],
        model: nn.Module,
        metrics: Callable[[], Metric],
        optimizer: Any,
        scheduler: Callable[[int, int], float],
        freeze: Literal["none", "all"] | int = "none",
        freeze_norm: bool = False,
        head_first: int | float = 0,
        backbone_lr_factor: float = 1.0,
        layer_decay: float = 1.0,
        decay_norm_and_bias: bool = False,
        log_every: int = 50,
        seed: int = 0,
    ):
        super().__init__(log_every)
        self.seed = seed
        self.target, self.monitor, self.mode = target, monitor, mode
        self.model = model
        self.metrics: Any = nn.ModuleDict({"val": metrics(), "test": metrics()})
        self.mean_losses: Any = nn.ModuleDict()  # of the split being judged; filled as losses are met
        self.per_class: dict[str, dict[str, list]] = {}  # split -> table, after a split was judged
        self.make_optimizer, self.scheduler = optimizer, scheduler
        self.backbone_lr_factor, self.layer_decay = backbone_lr_factor, layer_decay
        self.decay_norm_and_bias = decay_norm_and_bias
        backbone: Any = model.backbone
        self.frozen = freeze_stages(backbone, freeze)
        if freeze_norm:
            self.frozen += freeze_batch_norms(backbone)
        if not (head_first >= 0 if isinstance(head_first, int) else 0 <= head_first < 1):
            raise ValueError(
                f"task.head_first={head_first}: a number of steps (an integer) or a share of the training "
                "(a float below 1)"
            )
        self.head_first, self.head_only = head_first, head_first > 0
        self.members = len(getattr(model, "members", [model]))  # see models/ensemble.py
        self.held = [p for p in backbone.parameters() if p.requires_grad] if self.head_only else []
        self.head_steps: float = head_first  # in steps, as soon as their number is known

    # --- what a task says --------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Any:
        """The model's answer to normalized images ``[B, C, H, W]``."""
        return self.model(images)

    def answers(self, batch: Batch) -> Iterator[tuple[Any, Any]]:
        """What is judged: the batch's answer and its targets, or one after the other those of its parts."""
        images, targets, _ = batch
        yield self.predict(images), targets

    @abstractmethod
    def compare(self, answer: Any, targets: Any) -> dict[str, Tensor]:
        """The losses of an answer, by name; their sum is trained. Empty if an answer has none."""

    def measured(self, answer: Any, targets: Any) -> dict[str, tuple[Tensor, int]]:
        """What is reported of a judged set as a mean: of a batch its value, and over how many that is the mean."""
        return {name: (value, len(targets)) for name, value in self.compare(answer, targets).items()}

    def decided(self, batch: Batch) -> list[Any]:
        """What is decided on a batch, without looking at its truth: what it costs to apply the model."""
        return [self.decide(answer) for answer, _ in self.answers(batch)]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        images, targets, _ = batch
        return self.compare(self.predict(images), targets)

    def trained(self, images: Tensor, targets: Any, weight: float) -> tuple[Any, dict[str, Tensor]]:
        """The model's answer while it trains, and the weighted loss of its auxiliary heads, if it has some: then it
        answers with (answer, those of the heads, ...).
        """
        answer, *others = answers if isinstance(answers := self.model(images), tuple) else (answers,)
        if not others:
            return answer, {}
        losses = [self.compare(other, targets)["loss"] for other in others]
        return answer, {"auxiliary": weight * torch.stack(losses).sum()}

    def decide(self, answer: Any) -> Any:
        """What the metrics judge: the answer, or the decision taken on it."""
        return answer

    # --- training ----------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "Task":
        super().train(mode)
        for module in [self.model.backbone] if self.head_only else self.frozen:
            module.eval()  # type: ignore[union-attr]  # its batch statistics are frozen too
        return self

    def on_train_start(self) -> None:
        self.train()  # Lightning leaves every module's mode as it is, and so what is frozen in training mode
        if isinstance(self.head_first, float):
            self.head_steps = self.head_first * float(self.trainer.estimated_stepping_batches)
        if self.head_only and self.trainer.world_size == 1:  # DDP counts on every gradient
            for parameter in self.held:
                parameter.requires_grad_(False)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.head_only and self.trainer.global_step >= self.head_steps:
            self.head_only = False
            self.train()
            for parameter in self.held:
                parameter.requires_grad_(True)
        # Dropout and the like as a function of (seed, step, process): a resumed run draws the same.
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        seed = hash((self.seed, progress.processed, self.global_rank)) % 2**63
        # Not torch.manual_seed: for each kind of device that is not there it notes a stack trace.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.losses(batch if self.members == 1 else _repeated(batch, self.members))
        return self.add(losses, batch[2])

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.head_only:  # without a gradient, nothing moves: no momentum, no decay
            for parameter in self.model.backbone.parameters():  # type: ignore[union-attr]  # FSDP has put others there
                parameter.grad = None

    def flush(self) -> None:
        """Writes the mean losses since the last row; raises DivergedError if they are not finite."""
        if not self.summed:
            return
        means = torch.stack(list(self.sums.values())).double() / self.summed
        if self.trainer.world_size > 1:
            means = self.trainer.strategy.reduce(means, reduce_op="mean")
        row = {f"train/{name}": value for name, value in zip(self.sums, means.tolist(), strict=True)}
        if not all(math.isfinite(value) for value in row.values()):
            raise self._diverged()
        self.sums, self.summed, self.recent = {}, 0, []
        row["train/lr"] = self.trainer.optimizers[0].param_groups[-1]["lr"]
        self._write(row)

    def _diverged(self) -> DivergedError:
        """Every process comes here, or none."""
        return diverged(self.recent, self.trainer.global_step, self.trainer.accumulate_grad_batches)

    def _write(self, row: dict[str, float]) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics({**row, "epoch": self.current_epoch}, self.trainer.global_step)

    def configure_optimizers(self) -> Any:
        settings = self.make_optimizer.keywords
        groups = parameter_groups(
            self.model,
            lr=settings["lr"],
            weight_decay=settings.get("weight_decay", 0.0),
            backbone_lr_factor=self.backbone_lr_factor,
            layer_decay=self.layer_decay,
            depths=depths(self.model.backbone, fine=True) if self.layer_decay != 1 else None,
            decay_norm_and_bias=self.decay_norm_and_bias,
        )
        optimizer = self.make_optimizer(groups)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.scheduler(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # --- judging -----------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        return self._judge("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Any:
        return self._judge("test", batch)

    def on_validation_epoch_start(self) -> None:
        """Statistics of batch norms differ by process, and what is judged is one network: the first one's, which DDP
        hands to all in the next step too, and which is kept. After a moving average has put its own in place.
        """
        if self.trainer.world_size > 1:
            for statistic in self.model.buffers():
                torch.distributed.broadcast(statistic, 0)

    def on_validation_epoch_end(self) -> None:
        self._conclude("val")

    def on_test_epoch_end(self) -> None:
        self._conclude("test")

    def _judge(self, split: str, batch: Batch) -> Any:
        decisions: list[Any] = []
        if not batch[2]:  # a process without a share of the set
            return decisions
        for answer, targets in self.answers(batch):
            for name, (value, count) in self.measured(answer, targets).items():
                if name not in self.mean_losses:
                    self.mean_losses[name] = WeightedMean().to(self.device)
                self.mean_losses[name].update(value, count)
            decision = self.decide(answer)
            self.metrics[split].update(decision, targets)
            decisions.append(decision)
        # For callbacks that draw it: one decision an image.
        return decisions[0] if len(decisions) == 1 else [one for part in decisions for one in part]

    def _conclude(self, split: str) -> None:
        metric = self.metrics[split]
        values = {name: float(value) for name, value in metric.compute().items()}
        names = self._names()
        for name in names:
            if name not in self.mean_losses:
                self.mean_losses[name] = WeightedMean().to(self.device)
        values |= {name: float(self.mean_losses[name].compute()) for name in names}
        self.per_class[split] = metric.per_class()
        metric.reset()
        for mean in self.mean_losses.values():
            mean.reset()
        row = {f"{split}/{name}": value for name, value in values.items()}
        # For what chooses checkpoints and stops early; float64, so that a number stays the number it is.
        self.log_dict(
            {name: torch.tensor(value, dtype=torch.float64) for name, value in row.items()}, logger=False
        )
        self._write(row)

    def _names(self) -> list[str]:
        """Of the losses that any process has met, in one order: each is put together by all."""
        names: list[Any] = [list(self.mean_losses)]
        if torch.distributed.is_initialized():
            names = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(names, list(self.mean_losses))
        return list(dict.fromkeys(name for of_one in names for name in of_one))


def _repeated(batch: Batch, times: int) -> Batch:
    images, targets, ids = batch
    return torch.cat([images] * times), torch.cat([targets] * times), ids
