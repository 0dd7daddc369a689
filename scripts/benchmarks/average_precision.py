"""COCO's AP of 500 images with 100 detections each: Paribus, torchmetrics on either back end, and the libraries that
compute it themselves.

    OMP_NUM_THREADS=1 python scripts/benchmarks/average_precision.py [--quick]

Each takes the same tensors of an image after the other, as a validation gives them, and says COCO's twelve numbers;
Paribus says VOC's AP and the tables of the classes besides, which it is timed without, too, beside hotcoco: the fastest
that is installed, and what Paribus then uses. faster-coco-eval itself gets what it is fastest with: the truth as a list,
the detections as one array, made ready outside of the clock; hotcoco the same, made ready within it. Equal first: all twelve numbers to
pycocotools' to 1e-9, Paribus's and faster-coco-eval's; torchmetrics gets thresholds in float64, as its own float32
ones move AP by 6e-5. Seconds are the processor's, of one thread.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")  # hotcoco's

import contextlib
import io
import math
from typing import Any

import measure
import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from paribus.metrics import DetectionMetrics, coco
from paribus.metrics.judged import judged

NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
THEIRS = (
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
)
IOUS, RECALLS = np.linspace(0.5, 0.95, 10).tolist(), np.linspace(0, 1, 101).tolist()
Images = list[dict[str, Tensor]]


def drawn(images: int, detections: int, classes: int = 80) -> tuple[Images, Images]:
    """A fifth as many objects as detections; these lie beside them, a tenth of another class."""
    generator = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    found, truth = [], []
    for _ in range(images):
        objects = detections // 5
        corner, size = rand(objects, 2) * 500, 8 + rand(objects, 2) ** 2 * 140
        boxes, labels = (
            torch.cat([corner, corner + size], 1),
            torch.randint(classes, (objects,), generator=generator),
        )
        truth.append({"boxes": boxes, "labels": labels})
        moved = boxes.repeat(5, 1) + torch.randn(5 * objects, 4, generator=generator) * 0.12 * size.repeat(
            5, 2
        )
        moved = torch.cat([moved[:, :2], torch.maximum(moved[:, 2:], moved[:, :2] + 1)], 1)
        other = torch.randint(classes, (5 * objects,), generator=generator)
        given = torch.where(rand(5 * objects) < 0.9, labels.repeat(5), other)
        found.append({"boxes": moved, "labels": given, "scores": rand(5 * objects)})
    return found, truth


def ours(found: Images, truth: Images) -> list[float]:
    values = updated(found, truth).compute()
    return [values[name] for name in NAMES]


def ours_of_coco(found: Images, truth: Images) -> list[float]:
    """Without VOC's protocol, and the tables of the classes."""
    metric = updated(found, truth)
    whole = judged(metric.found, metric.truth, metric.sizes, metric.found_masks, metric.true_masks)
    values = coco.values(coco.curves(whole, 80))
    return [values[name] for name in NAMES]


def updated(found: Images, truth: Images) -> DetectionMetrics:
    metric = DetectionMetrics([str(i) for i in range(80)])
    for one, there in zip(found, truth, strict=True):
        metric.update([one], [there])
    return metric


