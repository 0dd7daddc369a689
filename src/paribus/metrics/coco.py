"""COCO's protocol (Lin et al. 2014; cocodataset.org, detection evaluation), computed by faster-coco-eval."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np

from paribus.metrics.judged import Judged

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = ("", "_small", "_medium", "_large")
MOST = (1, 10, 100)  # detections of a class in an image


class Curves(NamedTuple):
    """Of each IoU, class and area of the objects; -1 where there is no such object.

    precision ``[IoU, recall, class, area]``: the largest at this or a larger recall, of at most 100 detections;
    scores: alike, the score at which this recall is reached; recall ``[IoU, class, area, most]``: the largest.
    """

    precision: np.ndarray
    scores: np.ndarray
    recall: np.ndarray


def curves(judged: Judged, classes: int, kind: Literal["bbox", "segm"] = "bbox") -> Curves:
    """By the overlap of boxes, or of masks."""
    found, truth, sizes = judged
    for labels in (found.labels, truth.labels):
        assert ((labels >= 0) & (labels < classes)).all(), f"labels must be in 0 .. {classes - 1}"
    if not len(sizes):
        precision = np.full((len(IOUS), len(RECALLS), classes, len(AREAS)), -1.0)
        return Curves(precision, precision, np.full((len(IOUS), classes, len(AREAS), len(MOST)), -1.0))
    from faster_coco_eval import COCO, COCOeval_faster

    images = [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes.tolist())]
    categories = [{"id": c, "name": str(c)} for c in range(classes)]

    def coco(side: Any, masks: list[bytes] | None, **more: list) -> Any:
        columns = {
            "id": range(1, len(side.labels) + 1),  # 0 would mean "not matched"
            "image_id": side.images.tolist(),
            "category_id": side.labels.tolist(),
            "bbox": np.concatenate([side.boxes[:, :2], side.boxes[:, 2:] - side.boxes[:, :2]], 1).tolist(),
            **more,
        }
        if kind == "segm":
            assert masks is not None
            shapes = sizes[side.images].tolist()
            columns["segmentation"] = [
                {"size": size, "counts": code} for size, code in zip(shapes, masks, strict=True)
            ]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return COCO({"images": images, "categories": categories, "annotations": rows}, print_function=_silent)

    if kind == "segm":
        area = _mask_areas(found.masks or [], sizes[found.images])
    else:
        area = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1)
    zeros = [0] * len(found.labels)
    with _uncollected():
        there = coco(truth, truth.masks, iscrowd=truth.crowd.astype(int).tolist(), area=truth.area.tolist())
        said = coco(found, found.masks, iscrowd=zeros, area=area.tolist(), score=found.scores.tolist())
        evaluation = COCOeval_faster(there, said, kind, print_function=_silent)
        evaluation.params.maxDets = list(MOST)
        evaluation.evaluate()
        evaluation.accumulate()
        made = evaluation.eval
    return Curves(made["precision"][..., -1], made["scores"][..., -1], made["recall"])


def values(curves: Curves) -> dict[str, float]:
    """The twelve numbers of COCO's table; NaN where it writes -1."""
    precision, _, recall = curves
    found = {
        "ap": mean(precision[..., 0]),
        "ap50": mean(precision[0, ..., 0]),
        "ap75": mean(precision[5, ..., 0]),
    }
    found |= {f"ap{area}": mean(precision[..., i]) for i, area in enumerate(AREAS) if area}
    found |= {f"ar{most}": mean(recall[:, :, 0, i]) for i, most in enumerate(MOST)}
    return found | {f"ar{area}": mean(recall[:, :, i, -1]) for i, area in enumerate(AREAS) if area}


def by_class(curves: Curves) -> dict[str, list[float]]:
    """The same of each class alone, for objects of all sizes."""
    precision, _, recall = curves
    return {
        "ap": [mean(p) for p in precision[..., 0].transpose(2, 0, 1)],
        "ap50": [mean(p) for p in precision[0, ..., 0].T],
        "ap75": [mean(p) for p in precision[5, ..., 0].T],
        "ar100": [mean(r) for r in recall[:, :, 0, -1].T],
    }


def mean(values: np.ndarray) -> float:
    """COCO's: over what is defined (above -1)."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _mask_areas(codes: list[bytes], shapes: np.ndarray) -> np.ndarray:
    from faster_coco_eval.core import mask as coco_masks

    masks = [{"size": size, "counts": code} for size, code in zip(shapes.tolist(), codes, strict=True)]
    return np.array(coco_masks.area(masks) if masks else [], float)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for garbage in cycles: a dict for each box sets it off again and again, and every time it
    goes through all that the process holds, a fifth to a third of the whole time.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _silent(*_: Any) -> None:
    """In place of the library's progress lines."""
