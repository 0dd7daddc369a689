"""A detection set read as image labels, from the annotations to the numbers and the pictures of a run."""

import math

import numpy as np
import pytest

from composing import composed
from paribus import predict, train
from paribus.checks import check
from paribus.config import ConfigError
from paribus.data.image_labels import VocLabels
from paribus.data.samples import DataError
from paribus.results import Run
from small_data import voc, voc_xml

SIZE = (48, 64)
BOX = (1, 1, 9, 9)


def difficult(path, *marks):
    """Marks the objects of an annotation, in order."""
    text = path.read_text()
    for mark in marks:
        text = text.replace("<difficult>0", f"<difficult> {mark}", 1)
    path.write_text(text)


def targets(root, **options):
    reader = VocLabels(root=str(root), classes=["ball", "cube"], **options)
    return [sample.target.tolist() for sample in reader.split("train")]


def test_an_image_has_the_classes_of_its_objects(tmp_path):
    reader = VocLabels(root=str(voc(tmp_path)))
    assert (reader.target, reader.classes) == ("labels", ("ball", "cube"))
    split = reader.split("train")
    assert split.problems() == []
    assert split[0].target.dtype == np.float32
    assert split[1].id == "JPEGImages/train_001.jpg"
    assert split[1].image.shape == (*SIZE, 3)
    # The objects of scene(i): none, one of class i, one of i and one of i + 1.
    assert [s.target.tolist() for s in split] == [[0, 0], [0, 1], [1, 1], [0, 0], [1, 0], [1, 1]]
    assert all(path.is_file() for path in split.files())
    assert {path.name for path in split.files()} >= {"train.txt", "train_001.xml", "train_001.jpg"}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("ignore", [math.nan, 0, math.nan, 1]), ("keep", [1, 0, 1, 1]), ("drop", [0, 0, 0, 1])],
)
def test_what_a_difficult_object_says(tmp_path, rule, expected):
    voc(tmp_path, splits=("train",), each=1)
    path = tmp_path / "Annotations" / "train_000.xml"
    names = ["a", "a", "c", "d", "d", "d"]
    voc_xml(path, [(name, BOX) for name in names], SIZE)
    difficult(path, 1, 1, 1, 1, 0, 1)  # the second d decides, whatever comes before and after it
    reader = VocLabels(root=str(tmp_path), classes=["a", "b", "c", "d"], difficult=rule)
    assert np.array_equal(reader.split("train")[0].target, np.array(expected, np.float32), equal_nan=True)


def test_another_rule_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data.reader.difficult=skip: one of ignore, keep, drop"):
        VocLabels(root=str(voc(tmp_path)), difficult="skip")


def test_vocs_own_lists_say_the_same(tmp_path):
    voc(tmp_path, splits=("train",), each=3)
    difficult(tmp_path / "Annotations" / "train_002.xml", 1, 0)  # a ball, and a cube
    own = {"ball": [-1, -1, 0], "cube": [-1, 1, 1]}  # ImageSets/Main/<class>_train.txt, by VOC's definition
    read = np.array(targets(tmp_path))
    for column, marks in zip(read.T, own.values(), strict=True):
        assert np.nan_to_num(2 * column - 1, nan=0).tolist() == marks


def test_the_classes_found_are_the_objects_that_count(tmp_path):
    voc(tmp_path, splits=("train",), each=2)
    difficult(voc_xml(tmp_path / "Annotations" / "train_001.xml", [("ball", BOX), ("yak", BOX)], SIZE), 0, 1)
    found = {rule: VocLabels(root=str(tmp_path), difficult=rule).classes for rule in ("ignore", "drop")}
    assert found == {"ignore": ("ball", "yak"), "drop": ("ball",)}


def test_a_box_without_an_area_or_outside_is_a_class_all_the_same(tmp_path):
    voc(tmp_path, splits=("train",), each=3)
    voc_xml(tmp_path / "Annotations" / "train_001.xml", [("ball", (9, 9, 9, 20))], SIZE)
    voc_xml(tmp_path / "Annotations" / "train_002.xml", [("cube", (70, 0, 90, 9))], SIZE)
    assert targets(tmp_path) == [[0, 0], [1, 0], [0, 1]]


