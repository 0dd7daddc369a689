"""VOC's average precisions of boxes, against a loop over the devkit's words."""

import math

import pytest
import torch

from detections import detection_data
from paribus.metrics import DetectionMetrics
from test_metrics import names, same

pytestmark = pytest.mark.filterwarnings("ignore:.*was called before the ``update`` method")


def inclusive(box):
    """Between the pixels' edges -> the devkit's: pixels counted from 1, both ends within."""
    x0, y0, x1, y1 = box
    return x0 + 1, y0 + 1, x1, y1


def devkit(predictions, targets, label):
    """VOCevaldet.m's way through the detections of a class; (area of 2010 to 2012, mean at 11 recalls of 2007)."""
    objects, ranked = {}, []
    for i, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        difficult = target.get("difficult", torch.zeros_like(target["labels"])).tolist()
        objects[i] = [
            [inclusive(box), bool(hard), False]
            for box, c, hard in zip(
                target["boxes"].tolist(), target["labels"].tolist(), difficult, strict=True
            )
            if c == label
        ]
        for box, c, score in zip(
            *(prediction[k].tolist() for k in ("boxes", "labels", "scores")), strict=True
        ):
            if c == label:
                ranked.append((score, i, inclusive(box)))
    positives = sum(not hard for of_image in objects.values() for _, hard, _ in of_image)
    if not positives:
        return math.nan, math.nan
    ranked.sort(key=lambda row: -row[0])  # stable
    true, false = [], []
    for _, i, (x0, y0, x1, y1) in ranked:
        most, best = -math.inf, None
        for candidate in objects[i]:
            a0, b0, a1, b1 = candidate[0]
            width, height = min(x1, a1) - max(x0, a0) + 1, min(y1, b1) - max(y0, b0) + 1
            if width > 0 and height > 0:
                areas = (x1 - x0 + 1) * (y1 - y0 + 1) + (a1 - a0 + 1) * (b1 - b0 + 1)
                overlap = width * height / (areas - width * height)
                if overlap > most:
                    most, best = overlap, candidate
        right = wrong = 0
        if most >= 0.5:
            if not best[1]:
                right, wrong = (0, 1) if best[2] else (1, 0)
                best[2] = True
        else:
            wrong = 1
        true.append(right)
        false.append(wrong)
    recalls, precisions, hits, misses = [], [], 0, 0
    for right, wrong in zip(true, false, strict=True):
        hits, misses = hits + right, misses + wrong
        recalls.append(hits / positives)
        precisions.append(hits / (hits + misses) if hits + misses else 0.0)
    eleven = 0.0
    for tenth in range(11):
        reached = [p for r, p in zip(recalls, precisions, strict=True) if r >= tenth / 10 - 1e-9]
        eleven += max(reached, default=0.0) / 11
    recalls, precisions = [0.0, *recalls, 1.0], [0.0, *precisions, 0.0]
    for i in reversed(range(len(precisions) - 1)):
        precisions[i] = max(precisions[i], precisions[i + 1])
    area = sum((recalls[i] - recalls[i - 1]) * precisions[i] for i in range(1, len(recalls)))
    return area, eleven


@pytest.mark.parametrize(
    ("images", "classes", "most", "difficult"),
    [(40, 3, 12, 0.3), (12, 2, 60, 0.0), (3, 4, 4, 0.5), (1, 1, 3, 0.0)],
)
def test_average_precisions_equal_the_devkits(images, classes, most, difficult):
    predictions, targets = detection_data(images, classes, seed=images, most=most, difficult=difficult)
    for target in targets:
        del target["iscrowd"]
    metrics = DetectionMetrics(names(classes))
    metrics.update(predictions, targets)
    expected = [devkit(predictions, targets, label) for label in range(classes)]
    values, table = metrics.compute(), metrics.per_class()
    for name, column in zip(("ap_voc", "ap_voc07"), map(list, zip(*expected, strict=True)), strict=True):
        assert same(table[name], column, 1e-9)
        defined = [value for value in column if not math.isnan(value)]
        assert values[name] == pytest.approx(sum(defined) / len(defined), abs=1e-9)
    if images > 10:
        assert 0.1 < values["ap_voc"] < 0.95


def row(*boxes, scores=None, **more):
    table = {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)}
    table["labels"] = torch.zeros(len(boxes), dtype=torch.int64)
    return table | ({} if scores is None else {"scores": torch.tensor(scores)}) | more


def judged(prediction, target):
    metrics = DetectionMetrics(["cat"])
    metrics.update([prediction], [target])
    values = metrics.compute()
    return values["ap_voc"], values["ap_voc07"]


def test_a_second_detection_of_an_object_is_wrong_where_coco_gives_it_the_next():
    """The devkit holds a detection against the object that it overlaps most, whether or not that is taken."""
    first, second = (0, 0, 100, 10), (0, 0, 100, 14)
    target = row(first, second)
    prediction = row((0, 0, 100, 10), (0, 0, 100, 11), scores=[0.9, 0.8])
    assert judged(prediction, target) == (
        0.5,
        pytest.approx(6 / 11),
    )  # recall 0.5 with precision 1, and no more
    metrics = DetectionMetrics(["cat"])
    metrics.update([prediction], [target])
    assert metrics.compute()["ap50"] == 1


def test_a_box_of_pixels_overlaps_as_the_devkit_counts():
    """10 x 10 pixels and the upper half of them, devkit's (1, 1, 10, 10) and (1, 1, 10, 5): an overlap of 0.5."""
    assert judged(row((0, 0, 10, 5), scores=[1.0]), row((0, 0, 10, 10)))[0] == 1
    assert judged(row((0, 0, 10, 4.99), scores=[1.0]), row((0, 0, 10, 10)))[0] == 0


def test_what_finds_a_difficult_object_or_lies_in_a_crowd_is_neither_right_nor_wrong():
    target = row((0, 0, 10, 10), (50, 50, 60, 60), difficult=torch.tensor([1, 0]))
    found = row((0, 0, 10, 10), (0, 0, 10, 10), (50, 50, 60, 60), scores=[0.9, 0.8, 0.7])
    assert judged(found, target) == (1, 1)
    crowd = row((0, 0, 40, 40), (50, 50, 60, 60), iscrowd=torch.tensor([1, 0]))
    assert judged(found, crowd) == (1, 1)
    assert judged(found, row((0, 0, 40, 40), (50, 50, 60, 60)))[0] == pytest.approx(0.5 / 3)


def test_three_of_ten_reach_the_recall_of_three_tenths():
    boxes = [(20 * i, 0, 20 * i + 10, 10) for i in range(10)]
    prediction = row(*boxes[:3], *[(0, 500, 9, 509)] * 6, *boxes[3:], scores=[1 - i / 20 for i in range(16)])
    _, eleven = judged(prediction, row(*boxes))
    assert eleven == pytest.approx((4 * 1 + 7 * 10 / 16) / 11)
