"""What happens around training, through Lightning's callbacks."""

import sys
import time
from itertools import zip_longest
from statistics import median
from typing import Any, TypeVar

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor

T = TypeVar("T")


class EMA(WeightAveraging):
    """A moving average of the weights, which is what is judged and kept as the best checkpoint.

    Lightning's EMAWeightAveraging lacks the warm-up: with a fixed decay of 0.999 the average of a short
    run is mostly its initial weights. Here the decay at the t-th update is min(decay, (1 + t) / (10 + t)),
    as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, decay: float):
        @torch.no_grad()
        def update(averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
            """Called with tensors of one device and type at a time."""
            if not averages[0].is_floating_point():  # counters of batch norm
                torch._foreach_copy_(averages, weights)
                return
            kept = ((1 + updates) / (10 + updates)).clamp(max=decay)  # stays on the device
            torch._foreach_mul_(averages, kept.to(averages[0].dtype))
            torch._foreach_add_(averages, torch._foreach_mul(weights, (1 - kept).to(averages[0].dtype)))

        super().__init__(multi_avg_fn=update)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None


class Checkpoint(ModelCheckpoint):
    """Lightning's, but for four things, without which an interrupted run would not end as an undisturbed one.

    On an exception it keeps last.ckpt alone: Lightning writes the weights of that moment over best.ckpt too. And it
    does so between two steps alone: in the middle of one, batch statistics and gradients have moved that a resumed
    run would move again. It keeps nothing between the last batch of an epoch and the end of its validation: a run
    resumed from there would go on with the next epoch, and never judge this one. And it keeps last.ckpt after every
    validation, where Lightning does so only after one that was the best so far.

    The best one has to be kept with ``save_on_train_epoch_end=False``, at the end of the validation too: Lightning's
    default is the end of the epoch, and by then this step counts as kept.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        ready = not trainer.validating and not _between(trainer) and _whole_step(trainer)
        if ready and self._should_save_on_exception(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        if not _between(trainer):
            super().on_train_batch_end(trainer, pl_module, *batch)


def _between(trainer: Trainer) -> bool:
    """Whether the last batch of an epoch is done."""
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def _whole_step(trainer: Trainer) -> bool:
    """Whether no batch is being worked on, nor a step of several batches."""
    batch: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return batch.ready == batch.completed and batch.completed % trainer.accumulate_grad_batches == 0


class Speed(Callback):
    """Seconds of training, validation left out, and the images seen in them, of all processes."""

    def __init__(self) -> None:
        self.images, self.seconds, self.since = 0, 0.0, 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.images += len(batch[2]) * trainer.world_size

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.since:
            self.seconds += time.perf_counter() - self.since
            self.since = 0.0


class Judging(Callback):
    """What happens while a split is judged, val and test alike: Lightning has a method for each, a subclass one for
    both. ``conclude`` comes before the task concludes the split, and its metric forgets; ``end`` after that.
    """

    def begin(self, split: str, trainer: Trainer, task: Any) -> None: ...
    def batch(self, split: str, trainer: Trainer, task: Any, decisions: Any, batch: Any) -> None: ...
    def conclude(self, split: str, trainer: Trainer, task: Any) -> None: ...
    def end(self, split: str, trainer: Trainer, task: Any) -> None: ...

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begin("val", trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begin("test", trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.batch("val", trainer, pl_module, outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.batch("test", trainer, pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.conclude("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.conclude("test", trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end("val", trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end("test", trainer, pl_module)


def gathered(mine: list[T]) -> list[T]:
    """An entry an image of all processes, in the order of the set: process r of n has seen r, r + n, ... Every process
    has to ask."""
    if not torch.distributed.is_initialized():
        return mine
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return [one for row in zip_longest(*parts) for one in row if one is not None]


class JudgingSpeed(Judging):
    """Images a second of what it costs to apply the model: the forward pass and the selection of what is answered,
    without reading, losses and metrics, of all processes.

    Every batch that was just judged, and so is warm, is answered once more between two waits for the device, until
    that took ``seconds``; the median of the full batches counts, as others may use the machine too. Proposals that
    come with the data are not searched again: what that takes is not in here.

    split: val or test.
    """

    def __init__(self, split: str, seconds: float = 3.0):
        self.split, self.seconds = split, seconds
        self.times: list[tuple[int, float]] = []  # (images, seconds) of each batch
        self.images_per_second: float | None = None

    def batch(self, split: str, trainer: Trainer, task: Any, decisions: Any, batch: Any) -> None:
        if split != self.split or sum(seconds for _, seconds in self.times) > self.seconds:
            return
        with trainer.precision_plugin.forward_context():
            _wait(task.device)
            start = time.perf_counter()
            task.decided(batch)
            _wait(task.device)
        self.times.append((len(batch[2]), time.perf_counter() - start))

    def end(self, split: str, trainer: Trainer, task: Any) -> None:
        if split != self.split:
            return
        full = max((images for images, _ in self.times), default=0)
        rates = [images / seconds for images, seconds in self.times if images == full]
        rate = torch.tensor(median(rates) if rates else 0.0, device=task.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(rate)
        self.images_per_second = float(rate) or None


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class Progress(Callback):
    """Epoch, batch, rate and the monitored metric: a bar on a terminal, a line an epoch elsewhere.

    Moved at most five times a second and never waiting for the device, unlike Lightning's bars, which
    cost 0.3 ms a step. ``brief`` leaves the epochs' lines out, for runs of a sweep.
    """

    def __init__(self, label: str, monitor: str, brief: bool):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(file=sys.stdout)
        self.monitor, self.brief = monitor, brief
        self.label = label if len(label) <= 40 else f"…{label[-39:]}"  # room for the bar
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
            refresh_per_second=5,
        )
        self.state, self.began = "", 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
        done = trainer.global_step * trainer.accumulate_grad_batches
        self.task = self.bar.add_task(self.label, total=total, completed=done, state=self.state)
        self.bar.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.advance(self.task)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not hasattr(self, "task"):
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            return
        epochs = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self.state = f"{epochs}  {self.monitor} {value:.4f}"
        self.bar.update(self.task, state=self.state)
        if not self.brief:
            self.console.print(f"{self.state}  {time.perf_counter() - self.began:.1f} s", highlight=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.bar.stop()
