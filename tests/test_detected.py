"""What a judged detector leaves behind: COCO's files, judged by pycocotools, by any number of processes, in any batches."""

import csv
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from command_line import script, succeeded
from composing import composed
from detections import COCO_NAMES, by_pycocotools, detection_data
from paribus import evaluate
from paribus.detected import Detected, annotations, predictions
from paribus.door import quoted
from paribus.metrics import DetectionMetrics
from paribus.metrics.detection_errors import KINDS
from paribus.results import Run, read_json
from paribus.train import run
from small_data import coco, voc_xml
from test_metrics import names, same

SMALL = [
    *["task=detection", "model=retinanet", "model.pyramid_channels=16", "model.levels=[4,8]"],
    *["model.score_thresh=0.001", "model.detections_per_img=20", "backbone.channels=[8,16]", "name=x"],
    *["data.num_workers=0", "trainer.progress=false", "trainer.threads=1"],
]
SPLITS = "data.reader.splits={train: train, val: val, test: test}"
SET = ["data=coco", "data.reader.classes=[ball,cube]", SPLITS, "data.batch_size=6", "data.size=[32,48]"]
HALF = [*SET, "data.fit=stretch", "trainer.max_epochs=3"]  # the files are 48 x 64: neither side by the same


def judged_here(files, kind="bbox"):
    """(the twelve numbers, those by class) by pycocotools, of two files of a run."""
    truth, found = (json.loads(file.read_text()) for file in files)
    if kind == "segm":
        found = [{key: value for key, value in row.items() if key != "bbox"} for row in found]
    return by_pycocotools(truth, found, kind)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on files of another size than the network's, and the set."""
    root = tmp_path_factory.mktemp("detected")
    coco(root / "set", each=11)
    run(composed(*SMALL, *HALF, quoted(f"data.reader.root={root / 'set'}")), root / "run")
    return root / "run", root / "set"


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_files_judged_by_pycocotools_give_the_runs_own_numbers(trained, split):
    folder, _ = trained
    values, by_class = judged_here([folder / f"truth_{split}.json", folder / f"predictions_{split}.json"])
    done = Run.read(folder)
    own = {name: done.metrics[f"{split}/{name}"] for name in COCO_NAMES}
    assert same({n: math.nan if v is None else v for n, v in own.items()}, values, 1e-9)
    assert same(done.result["per_class"][split]["ap"], by_class["ap"], 1e-9)
    assert 0 < values["ap"] < 1


def test_the_sets_own_annotations_give_them_too(trained):
    """Boxes are in pixels of the files, and the truth is theirs, whatever the network saw."""
    folder, root = trained
    official = read_json(root / "annotations" / "instances_test2017.json") | {"info": {}}
    truth, found = read_json(folder / "truth_test.json"), read_json(folder / "predictions_test.json")
    numbers = {f"test2017/{image['file_name']}": image["id"] for image in official["images"]}
    image = {one["id"]: numbers[one["file_name"]] for one in truth["images"]}
    category = {one["id"]: 10 * one["id"] for one in truth["categories"]}
    assert [one["name"] for one in truth["categories"]] == ["ball", "cube"]
    theirs = [
        row | {"image_id": image[row["image_id"]], "category_id": category[row["category_id"]]}
        for row in found
    ]
    values, _ = by_pycocotools(official, theirs)
    metrics = Run.read(folder).metrics
    assert values["ap"] == pytest.approx(metrics["test/ap"], abs=1e-9)
    assert values["ap_small"] == pytest.approx(metrics["test/ap_small"], abs=1e-9)
    for name in ("bbox", "area", "iscrowd"):
        assert [row[name] for row in truth["annotations"]] == [row[name] for row in official["annotations"]]
    boxes = np.array([row["bbox"] for row in found])
    assert (boxes[:, 0] + boxes[:, 2]).max() > 48  # of 64 pixels, where the network sees 48
    assert (boxes >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [64.0001, 48.0001]).all()


