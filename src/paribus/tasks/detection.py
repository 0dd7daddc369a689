"""The task of finding objects."""

from typing import Any

from torch import Tensor

from paribus.tasks.base import Batch, Task


class Detection(Task):
    """Boxes with classes. The model knows its own losses, and has none outside training. Answers: per image
    ``boxes`` float ``[N, 4]`` in its pixels, ``scores``, ``labels``.
    """

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        images, targets, _ = batch
        return self.model(images, targets)

    def compare(self, answer: Any, targets: Any) -> dict[str, Tensor]:
        return {}
