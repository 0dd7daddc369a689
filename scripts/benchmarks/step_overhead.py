"""What a training step costs beside its arithmetic: Paribus, an idiomatic LightningModule, a plain PyTorch loop.

    OMP_NUM_THREADS=1 python scripts/benchmarks/step_overhead.py [--quick]

All train the same network from the same weights on the same uint8 batches in memory, with the same normalization,
fused AdamW and rate; the weights they end with and the numbers logged are held to be equal. Paribus is built by its
own build() and make_trainer() at its default logging (loss and rate every 50 steps). The idiomatic module logs the
same through self.log and LearningRateMonitor into a CSVLogger, with Lightning's default bar and checkpoints. A second
pair logs accuracy, precision, recall and F1 of the training batches besides: the module by torchmetrics' forward and
log_dict; Paribus, whose tasks do not measure training batches, by a task that puts them through its own metric.
Seconds are the processor's, of one thread.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import copy
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import measure
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from ours import Batch, Fed, composed, fit, parts_of
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from paribus.build import Parts
from paribus.config import TrainConfig
from paribus.metrics.base import ConfusionMetric
from paribus.optimizers import parameter_groups
from paribus.tasks import Classification

CLASSES = 10
TINY = ["backbone=mlp", "backbone.width=64", "backbone.depth=1", "data.size=[16,16]"]  # 768 - 64 - 10
REAL = ["backbone=resnet18", "data.size=[64,64]"]
COMMON = ["data.batch_size=32", "data.reader.lengths={train: 64, val: 32, test: 32}", "trainer.max_epochs=1"]
WARM = 10  # steps that do not count


class Confusion(ConfusionMetric):
    """What accuracy, precision, recall and F1 need, and no more."""

    def update(self, logits: Tensor, target: Tensor) -> None:
        self._count(logits.argmax(1), target)

    def compute(self) -> None:
        self._sums()


class Watched(Classification):
    """The same task, with the metrics of what it trains on in its rows."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.watch = Confusion([str(i) for i in range(CLASSES)], rows=CLASSES)
        self.epoch = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)

    def compare(self, answer: Tensor, targets: Tensor) -> dict[str, Tensor]:
        if self.training:
            self.watch.update(answer.detach(), targets)
        return super().compare(answer, targets)

    def _write(self, row: dict[str, float]) -> None:
        if "train/loss" in row:
            self.epoch += (found := self.watch.confusion)
            row |= {f"train/{name}": value for name, value in macro(found).items()}
            self.watch.reset()
        super()._write(row)


def macro(confusion: Tensor) -> dict[str, float]:
    """Means over the classes, as torchmetrics has them where every class occurs."""
    hits, truth, predicted = confusion.diagonal().double(), confusion.sum(1), confusion.sum(0)
    recall, precision = hits / truth.clamp(min=1), hits / predicted.clamp(min=1)
    f1 = 2 * hits / (truth + predicted).clamp(min=1)
    rows = {"accuracy": hits.sum() / confusion.sum(), "precision": precision.mean(), "recall": recall.mean()}
    return {name: float(value) for name, value in (rows | {"f1": f1.mean()}).items()}


