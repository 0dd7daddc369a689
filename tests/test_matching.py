"""Which detections find which objects, by COCO's rule."""

import numpy as np
import pytest
import torch

from detections import coco_format, detection_data
from paribus.metrics import DetectionMetrics
from paribus.metrics.matching import IGNORED, NONE, matches, overlaps, wrong_and_missed
from test_metrics import names

CROWDS = {"iscrowd": torch.tensor([0, 1, 0])}


def image(*boxes, labels=None, scores=None, **more):
    table = {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)}
    table["labels"] = torch.tensor(labels or [0] * len(boxes))
    return table | ({} if scores is None else {"scores": torch.tensor(scores)}) | more


def of_image(prediction, target):
    metrics = DetectionMetrics(names(3))
    metrics.update([prediction], [target])
    return matches(metrics.judged, overlaps(metrics.judged)).tolist()


def test_the_surest_chooses_first_and_what_is_taken_is_taken():
    target = image((0, 0, 10, 10), (0, 0, 10, 12))
    prediction = image((0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 10, 10), scores=[0.2, 0.9, 0.5])
    assert of_image(prediction, target) == [NONE, 0, 1]
    wrong, missed = wrong_and_missed(prediction, target)
    assert wrong.tolist() == [True, False, False]
    assert not missed.any()


def test_other_classes_and_smaller_overlaps_find_nothing():
    target = image((0, 0, 10, 10), (20, 0, 30, 10), labels=[0, 1])
    prediction = image((0, 0, 10, 4.9), (20, 0, 30, 10), labels=[0, 0], scores=[0.9, 0.8])
    assert of_image(prediction, target) == [NONE, NONE]
    assert [part.tolist() for part in wrong_and_missed(prediction, target)] == [[True, True], [True, True]]


def test_what_lies_in_a_crowd_is_no_error():
    target = image((0, 0, 10, 10), (0, 0, 100, 100), (200, 0, 210, 10), **CROWDS)
    prediction = image((50, 50, 60, 60), (0, 0, 10, 10), (52, 50, 60, 60), scores=[0.9, 0.8, 0.7])
    assert of_image(prediction, target) == [IGNORED, 0, IGNORED]
    wrong, missed = wrong_and_missed(prediction, target)
    assert wrong.tolist() == [False] * 3
    assert missed.tolist() == [False, False, True]


def test_after_the_first_hundred_of_a_class_none_counts():
    boxes = [(10 * i, 0, 10 * i + 9, 9) for i in range(150)]
    prediction = image(
        *boxes, labels=[i % 3 == 0 for i in range(150)], scores=[1 - i / 1000 for i in range(150)]
    )
    found = np.array(of_image(prediction, image()))
    assert (found == NONE).all()  # 50 of one class, 100 of the other
    prediction["labels"][:] = 2
    found = np.array(of_image(prediction, image()))
    assert found.tolist() == [NONE] * 100 + [IGNORED] * 50


def test_images_without_either_are_fine():
    assert of_image(image(scores=[]), image()) == []
    assert [part.tolist() for part in wrong_and_missed(image(scores=[]), image((0, 0, 1, 1)))] == [[], [True]]


@pytest.mark.parametrize(("images", "classes", "most"), [(40, 3, 12), (5, 2, 90)])
def test_matches_equal_pycocotools(images, classes, most, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    predictions, targets = detection_data(images, classes, seed=images, most=most)
    truth, found = coco_format(predictions, targets, classes)
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    expected = np.full(len(found), IGNORED)  # what pycocotools does not see
    for one in filter(None, evaluation.evalImgs):
        for place, objects, ignored in zip(
            one["dtIds"], one["dtMatches"][0], one["dtIgnore"][0], strict=True
        ):
            expected[place - 1] = IGNORED if ignored else int(objects) - 1
    metrics = DetectionMetrics(names(classes))
    metrics.update(predictions, targets)
    assert matches(metrics.judged, overlaps(metrics.judged)).tolist() == expected.tolist()
    assert (expected >= 0).sum() > 50