def test_what_else_is_written(trained):
    folder, _ = trained
    result, truth = Run.read(folder).result, read_json(folder / "truth_test.json")
    assert [image["id"] for image in truth["images"]] == list(range(1, 12))
    assert truth["images"][0] | {"file_name": ""} == {"id": 1, "file_name": "", "height": 48, "width": 64}
    assert "difficult" not in truth["annotations"][0]
    for split in ("val", "test"):
        errors = result["errors"][split]
        assert errors["error"] == list(KINDS)
        assert sum(errors["count"]) > 0
        rows = list(csv.DictReader(io.StringIO((folder / f"curves_{split}.csv").read_text())))
        half = [float(r["precision"]) for r in rows if (r["class"], r["iou"]) == ("ball", "0.5")]
        assert np.mean(half) == pytest.approx(result["per_class"][split]["ap50"][0])
        assert min(Image.open(folder / "figures" / f"{split}_curves.png").size) > 500
        for what in ("examples", "worst"):  # as large as the files, and magnified
            assert min(Image.open(folder / "figures" / f"{split}_{what}.png").size) > 500
    assert result["judged_images_per_second"] > 0


@pytest.mark.parametrize("batch", [1, 4, 11])
def test_an_evaluation_finds_the_same_in_any_batches(trained, tmp_path, batch, capsys):
    folder, _ = trained
    found = evaluate.run(
        composed(
            quoted(f"run={folder}"), quoted(f"output={tmp_path}"), f"batch_size={batch}", root="evaluate"
        )
    )
    metrics = Run.read(folder).metrics
    for name, value in found.items():
        own = metrics[name]
        assert math.isnan(value) if own is None else value == pytest.approx(own, rel=1e-6, abs=1e-6), name
    assert {"test/loss", "test/classification", "test/box"} <= set(found)
    written = read_json(tmp_path / "evaluation_test.json")
    errors = Run.read(folder).result["errors"]["test"]
    assert written["errors"]["count"] == errors["count"]
    assert written["errors"]["ap50_gained"] == pytest.approx(errors["ap50_gained"], abs=1e-6)
    assert written["judged_images_per_second"] > 0
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in KINDS)
    assert read_json(tmp_path / "truth_test.json") == read_json(folder / "truth_test.json")
    assert (tmp_path / "figures" / "test_curves.png").is_file()


@pytest.mark.slow
def test_two_processes_leave_what_one_does(trained, tmp_path):
    _, root = trained
    arguments = [
        *SMALL,
        *HALF,
        quoted(f"data.reader.root={root}"),
        "backbone.norm=group",
        "trainer.max_epochs=1",
    ]
    succeeded(script("train", *arguments, "trainer=ddp_cpu", cwd=tmp_path))
    (two,) = (Run.read(path) for path in tmp_path.glob("runs/x/*"))
    assert two.result["processes"] == 2
    found = evaluate.run(composed(quoted(f"run={two.path}"), quoted(f"output={tmp_path}"), root="evaluate"))
    for name, value in found.items():
        own = two.metrics[name]
        assert math.isnan(value) if own is None else value == pytest.approx(own, rel=1e-6, abs=1e-6), name
    assert read_json(tmp_path / "truth_test.json") == read_json(two.path / "truth_test.json")
    one, theirs = (read_json(path / "predictions_test.json") for path in (tmp_path, two.path))
    assert [row["image_id"] for row in one] == [row["image_id"] for row in theirs]
    assert np.array([row["bbox"] for row in one]) == pytest.approx(
        np.array([row["bbox"] for row in theirs]), abs=1e-3
    )
    assert (
        two.result["errors"]["test"]["count"]
        == read_json(tmp_path / "evaluation_test.json")["errors"]["count"]
    )