def test_unknown_classes_stop_or_are_passed_over(tmp_path):
    voc(tmp_path, splits=("train",), each=2)
    voc_xml(tmp_path / "Annotations" / "train_001.xml", [("balll", BOX), ("cube", BOX)], SIZE)
    (problem,) = VocLabels(root=str(tmp_path), classes=["ball", "cube"]).split("train").problems()
    assert (problem.index, problem.file) == (1, "Annotations/train_001.xml")
    assert problem.what == "JPEGImages/train_001.jpg has objects of the unknown class(es) ['balll']"
    assert targets(tmp_path, unknown="drop") == [[0, 0], [0, 1]]


def test_what_is_wrong_with_an_annotation_or_an_image_is_said(tmp_path):
    voc(tmp_path, splits=("train",), each=5)
    folder = tmp_path / "Annotations"
    (folder / "train_000.xml").write_text("<annotation><object>")
    voc_xml(folder / "train_001.xml", [("ball", BOX)], (100, 200))
    (folder / "train_002.xml").unlink()
    (tmp_path / "JPEGImages" / "train_003.jpg").unlink()
    problems = VocLabels(root=str(tmp_path), classes=["ball", "cube"]).split("train").problems()
    assert [problem.index for problem in problems] == [0, 1, 2, 3]
    assert "is no valid XML annotation" in problems[0].what
    assert "is made for 200 x 100, its image JPEGImages/train_001.jpg is 64 x 48" in problems[1].what
    assert [problem.what for problem in problems[2:]] == ["file is missing"] * 2
    with pytest.raises(DataError, match=r"JPEGImages does not exist: `data.reader.root` is the folder"):
        VocLabels(root=str(folder))


def test_splits_are_those_of_the_detection_set(tmp_path):
    voc(tmp_path, splits=("train", "val"), each=10)
    reader = VocLabels(root=str(tmp_path), splits={"train": "train", "test": "val"}, split={"val": 0.3})
    parts = [[s.id for s in reader.split(name)] for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [7, 3, 10]
    assert not set(parts[0]) & set(parts[1])
    everything = VocLabels(root=str(tmp_path), lists=None, split={"val": 0.2})
    assert [len(everything.split(name)) for name in ("train", "val")] == [16, 4]


def test_a_run_where_some_labels_are_not_judged(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = voc(tmp_path / "set", splits=("train", "val"), each=12)
    both = [path for path in root.glob("Annotations/*.xml") if path.read_text().count("<object>") == 2]
    for path in both:
        difficult(path, 1, 1)
    assert len(both) == 8
    data = ["data=voc_labels", f"data.reader.root={root}", "data.reader.classes=[ball, cube]"]
    small = ["data.size=[24, 32]", "data.batch_size=4", "data.num_workers=0", "backbone.channels=[4, 8]"]
    short = ["task=multilabel", "trainer.max_epochs=2", "trainer.progress=false"]
    train.run(composed(*data, *small, *short), tmp_path / "run", in_sweep=True)
    done = Run.read(tmp_path / "run")
    assert done.status == "done"
    assert {"val/map", "val/map_voc", "val/map_voc07", "test/map_voc"} <= done.metrics.keys()
    assert all(math.isfinite(value) for value in done.metrics.values())
    table = done.result["per_class"]["test"]
    assert table["images"] == [2, 2]  # those with one object, of 0 and 1 in turn
    assert len(table["ap_voc"]) == len(table["ap_voc07"]) == 2
    assert (tmp_path / "run" / "figures" / "test_examples.png").stat().st_size > 1000
    where = [f"run='{tmp_path / 'run'}'", f"images='{root / 'JPEGImages'}'"]
    answers = predict.run(composed(*where, root="predict")) / "predictions.csv"
    assert answers.read_text().splitlines()[0] == "file,ball,cube"
    assert len(answers.read_text().splitlines()) == 25


def test_a_task_with_one_class_an_image_is_refused():
    with pytest.raises(ConfigError, match=r"VocLabels, which answers with labels.*is label: task=multilabel"):
        check(composed("data=voc_labels", "task=classification"))
