"""Made-up truth and detections of many kinds, and what pycocotools says of them."""

import contextlib
import io
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

COCO_NAMES = [
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
]
SIDE = 60  # of images with masks

Boxes = list[dict[str, Tensor]]


def detection_data(
    images: int,
    classes: int,
    seed: int,
    *,
    most: int = 12,
    absent: tuple[int, ...] = (),
    masks: bool = False,
    difficult: float = 0.0,
) -> tuple[Boxes, Boxes]:
    """Jittered boxes of all sizes, crowds, misses, duplicates, tied scores, images without either."""
    generator = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    predictions, targets = [], []
    for i in range(images):
        n = 0 if i % 7 == 3 else int(torch.randint(1, most, (), generator=generator))
        corner, size = rand(n, 2) * 400, 4 + rand(n, 2) ** 3 * 250
        if masks:
            corner, size = (corner / 10).round(), (4 + size / 12).round()
        boxes = torch.cat([corner, corner + size], 1)
        labels = torch.randint(classes, (n,), generator=generator)
        for c in absent:
            labels[labels == c] = (c + 1) % classes
        target = {"boxes": boxes, "labels": labels, "iscrowd": (rand(n) < 0.1).long()}
        if difficult:
            target["difficult"] = (rand(n) < difficult).long()
        if i % 2:
            target["area"] = size.prod(1) * (0.4 + 0.5 * rand(n))  # of the object, not of its box
        copies = 0 if i % 5 == 4 else 3
        noise = torch.randn(copies * n, 4, generator=generator)
        found = boxes.repeat(copies, 1) + noise * 0.08 * size.repeat(copies, 2)
        found = torch.cat([found[:, :2], torch.maximum(found[:, 2:], found[:, :2] + 1)], 1)
        given = torch.where(rand(len(found)) < 0.9, labels.repeat(copies), 0)
        prediction = {"boxes": found, "labels": given, "scores": (rand(len(found)) * 50).round() / 50}
        if masks:
            target["masks"], prediction["masks"] = filled(boxes, generator), filled(found, generator)
        predictions.append(prediction)
        targets.append(target)
    return predictions, targets


def filled(boxes: Tensor, generator: torch.Generator) -> Tensor:
    """bool [N, 60, 60]: most of each box."""
    masks = torch.zeros(len(boxes), SIDE, SIDE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().int().clamp(0, SIDE).tolist(), strict=True):
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return masks & (torch.rand(masks.shape, generator=generator) < 0.95)


def coco_format(
    predictions: Boxes, targets: Boxes, classes: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """As COCO's files have them; images and labels from 0."""

    def xywh(boxes: Tensor) -> list:
        boxes = boxes.double()
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()

    def segment(side: dict[str, Tensor], k: int) -> dict[str, Any]:
        if "masks" not in side:
            return {}
        from pycocotools.mask import encode

        return {"segmentation": encode(np.asfortranarray(side["masks"][k].numpy().astype(np.uint8)))}

    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for i, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        for k, box in enumerate(xywh(target["boxes"])):
            area = target["area"][k].item() if "area" in target else box[2] * box[3]
            crowd = target["iscrowd"][k].item() if "iscrowd" in target else 0
            row = {"image_id": i, "category_id": target["labels"][k].item(), "bbox": box, "area": area}
            truth.append({"id": len(truth) + 1, "iscrowd": crowd, **row, **segment(target, k)})
        for k, box in enumerate(xywh(prediction["boxes"])):
            score, label = prediction["scores"][k].item(), prediction["labels"][k].item()
            row = {"image_id": i, "category_id": label, "score": score}
            found.append(row | (segment(prediction, k) or {"bbox": box}))
    whole = {
        "info": {},
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in range(len(targets))],
        "categories": [{"id": c} for c in range(classes)],
        "annotations": truth,
    }
    return whole, found


def by_pycocotools(
    truth: dict[str, Any], found: list[dict[str, Any]], kind: str = "bbox"
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The twelve numbers, and four of each class."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision, recall = evaluation.eval["precision"][..., 0, -1], evaluation.eval["recall"][..., 0, -1]

    def mean(values: np.ndarray) -> float:
        return float(values[values > -1].mean()) if (values > -1).any() else math.nan

    classes = range(precision.shape[2])
    by_class = {
        "ap": [mean(precision[:, :, c]) for c in classes],
        "ap50": [mean(precision[0, :, c]) for c in classes],
        "ap75": [mean(precision[5, :, c]) for c in classes],
        "ar100": [mean(recall[:, c]) for c in classes],
    }
    stats = [math.nan if value == -1 else float(value) for value in evaluation.stats]
    return dict(zip(COCO_NAMES, stats, strict=True)), by_class