def test_masks_are_in_the_files_too(tmp_path):
    coco(tmp_path / "set", each=9)
    heads = ["model=mask_rcnn", "model.box_channels=32", "model.mask_channels=8", "model.num_proposals=20"]
    few = ["model.detections_per_img=8", "~model.score_thresh", "+model.score_thresh=0.0"]
    run(
        composed(
            *[one for one in SMALL if not one.startswith(("model.", "model="))],
            *[*heads, *few, "model.pyramid_channels=16", "model.levels=[4,8]", *SET, "data.fit=pad"],
            *["data.reader.masks=true", "trainer.max_epochs=6", "optimizer.lr=0.003"],
            quoted(f"data.reader.root={tmp_path / 'set'}"),
        ),
        tmp_path / "run",
    )
    done = Run.read(tmp_path / "run")
    files = [tmp_path / "run" / f"{name}_test.json" for name in ("truth", "predictions")]
    for kind, before in (("bbox", ""), ("segm", "mask_")):
        values, by_class = judged_here(files, kind)
        own = {name: done.metrics[f"test/{before}{name}"] for name in COCO_NAMES}
        assert same({n: math.nan if v is None else v for n, v in own.items()}, values, 1e-6), kind
        assert same(done.result["per_class"]["test"][f"{before}ap"], by_class["ap"], 1e-6)
    assert values["ap50"] > 0
    truth, found = (json.loads(file.read_text()) for file in files)
    assert truth["annotations"][0]["segmentation"]["size"] == found[0]["segmentation"]["size"] == [48, 64]


def test_other_tasks_leave_no_such_files(tmp_path):
    few = ["data.reader.lengths={train: 16, val: 5, test: 5}", "data.batch_size=16", "trainer.max_steps=1"]
    run(composed(*few, "name=x"), tmp_path / "run")
    assert not list((tmp_path / "run").glob("predictions_*"))
    assert not list((tmp_path / "run").glob("curves_*"))
    result = Run.read(tmp_path / "run").result
    assert "errors" not in result
    assert result["judged_images_per_second"] > 0


# --- the formats -----------------------------------------------------------------------------------


def judged(count=5, classes=3, **more):
    predictions_, targets = detection_data(count, classes, seed=count, **more)
    metrics = DetectionMetrics(names(classes))
    metrics.update(predictions_, targets)
    return metrics.judged


def test_numbers_have_no_more_digits_than_they_need():
    whole = judged()
    rows = predictions(whole)
    assert rows[0].keys() == {"image_id", "category_id", "bbox", "score"}
    boxes = np.array([row["bbox"] for row in rows])
    assert max(len(str(value)) for value in boxes.ravel()) <= 13
    assert (boxes[:, :2].astype(np.float32) == whole.found.boxes[:, :2].astype(np.float32)).all()
    assert {row["category_id"] for row in rows} == {1, 2, 3}
    assert np.array([row["score"] for row in rows]).astype(np.float32).tolist() == whole.found.scores.tolist()


def test_a_set_says_what_is_difficult():
    whole = judged(difficult=0.5)
    written = json.loads(annotations(whole, [f"{i}.jpg" for i in range(5)], names(3)))
    assert [row["difficult"] for row in written["annotations"]] == whole.truth.difficult.astype(int).tolist()
    assert written["images"][4]["file_name"] == "4.jpg"


@pytest.mark.filterwarnings("ignore:.*was called before the ``update`` method")
def test_nothing_found_is_an_empty_list(tmp_path):
    metrics = DetectionMetrics(["ball"])
    data = SimpleNamespace(classes=["ball"], splits={"val": []})
    trainer = SimpleNamespace(is_global_zero=True, datamodule=data)
    detected = Detected(tmp_path)
    detected.on_validation_start(trainer, None)
    detected.on_validation_epoch_end(trainer, SimpleNamespace(metrics={"val": metrics}))
    assert read_json(tmp_path / "predictions_val.json") == []
    assert read_json(tmp_path / "truth_val.json")["annotations"] == []


def test_vocs_difficult_objects_reach_the_judge(tmp_path):
    from paribus.data.detection import VocDetection
    from small_data import voc

    voc(tmp_path)
    voc_xml(tmp_path / "Annotations" / "test_001.xml", [("ball", (1, 1, 9, 9))], (48, 64), difficult=1)
    reader = VocDetection(root=str(tmp_path), classes=["ball", "cube"], splits={"test": "test"})
    assert reader.split("test")[1].target["difficult"].tolist() == [1]
    assert not reader.split("test")[2].target["difficult"].any()
