"""What happens around training, through Lightning's callbacks."""

import time
from collections.abc import Callable
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor

from paribus.config import TrainConfig
from paribus.parallel import local, shared_as, whole

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
            averages, weights = [local(t) for t in averages], [local(t) for t in weights]
            if not averages[0].is_floating_point():  # counters of batch norm
                torch._foreach_copy_(averages, weights)
                return
            kept = ((1 + updates) / (10 + updates)).clamp(max=decay)  # stays on the device
            torch._foreach_mul_(averages, kept.to(averages[0].dtype))
            torch._foreach_add_(averages, torch._foreach_mul(weights, (1 - kept).to(averages[0].dtype)))

        super().__init__(multi_avg_fn=update)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        shared_as(pl_module, self._average_model.module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["state_dict"] = whole(checkpoint["state_dict"])


class Checkpoint(ModelCheckpoint):
    """Lightning's, but for six things, without which an interrupted run would not end as an undisturbed one.

    On an exception it keeps last.ckpt alone: Lightning writes the weights of that moment over best.ckpt too. And it
    does so between two steps alone: in the middle of one, batch statistics and gradients have moved that a resumed
    run would move again. It keeps nothing between the last batch of an epoch and the end of its validation: a run
    resumed from there would go on with the next epoch, and never judge this one. And it keeps last.ckpt after every
    validation, where Lightning does so only after one that was the best so far. A resumed run knows what it was resumed
    from: Lightning's would keep it again after the first of a step's several batches, and so half a step. And where
    steps come after the last validation, last.ckpt is kept at the end of the training too: who is killed while the run
    is judged would train them again.

    The best one has to be kept with ``save_on_train_epoch_end=False``, at the end of the validation too: Lightning's
    default is the end of the epoch, and by then this step counts as kept.
    """

    last_step = -1  # of last.ckpt

    @cached_property
    def state_key(self) -> str:  # Lightning asks 8 times a step, and makes it anew each time
        return super().state_key

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # What is no signal has happened to this process alone, and the others would not come to keep it.
        if trainer.world_size > 1 and isinstance(exception, Exception):
            return
        ready = not trainer.validating and not _between(trainer) and _whole_step(trainer)
        if ready and self._should_save_on_exception(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        begun = trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches
        if not begun and not _between(trainer):
            super().on_train_batch_end(trainer, pl_module, *batch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.last_step != trainer.global_step:
            super()._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        trainer.strategy.checkpoint_io.wait()  # type: ignore[attr-defined]  # what is kept is read next,
        trainer.strategy.barrier()  # by every process

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        # The last step waits for the end of the training: a run resumed from here would not come there any more.
        if trainer.global_step != trainer.max_steps:
            super()._save_last_checkpoint(trainer, monitor_candidates)
            self.last_step = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Without the name of last.ckpt, which is always the same: whether it was there says nothing of the training."""
        return super().state_dict() | {"last_model_path": ""}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.ckpt_path and Path(trainer.ckpt_path).name == "last.ckpt":
            self._last_global_step_saved = self.last_step = checkpoint["global_step"]


def keeping(
    config: TrainConfig, folder: Path, make: Callable[..., Checkpoint] = Checkpoint
) -> list[Checkpoint]:
    """What keeps the checkpoints of a run folder; that of the best one comes first."""
    t = config.trainer
    kept: Any = {"dirpath": folder / "checkpoints", "enable_version_counter": False}
    best = make(
        **kept,
        filename="best",
        monitor=config.task["monitor"],
        mode=config.task["mode"],
        save_last=True,
        save_on_exception=t.strategy != "fsdp",  # of which every process has to be there
        save_on_train_epoch_end=False,
    )
    every = t.checkpoint_every
    return [best, *([make(**kept, filename="last", every_n_train_steps=every)] if every else [])]


class Patience(EarlyStopping):
    """Lightning's EarlyStopping, but for two things, without which a resumed run would not end as an undisturbed one.

    It looks at the end of the validation, so that the checkpoint that is kept there knows what it saw: at the end of
    the epoch a run that was resumed in between has no metric to look at. And one that had stopped stays stopped.
    """

    def __init__(self, *, monitor: str, mode: str, patience: int):
        super().__init__(monitor=monitor, mode=mode, patience=patience, check_on_train_epoch_end=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopped_epoch or self.wait_count >= self.patience:
            trainer.should_stop = True


def _between(trainer: Trainer) -> bool:
    """Whether the last batch of an epoch, or of the training, is done."""
    last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    return last or trainer.global_step == trainer.max_steps


def _whole_step(trainer: Trainer) -> bool:
    """Whether no batch is being worked on, nor a step of several batches."""
    batch: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return batch.ready == batch.completed and batch.completed % trainer.accumulate_grad_batches == 0


class Unprofiled(PassThroughProfiler):
    """Lightning enters and leaves its profiler 37 times a step. The one that measures nothing makes a generator each
    time, 35 us in all; this one does not.
    """

    def profile(self, action_name: str) -> Any:
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


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
    both. ``conclude`` comes before the task concludes the split, and its metric forgets; ``end`` after that. A batch
    without a sample, of a process without a share of the set, is passed over.
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
        if batch[2]:
            self.batch("val", trainer, pl_module, outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if batch[2]:
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
            wait(task.device)
            start = time.perf_counter()
            task.decided(batch)
            wait(task.device)
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


def wait(device: torch.device) -> None:
    """Until all that was asked of the device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
