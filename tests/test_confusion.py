"""The confusion matrix of a judged split: a table of counts, and a picture that shows them."""

import csv
import io

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from composing import composed
from paribus import evaluate
from paribus.confusion import RIGHT, WRONG, figure, table
from paribus.door import quoted
from paribus.metrics import ClassificationMetrics
from paribus.results import Run
from paribus.train import run
from test_train import TASKS

NAMES = ["sky", "road, wet", "tree"]
COUNTS = np.array([[90, 10, 0], [0, 0, 0], [25, 25, 150]])


def rendered(drawn) -> FigureCanvasAgg:
    drawn.set_dpi(100)
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    return canvas


def pixels(drawn) -> np.ndarray:
    return np.asarray(rendered(drawn).buffer_rgba())[..., :3].astype(int)


def texts(drawn) -> list[str]:
    return [text.get_text() for text in [*drawn.texts, *drawn.axes[0].texts]]


def near(color, other) -> bool:
    return np.abs(np.array(color) - np.array(other)).max() <= 2


def test_the_table_is_read_back():
    rows = list(csv.reader(io.StringIO(table(COUNTS, NAMES))))
    assert rows[0] == ["truth \\ prediction", *NAMES]
    assert [row[0] for row in rows[1:]] == NAMES
    assert np.array([row[1:] for row in rows[1:]], int).tolist() == COUNTS.tolist()


def test_the_picture_says_rows_in_percent():
    found = texts(figure(COUNTS, NAMES, title="val flip", unit="pixels"))
    assert found.count("sky") == found.count("tree") == 2  # at the left and on top
    assert [found.count(number) for number in ("90", "10", "12", "75", "0", "200")] == [1, 1, 2, 1, 0, 1]
    assert "80.0 % of 300 pixels are right" in found
    assert "val flip" in found
    assert found.count("none") == 1


def test_every_row_says_how_many_there_are():
    counts = np.diag([999_999, 12_345_678, 0, 3_000_000_000])
    found = texts(figure(counts, list("abcd"), title="test", unit="images"))
    assert {"999,999", "12.3 M", "none", "3.00 G"} <= set(found)


def test_what_is_right_is_blue_and_what_is_wrong_orange():
    drawn = figure(COUNTS, NAMES, title="val", unit="pixels")
    image, axes = pixels(drawn), drawn.axes[0]
    height = image.shape[0]

    def corner(row, column):  # of a cell, where no number is
        x, y = axes.transData.transform((column - 0.4, row - 0.4))
        return image[round(height - y), round(x)]

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
    image = pixels(figure(COUNTS, NAMES, title="val", unit="pixels", palette=palette))
    plain = pixels(figure(COUNTS, NAMES, title="val", unit="pixels"))
    for color in palette:
        inside = (np.abs(image - np.array(color)).max(2) <= 2).sum()
        assert inside >= 2 * 5 * 5
        assert (np.abs(plain - np.array(color)).max(2) <= 2).sum() == 0


@pytest.mark.parametrize("classes", [1, 2, 11, 40, 60, 300])
def test_any_number_of_classes_fits(classes):
    rng = np.random.default_rng(classes)
    counts = rng.integers(0, 1000, (classes, classes))
    names = [f"class number {i}" for i in range(classes)]
    drawn = figure(counts, names, title="test", unit="images")
    assert max(drawn.get_size_inches()) < 20
    assert ("class number 0" in texts(drawn)) == (classes <= 64)
    renderer, whole = rendered(drawn).get_renderer(), drawn.bbox
    for text in [*drawn.texts, *drawn.axes[0].texts]:
        box = text.get_window_extent(renderer)
        assert box.x0 >= whole.x0 - 1
        assert box.y0 >= whole.y0 - 1
        assert box.x1 <= whole.x1 + 1
        assert box.y1 <= whole.y1 + 1, text.get_text()
    side = drawn.axes[0].get_window_extent(renderer)
    across = [t.get_window_extent(renderer) for t in drawn.axes[0].texts if t.get_text() == names[-1]]
    if classes <= 64:  # neither into its cells nor into its neighbours
        assert all(box.x1 <= side.x0 or box.y0 >= side.y1 for box in across)
        assert min(box.width for box in across) <= side.width / classes


def test_a_set_without_a_sample_is_drawn():
    assert "nan % of 0 images are right" in texts(
        figure(np.zeros((2, 2), int), ["a", "b"], title="val", unit="images")
    )


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
