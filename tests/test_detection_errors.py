"""The kinds of errors by hand, and what mending gains by pycocotools on data that was mended."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from detections import by_pycocotools, coco_format, detection_data
from paribus.metrics import DetectionMetrics
from paribus.metrics.detection_errors import KINDS
from test_metrics import names

pytestmark = pytest.mark.filterwarnings("ignore:.*was called before the ``update`` method")


def errors(predictions, targets, classes):
    metrics = DetectionMetrics(names(classes))
    metrics.update(predictions, targets)
    table = metrics.errors
    assert list(table) == ["error", "count", "ap50_gained"]
    assert table["error"] == list(KINDS)
    counts, gained = (dict(zip(KINDS, table[name], strict=True)) for name in ("count", "ap50_gained"))
    return counts, gained, metrics.compute()["ap50"]


def image(*rows, scores=None, crowd=None):
    """Rows of (label, x0, y0, x1, y1)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    found = {"boxes": table[:, 1:], "labels": table[:, 0].long()}
    if crowd is not None:
        found["iscrowd"] = torch.tensor(crowd)
    return found | ({} if scores is None else {"scores": torch.tensor(scores)})


CAT, DOG = (0, 0, 0, 10, 10), (1, 50, 0, 60, 10)


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("classification", [(1, 0, 0, 10, 10)]),
        ("localization", [(0, 0, 0, 10, 4)]),
        ("both", [(1, 0, 0, 10, 4)]),
        ("background", [(0, 0, 0, 10, 0.9)]),
        ("background", [(1, 200, 200, 210, 210)]),
    ],
)
def test_a_wrong_detection_alone(kind, rows):
    """Of the dog one is right; one of the cat is wrong in one way."""
    counts, gained, ap50 = errors([image(*rows, DOG, scores=[0.9, 0.5])], [image(CAT, DOG)], 2)
    found = kind in ("classification", "localization")  # the cat, but for one mistake
    assert counts == dict.fromkeys(KINDS, 0) | {kind: 1, "missed": int(not found)}
    wrong_of_dog = rows[0][0] == 1
    assert ap50 == pytest.approx(0.25 if wrong_of_dog else 0.5)
    assert gained[kind] == pytest.approx((1 if found else 0.5) - ap50)
    alone = 0.5 if wrong_of_dog else 1.0  # without cats only dogs are judged
    assert gained["missed"] == pytest.approx(0 if found else alone - ap50)
    assert all(gained[other] == 0 for other in KINDS if other not in (kind, "missed"))


def test_a_duplicate_is_one_and_goes():
    found = image(CAT, CAT, (0, 100, 0, 110, 10), scores=[0.9, 0.8, 0.7])
    counts, gained, ap50 = errors([found], [image(CAT, (0, 100, 0, 110, 10))], 1)
    assert counts == dict.fromkeys(KINDS, 0) | {"duplicate": 1}
    assert ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert gained["duplicate"] == pytest.approx(1 - ap50)


def test_of_several_mended_detections_of_an_object_the_surest_stays():
    """A dog is seen as a cat twice, and as a dog between the two: the first, mended, is the dog; the others go."""
    rows = [(0, 50, 0, 60, 10), DOG, (0, 50, 0, 60, 10)]
    counts, gained, ap50 = errors([image(*rows, scores=[0.9, 0.8, 0.7])], [image(DOG)], 2)
    assert counts == dict.fromkeys(KINDS, 0) | {"classification": 2}
    assert ap50 == pytest.approx(1, abs=1e-12)  # cats are not judged: there is none
    assert gained["classification"] == 0
    background = (1, 300, 0, 310, 10)
    _, gained, ap50 = errors([image(background, *rows, scores=[0.85, 0.9, 0.8, 0.7])], [image(DOG)], 2)
    assert ap50 == pytest.approx(0.5)
    assert gained["classification"] == pytest.approx(0.5)  # now before the one of the background


def test_a_detection_is_held_against_the_object_it_overlaps_most():
    target = image((0, 0, 0, 10, 10), (1, 0, 5, 10, 25))
    counts, *_ = errors([image((0, 0, 7, 10, 25), scores=[1.0])], [target], 2)
    assert counts == dict.fromkeys(KINDS, 0) | {"classification": 1, "missed": 1}
    twins = image((1, 0, 0, 10, 10), (0, 0, 0, 10, 10))  # equal ones: that of its own class
    counts, *_ = errors([image((0, 0, 0, 10, 4), scores=[1.0])], [twins], 2)
    assert counts == dict.fromkeys(KINDS, 0) | {"localization": 1, "missed": 1}


