"""The metric of drawn images is that of a set in which each is as often as it was drawn."""

import numpy as np
import pytest
import torch

from detections import by_pycocotools, coco_format, detection_data
from paribus.judged_images import of_boxes, pixels
from paribus.metrics import DetectionMetrics, SegmentationMetrics
from paribus.report.images import IOUS, OF_PIXELS, read
from paribus.results import Run, write_text


def folder_of(path, **arrays) -> Run:
    np.savez_compressed(path / "images_test.npz", **arrays)
    return Run(path, {}, {})


def some_draws(number, many=5):
    """The set itself, and draws with replacement from it."""
    draw = np.random.default_rng(number)
    drawn = [np.bincount(draw.integers(0, number, number), minlength=number) for _ in range(many)]
    return np.array([np.ones(number), *drawn], float)


def repeated(items, counts):
    return [item for item, count in zip(items, counts.astype(int), strict=True) for _ in range(count)]


def test_accuracy_is_the_share_of_the_drawn_that_are_right(tmp_path):
    lines = ["id,label,prediction,correct", '"a,b.png",cat,cat,1', "c.png,cat,dog,0", "d.png,dog,dog,1"]
    write_text(tmp_path / "images_test.csv", "\n".join(lines) + "\n")
    found = read(Run(tmp_path, {}, {}), "test/accuracy")
    assert (found.number, found.correct.tolist()) == (3, [True, False, True])
    assert found.metric(np.array([[1.0, 1, 1], [0, 3, 0], [2, 1, 0]])).tolist() == [2 / 3, 0, 2 / 3]


@pytest.mark.parametrize("name", OF_PIXELS)
def test_masks_metrics_are_those_of_the_sums(tmp_path, name):
    draw = np.random.default_rng(3)
    target = draw.choice([0, 1, 2, 255], (9, 6, 8), p=[0.5, 0.3, 0.1, 0.1])
    target[:8][target[:8] == 2] = 0  # a class that is in the last image alone, and so not in every draw
    prediction = np.where(draw.random(target.shape) < 0.6, target, draw.integers(0, 2, target.shape))
    prediction[target == 255] = 1
    counts = pixels(torch.from_numpy(prediction), torch.from_numpy(target), 4, 255).numpy()
    ids = np.array([f"{i}.png" for i in range(9)])
    of_run = folder_of(
        tmp_path, ids=ids, **dict(zip(("hits", "truth", "predicted"), counts.swapaxes(0, 1), strict=True))
    )
    drawn = some_draws(9)
    drawn[-1, 8] = 0
    found = read(of_run, f"test/{name}").metric(drawn)
    for value, times in zip(found, drawn, strict=True):
        metric = SegmentationMetrics(["a", "b", "c", "never"])
        metric.update(*(torch.from_numpy(np.array(repeated(masks, times))) for masks in (prediction, target)))
        assert value == pytest.approx(metric.compute()[name], abs=1e-12)


def detections(images, classes, **more):
    """Made-up ones, with equal scores in different images but not within one: there a set has two orders."""
    predictions, targets = detection_data(images, classes, seed=images, **more)
    for prediction in predictions:
        prediction["scores"] = prediction["scores"] + 1e-4 * torch.arange(len(prediction["scores"]))
    return predictions, targets


@pytest.mark.parametrize(
    ("images", "classes", "more"),
    [(30, 3, {}), (25, 1, {}), (40, 6, {"absent": (2,), "most": 4}), (12, 1, {"most": 60})],
)
def test_average_precision_is_that_of_a_set_with_doubles(tmp_path, images, classes, more):
    predictions, targets = detections(images, classes, **more)
    names = [str(c) for c in range(classes)]
    whole = DetectionMetrics(names)
    whole.update(predictions, targets)
    ids = np.array([f"{i:03d}" for i in range(images)])
    of_run = folder_of(tmp_path, **of_boxes(whole.judged, ids, classes))
    drawn = some_draws(images)
    found = {name: read(of_run, f"test/{name}").metric(drawn) for name in IOUS}
    for i, times in enumerate(drawn):
        metric = DetectionMetrics(names)
        metric.update(repeated(predictions, times), repeated(targets, times))
        values = metric.compute()
        for name in IOUS:
            assert found[name][i] == pytest.approx(values[name], abs=1e-9, nan_ok=True), (name, i)
    assert 0.05 < found["ap"][0] < found["ap50"][0] < 1