class Idiomatic(LightningModule):
    """As Lightning's and torchmetrics' documentation write it."""

    def __init__(self, model: nn.Module, normalize: Callable, optimizer: Callable, watched: bool):
        super().__init__()
        self.model, self.normalize, self.optimizer = model, normalize, optimizer
        self.measured = None
        if watched:
            self.measured = MetricCollection(
                {
                    "accuracy": MulticlassAccuracy(CLASSES, average="micro"),
                    "precision": MulticlassPrecision(CLASSES),
                    "recall": MulticlassRecall(CLASSES),
                    "f1": MulticlassF1Score(CLASSES),
                },
                prefix="train/",
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets, _ = batch
        logits = self.model(self.normalize(images))
        loss = F.cross_entropy(logits, targets)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        if self.measured is not None:
            self.measured(logits, targets)
            self.log_dict(self.measured, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets, _ = batch
        self.log("val/loss", F.cross_entropy(self.model(self.normalize(images)), targets))

    def configure_optimizers(self) -> Any:
        optimizer, schedule = self.optimizer(self.model)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def optimizer_of(parts: Parts, steps: int) -> Callable[[nn.Module], tuple[Any, Any]]:
    """Makes the optimizer and the schedule that the task makes: weights decayed or not in one group each."""

    def make(model: nn.Module) -> tuple[Any, Any]:
        settings = parts.task.make_optimizer.keywords
        groups = parameter_groups(model, lr=settings["lr"], weight_decay=settings["weight_decay"])
        optimizer = torch.optim.AdamW(groups, **settings)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: parts.task.scheduler(s, steps)
        )

    return make


def plain_step(model: nn.Module, normalize: Callable, make: Callable) -> Callable[[Batch], Tensor]:
    optimizer, schedule = make(model)
    model.train()

    def step(batch: Batch) -> Tensor:
        loss = F.cross_entropy(model(normalize(batch[0])), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss

    return step


class Ways:
    """The three ways to train the network of a config on the same batches; each returns the seconds of a step."""

    def __init__(self, overrides: list[str], steps: int):
        self.config: TrainConfig = composed(*overrides, *COMMON)
        self.parts = parts_of(self.config)
        generator = torch.Generator().manual_seed(0)
        size = self.parts.data.size
        self.batches = [
            (
                torch.randint(256, (32, 3, *size), dtype=torch.uint8, generator=generator),
                torch.randint(CLASSES, (32,), generator=generator),
                [str(i) for i in range(32)],
            )
            for _ in range(min(steps, 50))
        ]
        self.steps = steps
        self.train = [self.batches[i % len(self.batches)] for i in range(steps)]
        self.make = optimizer_of(self.parts, steps)
        self.models: dict[str, nn.Module] = {}  # as they were last trained
        self.rows: list[dict[str, float]] = []

        self.fresh = lambda: copy.deepcopy(self.parts.task.model)

    def plain(self) -> float:
        self.models["plain"] = model = self.fresh()
        step = plain_step(model, self.parts.data.normalize, self.make)
        fed = Fed(self.train, WARM)
        with patch.dict(os.environ):
            # Lightning sets it as it is imported, and then each optimizer step looks for NVIDIA's library: 0.06 ms
            # without one, which a plain loop does not pay.
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
            for batch in fed:
                step(batch)
        return fed.seconds

    def ours(self, watched: bool = False, at: Callable[[int], None] = lambda number: None) -> float:
        parts = self.parts._replace(task=copy.deepcopy(self.parts.task))
        if watched:
            parts.task.__class__ = Watched
        rows = self.rows = []
        fed = Fed(self.train, WARM, at=at)
        fit(self.config, parts, fed, lambda row: rows.append(dict(row)))
        self.models["ours"] = parts.task.model
        self.task = parts.task
        return fed.seconds

    def idiomatic(self, watched: bool = False) -> float:
        module = Idiomatic(self.fresh(), self.parts.data.normalize, self.make, watched)
        fed = Fed(self.train, WARM)
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            trainer = Trainer(
                max_epochs=1,
                accelerator="cpu",
                logger=CSVLogger(folder),
                callbacks=[LearningRateMonitor("step")],
                num_sanity_val_steps=0,
            )
            trainer.fit(module, fed, Fed(self.batches[:1]))
            self.found = dict(trainer.callback_metrics)
        self.models["idiomatic"] = module.model
        return fed.seconds

    def held_equal(self) -> None:
        """The weights at the end are the same, and what is logged says the same."""
        self.plain()
        for watched in (False, True):
            self.ours(watched), self.idiomatic(watched)
            for name in ("ours", "idiomatic"):
                for a, b in zip(
                    self.models[name].parameters(), self.models["plain"].parameters(), strict=True
                ):
                    torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=f"{name}: other weights")
            rows = [row for row in self.rows if "train/loss" in row]
            counts = [50] * (self.steps // 50) + [self.steps % 50] * (self.steps % 50 > 0)
            mean = sum(row["train/loss"] * n for row, n in zip(rows, counts, strict=True)) / self.steps
            assert abs(mean - float(self.found["train/loss_epoch"])) < 1e-5, "another mean loss"
        for name, value in macro(self.task.epoch).items():
            theirs = float(self.found[f"train/{name}_epoch"])
            assert abs(value - theirs) < 1e-5, f"another {name}: {value} and {theirs}"


def tiny(quick: bool) -> None:
    ways = Ways(TINY, 60 if quick else 300)
    ways.held_equal()
    found = measure.in_turn(
        {
            "plain loop": ways.plain,
            "Paribus": ways.ours,
            "idiomatic, loss": ways.idiomatic,
            "Paribus, loss and four metrics": partial(ways.ours, True),
            "idiomatic, loss and four metrics": partial(ways.idiomatic, True),
        },
        1 if quick else 5,
    )
    measure.table(found, "us a step of a tiny network", 1e6)
    plain, own, logged, watched, both = found.values()
    over = statistics.median(1e3 * (a - b) for a, b in zip(own, plain, strict=True))
    times = statistics.median((a - c) / (b - c) for a, b, c in zip(logged, own, plain, strict=True))
    left = "what is left is Lightning's own loop, whose step enters and leaves 40 hooks"
    measure.claim("step of a tiny network, ms over", "a plain loop", over, "<=0.45", not quick, left)
    measure.claim("overhead of a step, loss logged", "idiomatic Lightning", times, ">=1", not quick)
    measure.claim(
        "step, loss and four metrics logged",
        "idiomatic Lightning",
        measure.ratio(both, watched),
        ">=5",
        not quick,
        left,
    )


def real(quick: bool) -> None:
    """Step by step in turn: between two steps of Paribus, when it asks for a batch, the plain loop makes one."""
    ways = Ways(REAL, 3 if quick else 25)
    step = plain_step(model := ways.fresh(), ways.parts.data.normalize, ways.make)
    plain, own, asked = [], [], []

    def between(number: int) -> None:
        if asked:
            own.append(time.process_time() - asked[-1])
        start = time.process_time()
        step(ways.train[number])
        plain.append(time.process_time() - start)
        asked.append(time.process_time())

    ways.ours(at=between)
    for a, b in zip(ways.models["ours"].parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg="other weights")
    # Of the plain loop's steps those beside which one of Paribus lies on both sides; the first ones allocate.
    skipped = 0 if quick else 5
    plain, own = plain[skipped : len(own)], own[skipped:]
    measure.table({"plain loop": plain, "Paribus": own}, "ms a step of ResNet-18", 1e3)
    measure.claim(
        "step of ResNet-18, 64 px, batch 32", "a plain loop", measure.ratio(own, plain), "<=1.02", not quick
    )


if __name__ == "__main__":
    hurried = measure.quick(__doc__)
    torch.set_num_threads(1)
    tiny(hurried)
    real(hurried)
    measure.end()
