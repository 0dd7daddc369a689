"""COCO's protocol (Lin et al. 2014; cocodataset.org, detection evaluation), computed by hotcoco where it is installed,
else by faster-coco-eval: both come to pycocotools' numbers."""

import os
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np

from paribus.garbage import uncollected
from paribus.metrics.judged import Found, Judged, Truth

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = ("", "_small", "_medium", "_large")
MOST = (1, 10, 100)  # detections of a class in an image
USED: dict[str, int] = {}  # hotcoco, by which process


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
    images = [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes.tolist())]
    categories = [{"id": c, "name": str(c)} for c in range(classes)]
    with uncollected():
        more = {"iscrowd": truth.crowd.astype(int).tolist(), "area": truth.area.tolist()}
        there = {
            "images": images,
            "categories": categories,
            "annotations": _rows(judged, truth, kind, **more),
        }
        made = (_by_hotcoco if _hotcoco() else _by_faster_coco_eval)(there, judged, kind)
    return Curves(made["precision"][..., -1], made["scores"][..., -1], made["recall"])


def _hotcoco() -> bool:
    """Whether hotcoco can be used, which comes to the same numbers in an eighth of the time: pip install -e .[hotcoco]

    Its threads begin with its first use. A fork has none of them, and would wait for them for ever.
    """
    return find_spec("hotcoco") is not None and USED.setdefault("by", os.getpid()) == os.getpid()


def _by_hotcoco(there: dict[str, list], judged: Judged, kind: str) -> dict[str, Any]:
    from hotcoco import COCO, COCOeval

    found, truth = judged.found, COCO(there)
    if kind == "segm":
        said = truth.load_res(_rows(judged, found, kind, score=found.scores.tolist()))
    else:
        said = truth.load_res(np.column_stack([found.images, _sides(found), found.scores, found.labels]))
    evaluation = COCOeval(truth, said, kind)
    evaluation.params.max_dets = list(MOST)
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval is not None
    return evaluation.eval


def _by_faster_coco_eval(there: dict[str, list], judged: Judged, kind: str) -> dict[str, Any]:
    from faster_coco_eval import COCO, COCOeval_faster

    found = judged.found
    if kind == "segm":
        area = _mask_areas(found.masks or [], judged.sizes[found.images])
    else:
        area = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1)
    more = {
        "iscrowd": [0] * len(found.labels),
        "area": area.tolist(),
        "score": found.scores.tolist(),
    }
    said = there | {"annotations": _rows(judged, found, kind, **more)}
    coco = (COCO(one, print_function=_silent) for one in (there, said))
    evaluation = COCOeval_faster(*coco, kind, print_function=_silent)
    evaluation.params.maxDets = list(MOST)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval


def _rows(judged: Judged, side: Found | Truth, kind: str, **more: list) -> list[dict[str, Any]]:
    """Annotations in COCO's format."""
    columns = {
        "id": range(1, len(side.labels) + 1),  # 0 would mean "not matched"
        "image_id": side.images.tolist(),
        "category_id": side.labels.tolist(),
        **more,
    }
    if kind == "bbox":
        columns["bbox"] = _sides(side).tolist()
    else:  # and no boxes, whose areas would count
        assert side.masks is not None
        shapes = judged.sizes[side.images].tolist()
        columns["segmentation"] = [
            {"size": size, "counts": code} for size, code in zip(shapes, side.masks, strict=True)
        ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _sides(side: Found | Truth) -> np.ndarray:
    """Boxes as x, y, width, height."""
    return np.concatenate([side.boxes[:, :2], side.boxes[:, 2:] - side.boxes[:, :2]], 1)


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


def _silent(*_: Any) -> None:
    """In place of the library's progress lines."""
