"""A few samples of a judged split, with the answers: figures/<split>_examples.png, and to the logger."""

from collections.abc import Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from paribus.pictures import Example, save, sure
from paribus.sheets import sheet

SURE = 0.3  # boxes with a smaller score are not drawn


class Examples(Callback):
    """Keeps ``count`` samples of a validation or a test, and draws them when it ends.

    They lie evenly over what the first process judges: sets are often sorted by class or by place. Drawing takes about 0.1 s for labels, up to 1 s for
    boxes on large images.

    logger: is handed them too, if it has ``log_examples`` (see loggers.py). Judging itself has none,
        so that its numbers are not logged a second time.
    """

    def __init__(self, folder: str | Path, logger: Any = None, count: int = 8):
        self.folder, self.logger, self.count = Path(folder), logger, count
        self.kept: list[Example] = []
        self.seen, self.wanted = 0, set[int]()  # samples judged so far, and the places of those to keep

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer.datamodule.splits["val"], trainer)  # type: ignore[attr-defined]

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer.datamodule.splits["test"], trainer)  # type: ignore[attr-defined]

    def _begin(self, split: Sized, trainer: Trainer) -> None:
        mine = -(-len(split) // trainer.world_size)
        self.kept, self.seen = [], 0
        self.wanted = {i * mine // self.count for i in range(self.count)}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._keep(trainer, outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._keep(trainer, outputs, batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw("val", trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw("test", trainer)

    def _keep(self, trainer: Trainer, decisions: Any, batch: Any) -> None:
        rows = [row for row in range(len(batch[2])) if self.seen + row in self.wanted]
        self.seen += len(batch[2])
        if rows and trainer.is_global_zero:
            self.kept += taken(batch, decisions, trainer.datamodule, rows)  # type: ignore[attr-defined]

    def _draw(self, split: str, trainer: Trainer) -> None:
        if not self.kept:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        picture = sheet(self.kept, data.target, data.classes, data.reader.palette)
        save(picture, self.folder / "figures" / f"{split}_examples.png")
        if hasattr(self.logger, "log_examples"):
            self.logger.log_examples(split, self.kept, picture, data.target, data.classes)
        self.kept = []


def taken(batch: Any, decisions: Any, data: Any, rows: list[int]) -> list[Example]:
    """Some samples of a batch as it reached the model, and what the task decided on them."""
    images, targets, ids = batch
    shown = pixels(images[rows], data)
    return [
        Example(image, _truth(targets[row]), _answer(decisions[row], data.target), ids[row])
        for image, row in zip(shown, rows, strict=True)
    ]


def _truth(target: Any) -> Any:
    if isinstance(target, dict):
        return {key: value.cpu().numpy() for key, value in target.items()}
    return target.cpu().numpy()


def _answer(decision: Any, target: str) -> Any:
    if target == "boxes":
        found = {
            key: value.float() if value.is_floating_point() else value for key, value in decision.items()
        }
        return sure({key: value.cpu().numpy() for key, value in found.items()}, SURE)
    if target == "mask":
        return decision.cpu().numpy()
    return probabilities(decision, target).cpu().numpy()


def probabilities(logits: torch.Tensor, target: str) -> torch.Tensor:
    """Of the classes, the last axis: they sum to one for ``label``, each stands alone for ``labels``."""
    return logits.float().softmax(-1) if target == "label" else logits.float().sigmoid()


def pixels(images: torch.Tensor, data: Any) -> np.ndarray:
    """Normalized ``[B, C, H, W]`` -> uint8 RGB ``[B, H, W, 3]``: what ``data.normalize`` was given, grey
    where the model sees one channel."""
    images = images.detach().float().cpu() / data.scale.cpu() + data.mean.cpu()
    shown = images.round().clamp(0, 255).byte().expand(-1, 3, -1, -1)
    return np.ascontiguousarray(shown.permute(0, 2, 3, 1).numpy())
