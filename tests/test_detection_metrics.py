"""Boxes and instance masks as pycocotools judges them."""

import gc
import math
import multiprocessing

import numpy as np
import pycocotools.mask
import pytest
import torch

from detections import COCO_NAMES, SIDE, by_pycocotools, coco_format, detection_data
from paribus.metrics import DetectionMetrics, coco
from paribus.metrics.judged import encoded
from test_metrics import names, same

pytestmark = pytest.mark.filterwarnings("ignore:.*was called before the ``update`` method")


@pytest.fixture(params=["hotcoco", "faster-coco-eval"])
def library(request, monkeypatch) -> str:
    """What computes COCO's protocol."""
    monkeypatch.setattr(coco, "_hotcoco", lambda: request.param == "hotcoco")
    return request.param


NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
BOX = {"boxes": torch.tensor([[1.0, 1, 50, 50]]), "labels": torch.tensor([0]), "scores": torch.ones(1)}


def updated(predictions, targets, classes, batch=4):
    metrics = DetectionMetrics(names(classes))
    for i in range(0, len(targets), batch):
        metrics.update(predictions[i : i + batch], targets[i : i + batch])
    return metrics


@pytest.mark.parametrize(
    ("images", "classes", "most", "absent"),
    [(40, 5, 12, ()), (6, 3, 120, (1,)), (15, 1, 9, ()), (1, 4, 5, (2, 3)), (25, 2, 60, ())],
    ids=["crowds and empty images", "over 100 detections, an absent class", "one class", "one image", "many"],
)
def test_boxes_equal_pycocotools(library, images, classes, most, absent, capfd):
    predictions, targets = detection_data(images, classes, seed=images, most=most, absent=absent)
    metrics = updated(predictions, targets, classes)
    values, table = metrics.compute(), metrics.per_class()
    assert capfd.readouterr() == ("", "")  # the library prints, we do not
    expected, by_class = by_pycocotools(*coco_format(predictions, targets, classes))
    if most > 100:
        assert max(len(p["boxes"]) for p in predictions) > 100
    assert list(values) == [*COCO_NAMES, "ap_voc07", "ap_voc"]
    assert 0.01 < values["ap"] < 0.99
    assert same({name: values[name] for name in COCO_NAMES}, expected, 1e-9)
    assert same({name: table[name] for name in by_class}, by_class, 1e-9)
    for c in absent:
        assert math.isnan(table["ap"][c])
        assert table["objects"][c] == 0
    ordinary = [t["labels"][t["iscrowd"] == 0] for t in targets]
    assert table["objects"] == torch.bincount(torch.cat(ordinary), minlength=classes).tolist()


@pytest.mark.parametrize(("images", "classes"), [(30, 3), (4, 1)])
def test_masks_equal_pycocotools(library, images, classes):
    predictions, targets = detection_data(images, classes, seed=images, masks=True)
    metrics = updated(predictions, targets, classes)
    values, table = metrics.compute(), metrics.per_class()
    expected, by_class = by_pycocotools(*coco_format(predictions, targets, classes), "segm")
    assert 0.01 < values["mask_ap"] < 0.99
    assert same({name: values[f"mask_{name}"] for name in COCO_NAMES}, expected, 1e-9)
    assert same([table["mask_ap"], table["mask_ap50"]], [by_class["ap"], by_class["ap50"]], 1e-9)
    plain = updated([{k: v for k, v in p.items() if k != "masks"} for p in predictions], targets, classes)
    boxes = plain.compute()  # without masks on either side there is nothing to say of them
    assert set(values) - set(boxes) == {f"mask_{name}" for name in COCO_NAMES}
    assert same(boxes, {name: values[name] for name in boxes})


