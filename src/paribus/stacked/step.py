"""The training step of several networks of one form, as one.

Small networks spend their time on the way to their arithmetic: a stack of them makes that way once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import Optimizer

from paribus.tasks.base import Batch, Task
from paribus.tasks.summed import Summed


class Networks:
    """The weights and statistics of K tasks' models, each stacked to ``[K, ...]``, and the losses of all at once.

    The models' own weights are views of the stacks from here on: each can be judged and kept as if it were alone.
    What draws from torch's generator in a step raises RuntimeError, for alone it would draw otherwise.
    """

    def __init__(self, tasks: Sequence[Task]):
        self.of: dict[int, nn.Parameter] = {}  # by the id of the first model's own parameter
        self.weights = self._stacked([dict(t.model.named_parameters(remove_duplicate=False)) for t in tasks])
        self.statistics = self._stacked([dict(t.model.named_buffers(remove_duplicate=False)) for t in tasks])
        self.form = _Losses(tasks[0])
        self.each = vmap(self._of_one, randomness="error")

    def losses(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """images ``[K, B, C, H, W]``, targets ``[K, B]`` -> ``[K]`` of each loss."""
        return self.each(self.weights, self.statistics, images, targets)

    def _of_one(
        self, weights: dict[str, Tensor], statistics: dict[str, Tensor], images: Tensor, targets: Tensor
    ) -> Any:
        # All names of a tensor that has several are given, so that nobody need look for them in every step.
        return functional_call(self.form, (weights, statistics), (images, targets), tie_weights=False)

    def _stacked(self, each: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        known: dict[int, Tensor] = {}
        for name, first in each[0].items():
            if id(first) not in known:
                whole: Tensor = torch.stack([one[name].detach() for one in each])
                for one, part in zip(each, whole, strict=True):
                    one[name].data = part
                if isinstance(first, nn.Parameter):
                    whole = self.of[id(first)] = nn.Parameter(whole, requires_grad=first.requires_grad)
                known[id(first)] = whole
            found[f"task.model.{name}"] = known[id(first)]
        return found


class _Losses(nn.Module):
    """A task's losses as what a module answers with."""

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return self.task.losses((images, targets, []))


class Seat:
    """Lightning's Trainer as one of the tasks sees it: with that one's loggers."""

    def __init__(self, trainer: Any, loggers: list[Any]):
        self.trainer, self.loggers = trainer, loggers

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trainer, name)


class Stack(Summed):
    """What Lightning trains in the place of K tasks; each of them logs, is judged and ends up as if it were alone.

    Batches are (images ``[K, B, C, H, W]``, targets ``[K, B]``, K x B ids), judged ones as ever. The metrics that
    callbacks see have the place of their task before their names: ``0/val/accuracy``.

    tasks: whose models differ in nothing but their weights. loggers: of each.
    """

    networks: Networks

    def __init__(self, tasks: Sequence[Task], loggers: Sequence[list[Any]]):
        super().__init__(tasks[0].log_every)
        self.tasks: Any = nn.ModuleList(tasks)
        self.loggers_of = loggers

    def setup(self, stage: str) -> None:
        for place, (task, loggers) in enumerate(zip(self.tasks, self.loggers_of, strict=True)):
            task.trainer = Seat(self.trainer, loggers)
            task.log_dict = lambda row, place=place, **_: self.log_dict(
                {f"{place}/{name}": value for name, value in row.items()}, logger=False
            )

    def teardown(self, stage: str) -> None:
        for task in self.tasks:
            del task.log_dict
            task.trainer = None

    def configure_optimizers(self) -> Any:
        """The first task's own, in which the stacks then take the places of its weights: which of them are decayed
        depends on their shapes, and those of one network count."""
        found = self.tasks[0].configure_optimizers()
        self.networks = Networks(self.tasks)  # by now the weights lie on the device
        for group in found["optimizer"].param_groups:
            group["params"] = [self.networks.of[id(weight)] for weight in group["params"]]
        return found

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As torch's clip_grad_norm_, each network by its own norm."""
        if gradient_clip_val is None:
            return
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
        factors = (gradient_clip_val / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    # --- training ----------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        for task in self.tasks:
            task.on_train_start()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.networks.losses(batch[0], batch[1])
        return self.add(losses, batch[2]).sum()  # a network's weights are in its own loss alone

    def flush(self) -> None:
        """Has each task write its row; raises DivergedError where one's losses are not finite."""
        if not self.summed:
            return
        number = len(self.tasks)
        for place, task in enumerate(self.tasks):
            task.sums, task.summed = {name: value[place] for name, value in self.sums.items()}, self.summed
            task.recent = [
                ({name: value[place] for name, value in values.items()}, _share(ids, place, number))
                for values, ids in self.recent
            ]
            task.flush()
        self.sums, self.summed, self.recent = {}, 0, []

    # --- judging -----------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        for task in self.tasks:
            task.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        for task in self.tasks:
            task.on_validation_epoch_end()


def _share(ids: list[str], place: int, number: int) -> list[str]:
    size = len(ids) // number
    return ids[place * size : (place + 1) * size]
