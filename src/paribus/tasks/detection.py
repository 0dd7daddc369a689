"""The task of finding objects."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus.metrics import recalls
from paribus.tasks.base import Batch, Task

Boxes = list[dict[str, Tensor]]  # of each image
# What is found, of each image the losses, and of all how much of the objects the proposals cover.
Answer = tuple[Boxes, list[dict[str, Tensor]], dict[str, tuple[Tensor, int]]]


class Detection(Task):
    """Boxes with classes, by a model that knows its own losses: see models/detection/detector.py. Answers: for each
    image ``boxes`` float ``[N, 4]`` in its pixels, ``scores``, ``labels``; and beside them its losses.

    Objects marked as crowds are not learned, and are judged as COCO's protocol says. Of a set that is judged,
    ``loss`` and its parts are the means over its images, each by itself; of a model with proposals it is said too how
    many objects they cover, see metrics/proposal_recall.py.
    """

    def predict(self, images: Tensor, proposals: list[Tensor] | None = None) -> Answer:
        return self.model(images, None, proposals), [], {}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        images, targets, _ = batch
        return self.model(images, [_learned(t) for t in targets], _proposals(targets))

    def answers(self, batch: Batch) -> Iterator[tuple[Any, Any]]:
        """What is found in the file's pixels, with the objects as the file has them, where these came along."""
        images, targets, _ = batch
        learned = [_learned(t) for t in targets]
        found, losses = self.model.judged(images, learned, _proposals(targets))  # type: ignore[operator]
        proposals = [one.pop("proposals", None) for one in found]
        covered = {} if proposals[0] is None else recalls(proposals, learned)
        if "judged" in targets[0]:
            targets = [t["judged"] for t in targets]
            found = restored(found, targets, self.trainer.datamodule.eval_transform)  # type: ignore[attr-defined]
        yield (found, losses, covered), targets

    def decided(self, batch: Batch) -> Boxes:
        images, targets, _ = batch
        return self.decide(self.predict(images, _proposals(targets)))

    def compare(self, answer: Any, targets: Any) -> dict[str, Tensor]:
        _, losses, _ = answer
        if not losses:
            return {}
        parts = {name: torch.stack([one[name] for one in losses]).mean() for name in losses[0]}
        whole = {"loss": torch.stack(list(parts.values())).sum()}
        return whole | parts if len(parts) > 1 else whole

    def measured(self, answer: Any, targets: Any) -> dict[str, tuple[Tensor, int]]:
        return super().measured(answer, targets) | answer[2]

    def decide(self, answer: Any) -> Boxes:
        return answer[0]


def restored(found: Boxes, targets: list[dict[str, Any]], transform: Any) -> Boxes:
    """What was found on fitted images as it lies on the originals, of which targets tell the ``size``. On the device,
    without waiting for it.
    """
    sizes = [(int(t["size"][0]), int(t["size"][1])) for t in targets]
    steps = torch.from_numpy(np.stack([transform.restoring(size) for size in sizes]))
    originals = []
    for one, size, (offset, scale, border) in zip(
        found, sizes, steps.to(found[0]["boxes"].device, non_blocking=True), strict=True
    ):
        boxes = ((one["boxes"].float() + offset) * scale).clamp(min=0)
        original = one | {"boxes": torch.minimum(boxes, border)}
        if "masks" in one:
            original["masks"] = transform.restore_masks(one["masks"], size)
        originals.append(original)
    return originals


def _learned(target: dict[str, Any]) -> dict[str, Tensor]:
    """Without the objects that stand for many."""
    objects = {key: value for key, value in target.items() if key not in ("proposals", "judged")}
    crowd = objects.get("iscrowd")
    return objects if crowd is None else {key: value[crowd == 0] for key, value in objects.items()}


def _proposals(targets: Boxes) -> list[Tensor] | None:
    """Those that came with the data."""
    return [t["proposals"] for t in targets] if targets and "proposals" in targets[0] else None
