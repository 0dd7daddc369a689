"""COCO's metrics of boxes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus.metrics.base import CollectingMetric


class DetectionMetrics(CollectingMetric):
    """Boxes: ``ap``, ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``, ``ap_large``, ``ar100``.

    The official COCO protocol (Lin et al. 2014; cocodataset.org, detection evaluation), at most 100
    detections an image, computed by faster-coco-eval; equal to pycocotools. Small is below 32 x 32
    pixels, large above 96 x 96, by the target's ``area`` where it has one, else by the box's. Where COCO
    writes -1, for a class or a size without an object, this is NaN.
    """

    detections: list[Tensor]
    objects: list[Tensor]

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self.add_state("detections", [], None)  # a table an image, with the columns of _table
        self.add_state("objects", [], None)

    def update(self, prediction: Sequence[dict[str, Tensor]], target: Sequence[dict[str, Tensor]]) -> None:
        """One dict an image: ``boxes`` float ``[N, 4]`` (x1, y1, x2, y2, pixels) and ``labels`` int64 ``[N]``
        from 0; in prediction ``scores`` float ``[N]``, in target optionally ``iscrowd`` and ``area`` ``[N]``.
        """
        assert len(prediction) == len(target), f"{len(prediction)} predictions for {len(target)} images"
        self.detections += [_table(image) for image in prediction]
        self.objects += [_table(image) for image in target]

    def compute(self) -> dict[str, float]:
        precision, recall = _coco_evaluate(self.detections, self.objects, len(self.classes))
        everything, small, medium, large = range(4)
        half, three_quarters = 0, 5  # of the thresholds 0.5, 0.55, ..., 0.95
        truth = _rows(self.objects)
        counts = np.bincount(truth[truth[:, 6] == 0, 4].astype(int), minlength=len(self.classes))
        self._columns = {
            "ap": [_mean(p) for p in precision[..., everything].transpose(2, 0, 1)],
            "ap50": [_mean(p) for p in precision[half, ..., everything].T],
            "objects": counts.tolist(),  # without crowds
        }
        return {
            "ap": _mean(precision[..., everything]),
            "ap50": _mean(precision[half, ..., everything]),
            "ap75": _mean(precision[three_quarters, ..., everything]),
            "ap_small": _mean(precision[..., small]),
            "ap_medium": _mean(precision[..., medium]),
            "ap_large": _mean(precision[..., large]),
            "ar100": _mean(recall[..., everything]),
        }


def _table(image: dict[str, Tensor]) -> Tensor:
    """float32 ``[N, 8]``: x1, y1, x2, y2, label, score, iscrowd, area (NaN: that of the box)."""
    boxes = image["boxes"].reshape(-1, 4).float()
    nothing = {"scores": 0.0, "iscrowd": 0.0, "area": torch.nan}
    columns = [image.get(key, torch.full_like(boxes[:, 0], value)).float() for key, value in nothing.items()]
    return torch.cat([boxes, torch.stack([image["labels"].float(), *columns], dim=1)], dim=1)


def _rows(images: list[Tensor]) -> np.ndarray:
    """float64 ``[N, 8]``, all images' tables as one; one transfer from the device."""
    return torch.cat(images).cpu().double().numpy() if images else np.zeros((0, 8))


def _mean(values: np.ndarray) -> float:
    """COCO's mean: over what is defined (above -1)."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _coco_evaluate(
    detections: list[Tensor], objects: list[Tensor], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Precision ``[threshold, recall, class, area]`` and recall ``[threshold, class, area]``; -1: none."""
    if not objects:
        return np.full((10, 101, classes, 4), -1.0), np.full((10, classes, 4), -1.0)
    from faster_coco_eval import COCO, COCOeval_faster

    def coco(images: list[Tensor]) -> Any:
        rows = _rows(images)
        labels, size = rows[:, 4].astype(int), rows[:, 2:4] - rows[:, :2]
        assert ((labels >= 0) & (labels < classes)).all(), f"labels must be in 0 .. {classes - 1}"
        columns = {
            "id": range(1, len(rows) + 1),  # 0 would mean "not matched"
            "image_id": np.repeat(np.arange(len(images)), [len(image) for image in images]).tolist(),
            "category_id": labels.tolist(),
            "bbox": np.concatenate([rows[:, :2], size], axis=1).tolist(),
            "score": rows[:, 5].tolist(),
            "iscrowd": rows[:, 6].astype(int).tolist(),
            "area": np.where(np.isnan(rows[:, 7]), size.prod(1), rows[:, 7]).tolist(),
        }
        dataset = {
            "images": [{"id": i} for i in range(len(images))],
            "categories": [{"id": c, "name": str(c)} for c in range(classes)],
            "annotations": [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ],
        }
        return COCO(dataset, print_function=_silent)

    evaluation = COCOeval_faster(coco(objects), coco(detections), "bbox", print_function=_silent)
    evaluation.params.maxDets = [100]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0]


def _silent(*_: Any) -> None:
    """In place of the library's progress lines."""
