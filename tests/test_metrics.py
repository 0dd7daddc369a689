"""Metrics: against numpy and scikit-learn, and the same value for any number of processes; boxes against
pycocotools in test_detection_metrics.py."""

import math
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from detections import detection_data
from paribus.metrics import ClassificationMetrics, DetectionMetrics, MultilabelMetrics, SegmentationMetrics

pytestmark = pytest.mark.filterwarnings("ignore:.*was called before the ``update`` method")


def names(count):
    return [f"class{i}" for i in range(count)]


def same(a, b, tolerance=0.0):
    """Equal dicts or lists of numbers and strings, NaN equal to NaN."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k], tolerance) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance
    return a == b


# --- classification --------------------------------------------------------------------------------


def test_accuracies_and_table_by_hand():
    metrics = ClassificationMetrics(names(3))
    predicted, truth = [0, 0, 1, 1, 1], [0, 0, 0, 1, 0]
    metrics.update(torch.eye(3)[predicted] * 9, torch.tensor(truth))
    values = metrics.compute()
    assert "accuracy_top5" not in values
    assert values["accuracy"] == 3 / 5
    assert values["accuracy_macro"] == (2 / 4 + 1) / 2  # class 2 does not occur
    table = metrics.per_class()
    assert list(table) == ["class", "accuracy", "precision", "f1", "images"]
    assert same(table["accuracy"], [0.5, 1.0, math.nan])
    assert same(table["precision"], [1.0, 1 / 3, math.nan])
    assert same(table["f1"], [2 / 3, 0.5, math.nan], 1e-15)
    assert table["images"] == [4, 1, 0]
    assert metrics.confusion.dtype == torch.int64
    assert metrics.confusion.tolist() == [[2, 2, 0], [0, 1, 0], [0, 0, 0]]


def test_top5_equals_a_full_sort():
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(500, 20, generator=generator), torch.randint(20, (500,), generator=generator)
    metrics = ClassificationMetrics(names(20))
    for part in range(0, 500, 64):
        metrics.update(logits[part : part + 64], target[part : part + 64])
    rank = (logits.argsort(1, descending=True) == target[:, None]).int().argmax(1)
    assert metrics.compute()["accuracy"] == (rank == 0).sum().item() / 500
    assert metrics.compute()["accuracy_top5"] == (rank < 5).sum().item() / 500


def test_ece_equals_its_definition():
    logits = torch.randn(2000, 4, generator=torch.Generator().manual_seed(1)) * 2
    probability, predicted = logits.double().softmax(1).max(1)
    right = (probability * 15).ceil().long() % 2 == 0  # in every other bin: merged bins would show
    target = torch.where(right, predicted, (predicted + 1) % 4)
    metrics = ClassificationMetrics(names(4))
    metrics.update(logits, target)
    confidence, hit = probability.numpy(), right.numpy()
    expected = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    assert expected > 0.05
    assert metrics.compute()["ece"] == pytest.approx(expected, abs=1e-7)


def test_ece_of_certain_and_of_diverged_networks():
    metrics = ClassificationMetrics(names(2))
    metrics.update(torch.tensor([[100.0, 0.0], [100.0, 0.0]]), torch.tensor([0, 1]))
    assert metrics.compute()["ece"] == 0.5
    metrics.reset()
    metrics.update(torch.full((3, 2), math.nan), torch.tensor([0, 1, 0]))
    assert 0 <= metrics.compute()["ece"] <= 1


def test_half_precision_logits_are_taken():
    logits, target = torch.randn(64, 8).bfloat16(), torch.randint(8, (64,))
    half, full = ClassificationMetrics(names(8)), ClassificationMetrics(names(8))
    half.update(logits, target)
    full.update(logits.float(), target)
    assert half.compute() == full.compute()


# --- segmentation ----------------------------------------------------------------------------------


def segmentation_oracle(prediction, target, classes, ignore=255):
    prediction, target = prediction.numpy(), target.numpy()
    kept = target != ignore
    columns = {"iou": [], "accuracy": [], "precision": [], "pixels": []}
    for c in range(classes):
        true, found = (target == c) & kept, (prediction == c) & kept
        union, inside = (true | found).sum(), (true & found).sum()
        for name, whole in (("iou", union), ("accuracy", true.sum()), ("precision", found.sum())):
            columns[name].append(float(inside / whole) if whole else math.nan)
        columns["pixels"].append(int(true.sum()))
    scalars = dict.fromkeys(["accuracy", "accuracy_macro", "miou", "fwiou"], math.nan)
    if kept.any():
        share = np.array(columns["pixels"]) / kept.sum()
        scalars = {
            "accuracy": float((prediction == target)[kept].mean()),
            "accuracy_macro": float(np.nanmean(columns["accuracy"])),
            "miou": float(np.nanmean(columns["iou"])),
            "fwiou": float(sum(w * iou for w, iou in zip(share, columns["iou"], strict=True) if w)),
        }
    return scalars, {"class": names(classes), **columns}


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_segmentation_equals_numpy(dtype):
    generator = torch.Generator().manual_seed(2)
    prediction = torch.randint(21, (6, 40, 30), generator=generator)
    target = torch.where(torch.rand(6, 40, 30, generator=generator) < 0.5, prediction, prediction.roll(1, 2))
    target[torch.rand(6, 40, 30, generator=generator) < 0.2] = 255
    for absent in (4, 9):  # neither true nor predicted
        prediction[prediction == absent] = 0
        target[target == absent] = 0
    target[target == 7] = 3  # predicted only
    prediction[prediction == 12] = 5  # true only
    metrics = SegmentationMetrics(names(21))
    for i in range(0, 6, 2):
        metrics.update(prediction[i : i + 2].to(dtype), target[i : i + 2].to(dtype))
    scalars, columns = segmentation_oracle(prediction, target, 21)
    assert same(metrics.compute(), scalars, 1e-14)
    table = metrics.per_class()
    assert list(table) == ["class", "iou", "accuracy", "precision", "pixels"]
    assert same(table, columns, 1e-14)
    assert math.isnan(table["iou"][4])
    assert table["iou"][7] == 0
    assert math.isnan(table["accuracy"][7])
    assert table["iou"][12] == 0
    assert math.isnan(table["precision"][12])
    assert sum(table["pixels"]) == (target != 255).sum().item() == metrics.confusion.sum().item()


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_images_that_are_all_ignored_count_for_nothing(classes):
    generator = torch.Generator().manual_seed(classes)
    prediction = torch.randint(classes, (7, 9, 8), generator=generator)
    target = torch.randint(classes, (7, 9, 8), generator=generator)
    target[torch.rand(7, 9, 8, generator=generator) < 0.3] = 255
    target[[0, 3, 4]] = 255
    metrics = SegmentationMetrics(names(classes))
    for p, t in zip(prediction, target, strict=True):
        metrics.update(p[None], t[None])
    scalars, columns = segmentation_oracle(prediction, target, classes)
    assert same(metrics.compute(), scalars, 1e-14)
    assert same(metrics.per_class(), columns, 1e-14)


def test_a_single_class_and_all_ignored():
    metrics = SegmentationMetrics(["everything"])
    metrics.update(torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.long))
    assert metrics.compute() == {"accuracy": 1.0, "accuracy_macro": 1.0, "miou": 1.0, "fwiou": 1.0}
    metrics.reset()
    metrics.update(torch.zeros(1, 4, 4, dtype=torch.long), torch.full((1, 4, 4), 255))
    assert all(math.isnan(value) for value in metrics.compute().values())
    assert metrics.per_class()["pixels"] == [0]


def test_mask_values_that_are_no_class_are_named():
    metrics = SegmentationMetrics(names(3))
    metrics.update(torch.zeros(1, 2, 2, dtype=torch.long), torch.tensor([[[0, 3], [200, 255]]]))
    with pytest.raises(ValueError, match=r"value\(s\) 3, 200.*0 to 2.*data.reader"):
        metrics.compute()
    with pytest.raises(ValueError, match="255 is ignored"):
        SegmentationMetrics(names(300))


def contour_oracle(mask, target, label):
    """The contour pixels of a class, as points: those with a judged neighbour of another class."""
    height, width = mask.shape
    points = []
    for y in range(height):
        for x in range(width):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [(v, u) for v, u in around if 0 <= v < height and 0 <= u < width]
            edge = any(mask[v, u] != label and target[v, u] != 255 for v, u in inside)
            if mask[y, x] == label and target[y, x] != 255 and edge:
                points.append((y, x))
    return np.array(points).reshape(-1, 2)


def boundary_f1_oracle(prediction, target, classes):
    """Csurka et al. 2013 by its words, every pair of contour pixels measured: the set's, and each class's."""
    images, by_class = [], [[] for _ in range(classes)]
    for mask, truth in zip(prediction.numpy(), target.numpy(), strict=True):
        tolerance, scores = 0.0075 * math.hypot(*mask.shape), []
        for label in range(classes):
            found, true = (contour_oracle(m, truth, label) for m in (mask, truth))
            if not len(true):
                continue
            score = 0.0
            if len(found):
                distance = np.sqrt(((found[:, None] - true[None]) ** 2).sum(2))
                precision = (distance.min(1) < tolerance).mean()
                recall = (distance.min(0) < tolerance).mean()
                score = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            scores.append(score)
            by_class[label].append(score)
        if scores:
            images.append(np.mean(scores))
    mean = lambda values: float(np.mean(values)) if values else math.nan  # noqa: E731
    return mean(images), [mean(scores) for scores in by_class]


def shapes(images, classes, size, seed):
    """Masks of boxes, and predictions of the boxes moved a little; some boxes and whole images ignored."""
    rng = np.random.default_rng(seed)
    prediction, target = np.zeros((2, images, *size), np.int64)
    for i in range(images):
        for _ in range(6):
            y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
            h, w = rng.integers(1, size[0]), rng.integers(1, size[1])
            label = rng.integers(classes)
            target[i, y : y + h, x : x + w] = label
            dy, dx = rng.integers(0, 4, 2)
            prediction[i, y + dy : y + dy + h, x + dx : x + dx + w] = label
        target[i, : rng.integers(4), :] = 255
        target[i, :, : rng.integers(4)] = 255
    target[images // 2] = 255
    return torch.tensor(prediction), torch.tensor(target)


@pytest.mark.parametrize(
    ("classes", "size"),
    [(5, (40, 30)), (70, (30, 40)), (6, (20, 420)), (4, (6, 700)), (1, (8, 8))],
    ids=[
        "a tolerance below 1",
        "many classes",
        "a tolerance of 3.2",
        "a tolerance above half the height",
        "one",
    ],
)
def test_boundary_f1_equals_every_pair_of_contour_pixels(classes, size):
    prediction, target = shapes(4, classes, size, seed=classes)
    metrics = SegmentationMetrics(names(classes), boundary_f1=True)
    for part in (slice(0, 3), slice(3, 4)):
        metrics.update(prediction[part], target[part])
    value, column = boundary_f1_oracle(prediction, target, classes)
    assert same(metrics.compute()["boundary_f1"], value, 1e-11)
    assert same(metrics.per_class()["boundary_f1"], column, 1e-11)
    if classes > 1:
        assert 0.02 < value < 0.98
    plain = SegmentationMetrics(names(classes))
    plain.update(prediction, target)
    both = metrics.compute()
    assert same(plain.compute(), {name: both[name] for name in both if name != "boundary_f1"})


def test_boundary_f1_by_hand():
    """240 x 320: the tolerance is 3, and a contour at a distance of 3 is none of it."""

    def halves(left):
        return (torch.arange(320) >= left).long().expand(1, 240, 320)

    target = halves(160)
    for moved in (0, 2, 3, -2, -3):
        metrics = SegmentationMetrics(names(2), boundary_f1=True)
        metrics.update(halves(160 + moved), target)
        assert metrics.compute()["boundary_f1"] == float(abs(moved) < 3)
    metrics = SegmentationMetrics(names(2), boundary_f1=True)
    metrics.update(torch.zeros_like(target), target)  # no contour was found
    assert metrics.compute()["boundary_f1"] == 0
    metrics.reset()
    metrics.update(target, torch.ones_like(target))  # the truth has none
    assert math.isnan(metrics.compute()["boundary_f1"])


def test_what_is_ignored_makes_no_contour():
    target = torch.zeros(1, 100, 100, dtype=torch.long)
    target[:, 40:60] = 255  # between two classes
    target[:, 60:] = 1
    metrics = SegmentationMetrics(names(2), boundary_f1=True)
    metrics.update(target % 255, target)
    assert math.isnan(metrics.compute()["boundary_f1"])


# --- several labels --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:No positive class")
def test_multilabel_equals_scikit_learn():
    from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

    rng = np.random.default_rng(3)
    truth = (rng.random((300, 7)) < 0.2).astype(np.float32)
    truth[:, 5] = 0
    logits = (rng.normal(size=(300, 7)) + truth).round(1).astype(np.float32)  # many ties
    logits[:, 6] = -1  # occurs, never predicted
    metrics = MultilabelMetrics(names(7))
    for part in range(0, 300, 77):
        metrics.update(torch.tensor(logits[part : part + 77]), torch.tensor(truth[part : part + 77]))
    present = [0, 1, 2, 3, 4, 6]
    ap = average_precision_score(truth[:, present], logits[:, present], average=None)
    values, table = metrics.compute(), metrics.per_class()
    assert values["map"] == pytest.approx(ap.mean(), abs=1e-12)
    assert np.array(table["ap"])[present] == pytest.approx(ap, abs=1e-12)
    assert math.isnan(table["ap"][5])
    assert values["f1_macro"] == pytest.approx(f1_score(truth, logits > 0, average="macro"), abs=1e-12)
    assert values["f1_micro"] == pytest.approx(f1_score(truth, logits > 0, average="micro"), abs=1e-12)
    assert values["accuracy_exact"] == (truth == (logits > 0)).all(1).mean()
    defined = [0, 1, 2, 3, 4]
    for name, score in {"precision": precision_score, "recall": recall_score}.items():
        expected = score(truth, logits > 0, average=None, zero_division=np.nan)
        assert np.array(table[name])[defined] == pytest.approx(expected[defined], abs=1e-12)
    assert table["images"] == truth.sum(0).astype(int).tolist()


def voc_average_precisions(scores, truth):
    """As the VOC devkit defines them, of one class, image by image: the area, and the mean at 11 recalls.

    truth: 1, -1 and 0 (difficult), as in its lists. Fractions, so that a recall of 0.3 is one. Images of
    equal score come to the ranking together.
    """
    positives = sum(t == 1 for t in truth)
    if not positives:
        return math.nan, math.nan
    recalls, precisions = [], []
    for least in sorted(set(scores), reverse=True):
        true = sum(t == 1 for s, t in zip(scores, truth, strict=True) if s >= least)
        false = sum(t == -1 for s, t in zip(scores, truth, strict=True) if s >= least)
        if true + false:
            recalls.append(Fraction(true, positives))
            precisions.append(Fraction(true, true + false))
    eleven = Fraction(0)
    for tenth in range(11):
        reached = [p for r, p in zip(recalls, precisions, strict=True) if r >= Fraction(tenth, 10)]
        eleven += max(reached, default=Fraction(0)) / 11
    recalls, precisions = [Fraction(0), *recalls, Fraction(1)], [Fraction(0), *precisions, Fraction(0)]
    for i in reversed(range(len(precisions) - 1)):
        precisions[i] = max(precisions[i], precisions[i + 1])
    area = sum((recalls[i] - recalls[i - 1]) * precisions[i] for i in range(1, len(recalls)))
    return float(area), float(eleven)


def unsure_labels(count, seed, *, digits=1):
    """Logits with ties, and labels of which a sixth is not judged; class 2 is absent, 3 never judged."""
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(count, 6, generator=generator) < 0.3).float()
    target[:, 2] = 0
    logits = (torch.randn(count, 6, generator=generator) + target).mul(10**digits).round() / 10**digits
    target[torch.rand(count, 6, generator=generator) < 1 / 6] = torch.nan
    target[:, 3] = torch.nan
    return logits, target


@pytest.mark.parametrize(("count", "digits"), [(200, 1), (50, 0), (200, 9), (7, 0), (1, 9)])
def test_voc_average_precisions_equal_the_devkits(count, digits):
    logits, target = unsure_labels(count, seed=count, digits=digits)
    metrics = MultilabelMetrics(names(6))
    metrics.update(logits, target)
    marks = target.mul(2).sub(1).nan_to_num(0).int()
    expected = [
        voc_average_precisions(s.tolist(), t.tolist()) for s, t in zip(logits.T, marks.T, strict=True)
    ]
    table, values = metrics.per_class(), metrics.compute()
    for name, column in zip(("voc", "voc07"), map(list, zip(*expected, strict=True)), strict=True):
        assert same(table[f"ap_{name}"], column, 1e-12)
        assert math.isnan(column[2])
        assert math.isnan(column[3])
        if count > 1:
            assert values[f"map_{name}"] == pytest.approx(np.nanmean(column), abs=1e-12)


def test_the_three_average_precisions_by_hand():
    metrics = MultilabelMetrics(["cat"])
    logits = torch.tensor([5.0, 4, 3, 2, 2, 1])
    target = torch.tensor([0.0, 1, 1, 0, 1, torch.nan])  # precisions 0, 1/2, 2/3, then 3/5 for two at once
    metrics.update(logits[:, None], target[:, None])
    values = metrics.compute()
    assert values["map"] == pytest.approx((1 / 2 + 2 / 3 + 3 / 5) / 3, abs=1e-15)
    assert values["map_voc"] == pytest.approx((2 / 3 + 2 / 3 + 3 / 5) / 3, abs=1e-15)
    assert values["map_voc07"] == pytest.approx((7 * 2 / 3 + 4 * 3 / 5) / 11, abs=1e-15)  # 0.6 < 2/3 < 0.7


def test_a_recall_of_three_tenths_reaches_the_fourth_of_eleven():
    metrics = MultilabelMetrics(["cat"])
    target = torch.tensor([1.0] * 3 + [0.0] * 90 + [1.0] * 7)  # 0.1 + 0.1 + 0.1 > 3 / 10 in floats
    metrics.update(-torch.arange(100.0)[:, None], target[:, None])
    assert metrics.compute()["map_voc07"] == pytest.approx((4 * 1 + 7 * 0.1) / 11, abs=1e-15)


def test_what_is_not_judged_is_in_no_number():
    logits, target = unsure_labels(120, seed=5)
    target[:9] = torch.nan  # images of which nothing is judged
    metrics = MultilabelMetrics(names(6))
    metrics.update(logits, target)
    values, table = metrics.compute(), metrics.per_class()
    columns = []
    for c in range(6):  # each class alone, of the images where it is judged
        judged = ~target[:, c].isnan()
        alone = MultilabelMetrics([f"class{c}"])
        alone.update(logits[judged, c, None], target[judged, c, None])
        columns.append({name: column[0] for name, column in alone.per_class().items()})
    assert same(table, {name: [column[name] for column in columns] for name in table})
    predicted, judged = (logits > 0).double(), ~target.isnan()
    hits, both = (predicted * target).nansum(), (predicted[judged].sum() + target.nansum())
    assert values["f1_micro"] == pytest.approx((2 * hits / both).item(), abs=1e-12)
    right = ((predicted == target) | ~judged).all(1)[9:]
    assert values["accuracy_exact"] == right.double().mean().item()
    flipped = MultilabelMetrics(names(6))
    flipped.update(torch.where(judged, logits, -9 * logits), target)
    assert same(flipped.compute(), values)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_average_precisions_are_the_same_bits_in_any_batches_and_order(size):
    logits, target = unsure_labels(120, seed=6)
    whole, parts = MultilabelMetrics(names(6)), MultilabelMetrics(names(6))
    whole.update(logits, target)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(size))
    for part in order.split(size):
        parts.update(logits[part], target[part])
    assert same(parts.compute(), whole.compute())
    assert same(parts.per_class(), whole.per_class())


# --- all -------------------------------------------------------------------------------------------


def samples(kind, count):
    """A metric, and `count` arguments for its update, one sample each."""
    generator = torch.Generator().manual_seed(count)
    if kind in ("boxes", "instances"):
        predictions, targets = detection_data(count, 3, seed=count, masks=kind == "instances")
        return DetectionMetrics(names(3)), [([p], [t]) for p, t in zip(predictions, targets, strict=True)]
    if kind == "mask":
        prediction = torch.randint(4, (count, 1, 8, 8), generator=generator)
        target = torch.randint(5, (count, 1, 8, 8), generator=generator)
        target[target == 4] = 255
        return SegmentationMetrics(names(4)), list(zip(prediction, target, strict=True))
    if kind == "one class":
        prediction = torch.zeros(count, 1, 4, 4, dtype=torch.long)
        target = torch.where(torch.rand(count, 1, 4, 4, generator=generator) < 0.5, 0, 255)
        target[::3] = 255
        return SegmentationMetrics(names(1)), list(zip(prediction, target, strict=True))
    if kind == "contours":
        masks = [part.split(1) for part in shapes(count, 4, (24, 200), seed=count)] if count else [[], []]
        return SegmentationMetrics(names(5), boundary_f1=True), list(zip(*masks, strict=True))
    if kind == "unsure labels":
        parts = (part.split(1) for part in unsure_labels(count, seed=count))
        return MultilabelMetrics(names(6)), list(zip(*parts, strict=True))[:count]
    logits = torch.randn(count, 1, 9, generator=generator)
    if kind == "labels":
        return MultilabelMetrics(names(9)), list(zip(logits, logits.roll(1, 0) > 0.5, strict=True))
    return ClassificationMetrics(names(9)), list(zip(logits, logits.roll(1, 2).argmax(2), strict=True))


KINDS = ["label", "labels", "unsure labels", "mask", "one class", "contours", "boxes", "instances"]
COUNTS = [33, 5, 2, 1, 0]


def judge(kind, count, rank, world):
    metrics, data = samples(kind, count)
    for arguments in data[rank::world]:
        metrics.update(*arguments)
    table = metrics.per_class()  # first, so that it is seen to gather by itself
    more = metrics.confusion.tolist() if hasattr(type(metrics), "confusion") else None
    if hasattr(type(metrics), "errors"):
        more = [metrics.errors, *(zlib.crc32(part.tobytes()) for part in metrics.curves)]
    return metrics.compute(), table, more


def one_process_of_many(rank, world, folder):
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    found = {(kind, count): judge(kind, count, rank, world) for kind in KINDS for count in COUNTS}
    torch.save(found, Path(folder) / f"{rank} of {world}.pt")
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_gives_the_value_of_one(world, tmp_path):
    # Fork, because a spawned process imports torch and torchmetrics once more. The one too: to the bit, a fork's
    # metrics may be made by another library.
    for number in (1, world):
        torch.multiprocessing.start_processes(
            one_process_of_many, (number, str(tmp_path)), number, start_method="fork"
        )
    alone, *together = (
        torch.load(tmp_path / f"{rank} of {number}.pt") for number in (1, world) for rank in range(number)
    )
    for found in together:
        for key, values in alone.items():
            assert all(same(a, b) for a, b in zip(values, found[key], strict=True)), (key, values, found[key])


class Waits(TorchDispatchMode):
    """Notes the operations for which the host waits for a device."""

    NAMES = ("_local_scalar_dense", "nonzero", "_unique2", "bincount", "masked_select", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        boolean_index = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if name in self.NAMES or boolean_index:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_update_never_waits_for_the_device(kind):
    metrics, data = samples(kind, 4)
    with Waits() as waits:
        for arguments in data:
            metrics.update(*arguments)
        assert waits.found == []
        torch.ones(2)[torch.tensor([True, False])].sum().item()  # the counter does count
        assert len(waits.found) >= 2
    metrics.compute()


@pytest.mark.parametrize("kind", KINDS)
def test_reset_forgets_and_an_update_renews_the_table(kind):
    metrics, data = samples(kind, 6)
    for arguments in data[:3]:
        metrics.update(*arguments)
    first = metrics.compute(), metrics.per_class()
    for arguments in data[3:]:
        metrics.update(*arguments)
    assert not same(metrics.per_class(), first[1])
    metrics.reset()
    for arguments in data[:3]:
        metrics.update(*arguments)
    assert same(metrics.per_class(), first[1])
    assert same(metrics.compute(), first[0])
    assert all(type(value) is float for value in first[0].values())
    assert next(iter(first[1])) == "class"
    assert all(type(entry) in (int, float, str) for column in first[1].values() for entry in column)


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_batches_do_not_matter(kind):
    metrics, data = samples(kind, 8)
    for arguments in data:
        metrics.update(*arguments)
    values = metrics.compute()
    metrics.reset()
    if kind in ("boxes", "instances"):
        metrics.update([p for (p,), _ in data], [t for _, (t,) in data])
    else:
        first, second = (torch.cat(part) for part in zip(*reversed(data), strict=True))
        metrics.update(first, second)
    assert same(metrics.compute(), values, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_keeps_no_view_of_its_arguments(kind):
    metrics, data = samples(kind, 3)
    twin, _ = samples(kind, 3)
    for arguments in data:
        twin.update(*arguments)
    expected = twin.compute()
    for arguments in data:
        metrics.update(*arguments)
        for tensor in arguments[0][0].values() if isinstance(arguments[0], list) else arguments[:1]:
            tensor.zero_()
    assert same(metrics.compute(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_inference_mode_may_come_and_go(kind):
    metrics, data = samples(kind, 6)
    with torch.inference_mode():
        metrics.update(*data[0])
        metrics.compute()
        metrics.reset()
        for arguments in data[:3]:
            metrics.update(*arguments)
    for arguments in data[3:]:
        metrics.update(*arguments)
    twin, _ = samples(kind, 6)
    for arguments in data:
        twin.update(*arguments)
    assert same(metrics.compute(), twin.compute())