def test_masks_are_kept_as_run_lengths():
    predictions, targets = detection_data(3, 2, seed=0, masks=True)
    metrics = updated(predictions, targets, 2)
    large = {"boxes": torch.tensor([[0.0, 0, 900, 900]]), "labels": torch.tensor([0])}
    large["masks"] = torch.ones(1, 1000, 1000, dtype=torch.uint8)
    metrics.update([large | {"scores": torch.ones(1)}], [large])
    assert metrics.found_masks[-1].numel() < 20
    assert metrics.sizes[-1].tolist() == [[1000, 1000]]
    assert metrics.sizes[0].tolist() == [[SIDE, SIDE]]
    codes = metrics.judged.truth.masks
    assert len(codes) == sum(len(t["boxes"]) for t in targets) + 1


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize(
    "shape", [(0, 3, 4), (0, 0, 0), (1, 1, 1), (3, 1, 5), (3, 5, 1), (4, 7, 2), (3, 40, 60)]
)
def test_run_lengths_are_those_of_coco(shape, dtype):
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        masks = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < share
        codes = pycocotools.mask.encode(np.asfortranarray(masks.permute(1, 2, 0).byte())) if shape[0] else []
        expected = b"\n".join(code["counts"] for code in codes)
        for given in (masks.to(dtype), 3 * masks.to(dtype) if dtype == torch.uint8 else masks):
            assert bytes(encoded(given).numpy()) == expected


def test_no_ground_truth_and_no_detections(library):
    metrics = updated([NOTHING, BOX], [NOTHING, NOTHING], 2)
    assert all(math.isnan(value) for value in metrics.compute().values())
    metrics.reset()
    metrics.update([NOTHING, NOTHING], [BOX, NOTHING])
    values, table = metrics.compute(), metrics.per_class()
    assert (
        values["ap"] == values["ar100"] == values["ap_medium"] == values["ap_voc"] == values["ap_voc07"] == 0
    )
    assert math.isnan(values["ap_small"])
    assert math.isnan(values["ar_large"])
    columns = ["ap", "ap50", "ap75", "ar100", "ap_voc07", "ap_voc"]
    assert list(table) == ["class", *columns, "objects"]
    assert all(same(table[name], [0.0, math.nan]) for name in columns)
    assert table["objects"] == [1, 0]


def test_labels_outside_the_classes_are_refused():
    box = BOX | {"labels": torch.tensor([2])}
    metrics = updated([box], [box], 2)
    with pytest.raises(AssertionError, match=r"0 .. 1"):
        metrics.compute()


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_the_truth_may_be_arrays_also_of_a_packed_file():
    predictions, targets = detection_data(6, 3, seed=1)
    arrays = [
        {key: value.numpy() for key, value in t.items()} | {"size": np.array([300, 400])} for t in targets
    ]
    for array in arrays[0].values():
        array.setflags(write=False)
    metrics = updated(predictions, arrays, 3)
    assert same(metrics.compute(), updated(predictions, targets, 3).compute())
    assert metrics.judged.sizes.tolist() == [[300, 400]] * 6


def test_difficult_objects_are_passed_over_by_vocs_protocol_alone():
    predictions, targets = detection_data(30, 3, seed=2, difficult=0.4)
    plain = [{key: value for key, value in t.items() if key != "difficult"} for t in targets]
    marked, unmarked = updated(predictions, targets, 3).compute(), updated(predictions, plain, 3).compute()
    assert same({n: marked[n] for n in COCO_NAMES}, {n: unmarked[n] for n in COCO_NAMES})
    assert marked["ap_voc"] != unmarked["ap_voc"]
    assert marked["ap_voc07"] != unmarked["ap_voc07"]


def test_python_looks_for_garbage_after_judging_as_it_did_before():
    predictions, targets = detection_data(3, 2, seed=0)
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            metric = DetectionMetrics(["a", "b"])
            metric.update(predictions, targets)
            metric.compute()
            assert gc.isenabled() is enabled
        finally:
            gc.enable()


def test_a_fork_of_a_process_that_has_judged_judges_too():
    """Where it would use hotcoco's threads, which it has not, it would stand still."""
    predictions, targets = detection_data(5, 2, seed=1)
    expected = updated(predictions, targets, 2).compute()
    assert coco._hotcoco()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.apply_async(_judged, (predictions, targets)).get(timeout=60)
    assert same(found, expected, 1e-12)


def _judged(predictions, targets):
    assert not coco._hotcoco()
    return updated(predictions, targets, 2).compute()