def hotcoco(found: Images, truth: Images) -> list[float]:
    from hotcoco import COCO, COCOeval

    there = COCO(coco_truth(truth))
    evaluation = COCOeval(there, there.load_res(array(found)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()
    return list(map(float, evaluation.stats))


def torchmetrics(backend: str, found: Images, truth: Images) -> list[float]:
    metric = MeanAveragePrecision(backend=backend, iou_thresholds=IOUS, rec_thresholds=RECALLS)  # type: ignore[arg-type]
    for one, there in zip(found, truth, strict=True):
        metric.update([one], [there])
    with contextlib.redirect_stdout(io.StringIO()):
        values = metric.compute()
    return [float(values[name]) for name in THEIRS]


def coco_truth(truth: Images) -> dict[str, list[dict[str, Any]]]:
    boxes = [box for one in truth for box in _sides(one["boxes"]).tolist()]
    labels = [label for one in truth for label in one["labels"].tolist()]
    images = [i for i, one in enumerate(truth) for _ in one["labels"]]
    rows = [
        {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, (i, c, box) in enumerate(zip(images, labels, boxes, strict=True), 1)
    ]
    listed = [{"id": i, "height": 0, "width": 0} for i in range(len(truth))]
    return {
        "images": listed,
        "categories": [{"id": c, "name": str(c)} for c in range(80)],
        "annotations": rows,
    }


def array(found: Images) -> np.ndarray:
    """``[N, 7]``: image, x, y, width, height, score, class."""
    rows = [
        torch.cat(
            [
                torch.full((len(one["labels"]), 1), i, dtype=torch.float64),
                _sides(one["boxes"]),
                one["scores"].double()[:, None],
                one["labels"].double()[:, None],
            ],
            1,
        )
        for i, one in enumerate(found)
    ]
    return torch.cat(rows).numpy()


def _sides(boxes: Tensor) -> Tensor:
    boxes = boxes.double()
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def directly(said: np.ndarray, there: dict[str, list], with_pycocotools: bool = False) -> list[float]:
    if with_pycocotools:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = there
        truth.createIndex()
        evaluation = Evaluation(truth, truth.loadRes(said), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(map(float, evaluation.stats[:12]))


def equal(name: str, values: list[float], truth: list[float], tolerance: float) -> None:
    for what, a, b in zip(NAMES, values, truth, strict=True):
        same = abs(a - b) < tolerance or (math.isnan(a) and b == -1)
        assert same, f"{name}: {what} is {a}, pycocotools has {b}"


def main() -> None:
    quick = measure.quick(__doc__)
    torch.set_num_threads(1)
    found, truth = drawn(20, 20) if quick else drawn(500, 100)
    said, there = array(found), coco_truth(truth)
    reference = directly(said, there, with_pycocotools=True)
    equal("Paribus", ours(found, truth), reference, 1e-9)
    equal("Paribus, COCO's alone", ours_of_coco(found, truth), reference, 1e-9)
    equal("hotcoco", hotcoco(found, truth), reference, 1e-9)
    equal("faster-coco-eval", directly(said, there), reference, 1e-9)
    equal("torchmetrics", torchmetrics("faster_coco_eval", found, truth), reference, 1e-6)  # says float32
    measured = measure.in_turn(
        {
            "Paribus": measure.timed(lambda: ours(found, truth)),
            "torchmetrics, pycocotools": measure.timed(lambda: torchmetrics("pycocotools", found, truth)),
            "torchmetrics, faster-coco-eval": measure.timed(
                lambda: torchmetrics("faster_coco_eval", found, truth)
            ),
            "faster-coco-eval itself, arrays": measure.timed(lambda: directly(said, there)),
            "Paribus, COCO's alone": measure.timed(lambda: ours_of_coco(found, truth)),
            "hotcoco itself, arrays": measure.timed(lambda: hotcoco(found, truth)),
        },
        1 if quick else 5,
    )
    measure.table(measured, f"s for {len(found)} images")
    own, slow, fast, fastest, of_coco, rust = measured.values()
    what = f"AP, {len(found)} images x {len(found[0]['labels'])} detections"
    measure.claim(what, "torchmetrics with pycocotools", measure.ratio(slow, own), ">=5", not quick)
    measure.claim(what, "torchmetrics with faster-coco-eval", measure.ratio(fast, own), ">=0.95", not quick)
    measure.claim(what, "faster-coco-eval itself", measure.ratio(fastest, own), ">=0.95", not quick)
    measure.claim(
        f"{what}, COCO's alone", "hotcoco itself", measure.ratio(rust, of_coco), ">=0.95", not quick
    )


if __name__ == "__main__":
    main()
    measure.end()