def test_crowds_are_no_errors():
    target = image((0, 0, 0, 100, 100), CAT, crowd=[1, 0])
    counts, gained, ap50 = errors([image((0, 30, 30, 40, 40), CAT, scores=[0.9, 0.8])], [target], 1)
    assert (sum(counts.values()), ap50) == (0, pytest.approx(1, abs=1e-12))
    assert not any(gained.values())
    counts, *_ = errors([image((1, 30, 30, 40, 40), CAT, scores=[0.9, 0.8])], [target], 2)
    assert counts == dict.fromkeys(KINDS, 0) | {"background": 1}  # a crowd is one of its class alone


def test_no_objects_and_no_detections():
    counts, gained, ap50 = errors([image(scores=[])], [image()], 2)
    assert not any(counts.values())
    assert all(math.isnan(value) for value in [ap50, *gained.values()])
    counts, gained, ap50 = errors([image(scores=[])], [image(CAT)], 2)
    assert (counts["missed"], ap50) == (1, 0)
    assert math.isnan(gained["missed"])  # then nothing is left to be judged
    counts, gained, _ = errors([image(CAT, scores=[1.0])], [image()], 2)
    assert counts["background"] == 1


def kinds_of(prediction, target):
    """Detection by detection, in words of the paper: (kind or "", object); and the objects that are found."""
    iou = box_iou(prediction["boxes"].double(), target["boxes"].double())
    order = prediction["scores"].argsort(descending=True, stable=True).tolist()
    taken, found = {}, {}
    for i in order:
        best = None
        for j in range(len(target["boxes"])):
            fits = prediction["labels"][i] == target["labels"][j] and iou[i, j] >= 0.5
            if fits and j not in taken and (best is None or iou[i, j] >= iou[i, best]):
                best = j
        if best is not None:
            taken[best], found[i] = i, best
    result = []
    for i in range(len(order)):
        if i in found:
            result.append(("", found[i]))
            continue
        own = prediction["labels"][i] == target["labels"]
        overlaps = [(float(iou[i, j]), bool(own[j]), -j) for j in range(len(own))]
        most, same, j = max(overlaps, default=(0.0, False, 0))
        if most >= 0.5:
            result.append(("duplicate" if same else "classification", -j))
        elif most >= 0.1:
            result.append(("localization" if same else "both", -j))
        else:
            result.append(("background", None))
    return result, set(taken)


def mended(kind, predictions, targets):
    """The data without this kind of error."""
    new_predictions, new_targets, count = [], [], 0
    for prediction, target in zip(predictions, targets, strict=True):
        found = {key: value.clone() for key, value in prediction.items()}
        kinds, taken = kinds_of(prediction, target)
        keep = torch.ones(len(kinds), dtype=torch.bool)
        claims = {}
        for i, (error, j) in enumerate(kinds):
            count += error == kind
            if error == kind and kind in ("classification", "localization"):
                found["labels"][i], found["boxes"][i] = target["labels"][j], target["boxes"][j]
            elif error == kind:
                keep[i] = False
            if not error or (error == kind and kind in ("classification", "localization")):
                claims.setdefault(j, []).append(i)
        for rivals in claims.values():
            best = max(rivals, key=lambda i: (float(found["scores"][i]), -i))
            for i in rivals:
                keep[i] &= i == best
        new_predictions.append({key: value[keep] for key, value in found.items()})
        left = torch.ones(len(target["boxes"]), dtype=torch.bool)
        if kind == "missed":
            tried = {j for error, j in kinds if error in ("classification", "localization")}
            for j in range(len(left)):
                left[j] = j in taken or j in tried
            count += int((~left).sum())
        new_targets.append({key: value[left] for key, value in target.items()})
    return new_predictions, new_targets, count


@pytest.mark.parametrize(
    ("images", "classes", "most", "seed"), [(40, 4, 12, 0), (25, 2, 20, 1), (6, 9, 5, 2)]
)
def test_counts_and_gains_are_those_of_mended_data(images, classes, most, seed):
    predictions, targets = detection_data(images, classes, seed=seed, most=most)
    generator = torch.Generator().manual_seed(seed)
    for prediction, target in zip(predictions, targets, strict=True):
        del target["iscrowd"]
        boxes = prediction["boxes"]
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        jitter = 0.3 * torch.rand(len(boxes), 1, generator=generator)
        boxes += jitter * sides * torch.randn(boxes.shape, generator=generator)
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        boxes[4::9] += 600  # where nothing is
        flipped = torch.rand(len(boxes), generator=generator) < 0.3
        prediction["labels"] = torch.where(
            flipped, (prediction["labels"] + 1) % classes, prediction["labels"]
        )
        prediction["scores"] += 1e-4 * torch.rand(len(boxes), generator=generator)  # few ties
    counts, gained, ap50 = errors(predictions, targets, classes)
    for kind in KINDS:
        new_predictions, new_targets, count = mended(kind, predictions, targets)
        values, _ = by_pycocotools(*coco_format(new_predictions, new_targets, classes))
        assert counts[kind] == count, kind
        assert gained[kind] == pytest.approx(values["ap50"] - ap50, abs=1e-9), kind
        assert count > (5 if images > 10 else -1), kind