def test_average_precision_is_pycocotools_of_a_set_with_doubles(tmp_path):
    predictions, targets = detections(20, 3)
    whole = DetectionMetrics(["a", "b", "c"])
    whole.update(predictions, targets)
    of_run = folder_of(tmp_path, **of_boxes(whole.judged, np.array([f"{i:02d}" for i in range(20)]), 3))
    drawn = some_draws(20, 2)
    found = read(of_run, "test/ap").metric(drawn)
    for value, times in zip(found, drawn, strict=True):
        doubled = coco_format(repeated(predictions, times), repeated(targets, times), 3)
        assert value == pytest.approx(by_pycocotools(*doubled)[0]["ap"], abs=1e-9)


def test_a_recall_is_reached_as_coco_reaches_it(tmp_path):
    """Of 100 objects 57 are found: 0.57 is a little less than COCO's, 0.01 times 57."""
    count = 100
    box = torch.tensor([[10.0, 10, 30, 30]])
    targets = [{"boxes": box, "labels": torch.zeros(1, dtype=torch.int64)} for _ in range(count)]
    predictions = [
        {"boxes": box + 100 * (i >= 57), "labels": torch.zeros(1, dtype=torch.int64), "scores": torch.ones(1) - i / 200}
        for i in range(count)
    ]  # fmt: skip
    metric = DetectionMetrics(["a"])
    metric.update(predictions, targets)
    of_run = folder_of(tmp_path, **of_boxes(metric.judged, np.array([f"{i:03d}" for i in range(count)]), 1))
    found = read(of_run, "test/ap50").metric(np.ones((1, count)))
    assert found[0] == pytest.approx(metric.compute()["ap50"], abs=1e-12)
    assert found[0] == pytest.approx(57 / 101, abs=1e-12)  # recalls 0 to 0.56


def test_where_there_is_no_object_there_is_no_average_precision(tmp_path):
    empty = {"image": np.zeros(0, int), "label": np.zeros(0, int), "score": np.zeros(0)}
    flags = {"right": np.zeros((10, 0), bool), "passed": np.zeros((10, 0), bool)}
    of_run = folder_of(
        tmp_path, ids=np.array(["a", "b"]), objects=np.array([[0, 0], [1, 0]]), **empty, **flags
    )
    found = read(of_run, "test/ap").metric(np.array([[1.0, 1], [2, 0]]))
    assert found[0] == 0
    assert np.isnan(found[1])


def test_what_a_run_has_not_written_is_none(tmp_path):
    assert read(Run(tmp_path, {}, {}), "test/accuracy") is None
    write_text(tmp_path / "images_test.csv", "id,label,prediction,correct\na,x,x,1\n")
    assert read(Run(tmp_path, {}, {}), "test/accuracy") is not None
    for metric in ("test/loss", "test/accuracy_macro", "val/accuracy", "accuracy"):
        assert read(Run(tmp_path, {}, {}), metric) is None
    (tmp_path / "images_test.csv").unlink()
    of_run = folder_of(tmp_path, ids=np.array(["a"]), hits=[[1]], truth=[[1]], predicted=[[1]])
    assert read(of_run, "test/ap") is None
    assert read(of_run, "test/boundary_f1") is None


def test_only_the_same_images_with_the_same_truth_are_the_same(tmp_path):
    def same(name, lines):
        (tmp_path / name).mkdir()
        write_text(tmp_path / name / "images_test.csv", "id,label,prediction,correct\n" + lines)
        return read(Run(tmp_path / name, {}, {}), "test/accuracy").same

    first = same("first", "a,x,x,1\nb,y,x,0\n")
    assert same("other predictions", "a,x,y,0\nb,y,y,1\n") == first
    assert same("other labels", "a,y,x,0\nb,y,x,0\n") != first
    assert same("other images", "a,x,x,1\nc,y,x,0\n") != first
    assert same("fewer", "a,x,x,1\n") != first
