"""The task of naming every pixel."""

from typing import Any

from torch import Tensor

from paribus.losses import cross_entropy
from paribus.tasks.base import Task


class Segmentation(Task):
    """A class for every pixel. Answers: logits ``[B, classes, H, W]``, at the images' size."""

    def __init__(self, *, label_smoothing: float = 0.0, **task: Any):
        super().__init__(**task)
        self.label_smoothing = label_smoothing

    def compare(self, answer: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": cross_entropy(answer, targets, smoothing=self.label_smoothing)}

    def decide(self, answer: Tensor) -> Tensor:
        """Classes int64 ``[B, H, W]``."""
        return answer.argmax(1)
