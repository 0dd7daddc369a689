"""The task of naming every pixel without a gradient: the model is fitted to a sample of the training set."""

import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from paribus.callbacks import EMA
from paribus.tasks.base import Batch
from paribus.tasks.segmentation import Segmentation


class Clustering(Segmentation):
    """Answers and numbers are those of Segmentation; a training step draws pixels, and an epoch ends in a fit.

    model: has `draw(images, targets) -> Tensor [N, ...]` and `fit(drawn, seed)`; see models.segmentation.clustering.
    optimizer, scheduler: not used.
    boundary_f1: contours are judged too.

    Raises ValueError for a model that is trained by gradients, and for trainer keys that mean such training.
    """

    def __init__(
        self,
        *,
        target: str,
        monitor: str,
        mode: Literal["max", "min"],
        model: Any,
        metrics: Any,
        optimizer: Any,
        scheduler: Any,
        boundary_f1: bool = False,
        log_every: int = 50,
        seed: int = 0,
    ):
        if not hasattr(model, "fit"):
            raise ValueError(
                f"task=clustering is for a model that is fitted without a gradient (model=clustering), and "
                f"{type(model).__name__} is trained: task=segmentation"
            )
        super().__init__(
            target=target,
            monitor=monitor,
            mode=mode,
            model=model,
            metrics=metrics,
            optimizer=optimizer,
            scheduler=scheduler,
            boundary_f1=boundary_f1,
            log_every=log_every,
            seed=seed,
        )
        self.model: Any
        self.drawn: list[Tensor] = []

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.trainer.world_size > 1:
            raise ValueError("task=clustering is fitted in one process, in seconds: trainer.devices=1")
        if any(isinstance(callback, EMA) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "trainer.ema averages the steps of a training, and task=clustering has none: null"
            )

    def configure_optimizers(self) -> None:
        # Lightning warns of a fit without an optimizer and of a step without a loss; both are meant.
        for message in (".*this fit will run with no optimizer", ".*training_step. returned .None."):
            warnings.filterwarnings("ignore", message=message)

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        images, targets, _ = batch
        self.drawn.append(self.model.draw(images, targets))

    def on_validation_start(self) -> None:
        self._fit()

    def on_train_epoch_end(self) -> None:
        self._fit()  # where no validation came: trainer.max_steps, trainer.validate_every

    def _fit(self) -> None:
        if self.drawn:
            self.model.fit(torch.cat(self.drawn), self.seed)
            self.drawn = []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["drawn"] = self.drawn

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.drawn = checkpoint["drawn"]
