"""The confusion matrix of a judged split: a table of counts, and a picture that shows them."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from composing import composed
from paribus import evaluate
from paribus.confusion import RIGHT, WRONG, Layout, figure, table, words, write
from paribus.door import quoted
from paribus.metrics import ClassificationMetrics
from paribus.results import Run
from paribus.train import run
from test_train import TASKS

NAMES = ["sky", "road, wet", "tree"]
COUNTS = np.array([[90, 10, 0], [0, 0, 0], [25, 25, 150]])


def pixels(palette=None) -> np.ndarray:
    return figure(COUNTS, NAMES, title="val", unit="pixels", palette=palette).astype(int)


def texts(counts, classes, title="val", unit="images") -> list[str]:
    return [word.text for word in words(counts, classes, title=title, unit=unit, beside=False)]


def ink(place, *said) -> list[int]:
    """What words take of the picture, or beyond it: left, top, right, bottom."""
    margin = 300
    canvas = Image.new("L", (place.width + 2 * margin, place.height + 2 * margin))
    for word in said:
        at = word.at[0] + margin, word.at[1] + margin
        write(canvas, ImageDraw.Draw(canvas), word._replace(at=at, color=255))
    return [edge - margin for edge in canvas.getbbox()]


def near(color, other) -> bool:
    return np.abs(np.array(color) - np.array(other)).max() <= 2


def test_the_table_is_read_back():
    rows = list(csv.reader(io.StringIO(table(COUNTS, NAMES))))
    assert rows[0] == ["truth \\ prediction", *NAMES]
    assert [row[0] for row in rows[1:]] == NAMES
    assert np.array([row[1:] for row in rows[1:]], int).tolist() == COUNTS.tolist()


def test_the_picture_says_rows_in_percent():
    found = texts(COUNTS, NAMES, "val flip", "pixels")
    assert found.count("sky") == found.count("tree") == 2  # at the left and on top
    assert [found.count(number) for number in ("90", "10", "12", "75", "0", "200")] == [1, 1, 2, 1, 0, 1]
    assert "80.0 % of 300 pixels are right" in found
    assert "val flip" in found
    assert found.count("none") == 1


def test_every_row_says_how_many_there_are():
    counts = np.diag([999_999, 12_345_678, 0, 3_000_000_000])
    found = texts(counts, list("abcd"))
    assert {"999,999", "12.3 M", "none", "3.00 G"} <= set(found)


def test_what_is_right_is_blue_and_what_is_wrong_orange():
    image, place = pixels(), Layout.of(NAMES)

    def corner(row, column):  # of a cell, where no number is
        x, y = place.middle(row, column)
        return image[round(y - 0.4 * place.cell), round(x - 0.4 * place.cell)]

    def ink(full, share):
        return 246 - np.sqrt(share) * (246 - np.array(full))

    assert near(corner(0, 0), ink(RIGHT, 0.9))
    assert near(corner(0, 1), ink(WRONG, 0.1))
    assert near(corner(2, 0), ink(WRONG, 0.125))
    assert near(corner(2, 2), ink(RIGHT, 0.75))
    assert near(corner(0, 2), [246] * 3)
    assert all(near(corner(1, column), [255] * 3) for column in range(3))  # not in the truth


def test_names_stand_beside_their_colours():
    palette = [(10, 200, 30), (250, 20, 240), (7, 8, 90)]
    image, plain = pixels(palette), pixels()
    for color in palette:
        inside = (np.abs(image - np.array(color)).max(2) <= 2).sum()
        assert inside >= 2 * 5 * 5
        assert (np.abs(plain - np.array(color)).max(2) <= 2).sum() == 0


@pytest.mark.parametrize("classes", [1, 2, 11, 40, 60, 300])
def test_any_number_of_classes_fits(classes):
    rng = np.random.default_rng(classes)
    counts = rng.integers(0, 1000, (classes, classes))
    names = [f"class number {i}" for i in range(classes)]
    assert ("class number 0" in texts(counts, names)) == (classes <= 64)
    place = Layout.of(names)
    image = figure(counts, names, title="test", unit="images", palette=[(9, 9, 9)] * classes)
    assert image.shape == (place.height, place.width, 3)
    assert max(image.shape) < 3200
    (left, top), said = place.corner, [*words(counts, names, title="test", unit="images", beside=True)]
    whole = ink(place, *said)
    assert min(whole[:2]) >= 0
    assert whole[2] <= place.width
    assert whole[3] <= place.height
    assert whole[3] - whole[1] > 20  # something is written
    for word in said:
        if word.text == names[-1]:  # neither into its cells nor into its neighbours
            box = ink(place, word)
            assert box[2] <= left or box[3] <= top
            assert min(box[2] - box[0], box[3] - box[1]) <= place.cell


def test_a_set_without_a_sample_is_drawn():
    nothing = np.zeros((2, 2), int)
    assert "nan % of 0 images are right" in texts(nothing, ["a", "b"])
    assert figure(nothing, ["a", "b"], title="val", unit="images").max() == 255


SMALL = [
    "data.reader.lengths={train: 16, val: 9, test: 11}",
    "data.batch_size=8",
    "backbone.channels=[4, 8]",
    "trainer.max_epochs=1",
    "trainer.progress=false",
]


@pytest.mark.parametrize("kind", ["label", "mask", "labels"])
def test_a_run_writes_what_it_judged(tmp_path, kind):
    run(composed(*SMALL, *TASKS[kind]), tmp_path / "run", in_sweep=True)
    done = Run.read(tmp_path / "run")
    for split, images in (("val", 9), ("test", 11)):
        written = tmp_path / "run" / f"confusion_{split}.csv"
        picture = tmp_path / "run" / "figures" / f"{split}_confusion.png"
        if kind == "labels":  # of several labels there is no such matrix
            assert not written.exists()
            assert not picture.exists()
            continue
        rows = list(csv.reader(io.StringIO(written.read_text())))
        counts = np.array([row[1:] for row in rows[1:]], int)
        per_class = done.result["per_class"][split]
        assert rows[0][1:] == per_class["class"]
        assert counts.sum(1).tolist() == per_class["pixels" if kind == "mask" else "images"]
        assert counts.sum() == images * (48 * 48 if kind == "mask" else 1)
        assert counts.trace() / counts.sum() == done.metrics[f"{split}/accuracy"]
        assert min(Image.open(picture).size) > 500


def test_an_evaluation_on_views_keeps_the_plain_one(tmp_path):
    run(composed(*SMALL), tmp_path / "run", in_sweep=True)
    plain = (tmp_path / "run" / "confusion_test.csv").read_text()
    evaluate.run(composed(quoted(f"run={tmp_path / 'run'}"), root="evaluate"))
    assert (tmp_path / "run" / "confusion_test.csv").read_text() == plain
    evaluate.run(composed(quoted(f"run={tmp_path / 'run'}"), "views=flip", root="evaluate"))
    assert (tmp_path / "run" / "confusion_test.csv").read_text() == plain
    assert (tmp_path / "run" / "confusion_test_flip.csv").is_file()
    assert (tmp_path / "run" / "figures" / "test_flip_confusion.png").is_file()


def test_the_classifiers_matrix_has_the_truth_in_rows():
    metrics = ClassificationMetrics(["a", "b"])
    metrics.update(torch.tensor([[0.0, 1.0]] * 3), torch.tensor([0, 0, 1]))
    assert table(metrics.confusion.numpy(), ["a", "b"]).splitlines()[1:] == ["a,0,2", "b,0,1"]
