"""What a training shows on the terminal."""

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer


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
