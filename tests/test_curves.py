"""Precision over recall: the table and the picture."""

import csv
import io
import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from detections import detection_data
from paribus.curves import figure, table
from paribus.metrics import DetectionMetrics
from test_metrics import names

pytestmark = pytest.mark.filterwarnings("ignore:.*was called before the ``update`` method")


def judged(classes, images=30, absent=()):
    metrics = DetectionMetrics(names(classes))
    metrics.update(*detection_data(images, classes, seed=classes, absent=absent) if images else ([], []))
    return metrics


def test_the_table_holds_the_average_precisions():
    metrics = judged(4, absent=(2,))
    rows = list(csv.DictReader(io.StringIO(table(metrics.curves, metrics.classes))))
    assert list(rows[0]) == ["class", "iou", "recall", "precision", "score"]
    assert {row["class"] for row in rows} == {"class0", "class1", "class3", "mean"}
    assert len(rows) == 2 * 4 * 101
    assert [row["recall"] for row in rows[:3]] == ["0.0", "0.01", "0.02"]
    by_class, values = metrics.per_class(), metrics.compute()
    for iou, name in (("0.5", "ap50"), ("0.75", "ap75")):
        for of, expected in [("mean", values[name]), *zip(by_class["class"], by_class[name], strict=True)]:
            found = [float(row["precision"]) for row in rows if (row["class"], row["iou"]) == (of, iou)]
            if math.isnan(expected):
                assert not found
            else:
                assert np.mean(found) == pytest.approx(expected, abs=1e-12)


def test_the_score_that_reaches_a_recall():
    metrics = judged(1)
    rows = list(csv.DictReader(io.StringIO(table(metrics.curves, ["cat"]))))
    half = [row for row in rows if (row["class"], row["iou"]) == ("cat", "0.5")]
    reached = [row for row in half if row["score"]]
    assert all(
        float(row["precision"]) == 0 for row in half[len(reached) :]
    )  # no score reaches the last recalls
    scores = [float(row["score"]) for row in reached]
    assert scores == sorted(scores, reverse=True)
    found, truth, _ = metrics.judged
    from paribus.metrics.matching import matches, overlaps

    which = matches(metrics.judged, overlaps(metrics.judged))
    sure = found.scores >= scores[50] - 1e-6  # all at or above it find half of the objects, at least
    assert (which[sure] >= 0).sum() / (~truth.crowd).sum() >= 0.5
    assert (which[found.scores > scores[50] + 1e-6] >= 0).sum() / (~truth.crowd).sum() < 0.5


@pytest.mark.parametrize("classes", [1, 3, 12, 40])
def test_the_picture_names_what_it_draws_within_its_page(classes):
    metrics = judged(classes, images=60)
    drawn = figure(metrics.curves, [f"class number {i}" for i in range(classes)], title="test")
    half, quarters = drawn.axes
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["IoU 0.50", "IoU 0.75"]
    mean = half.lines[-1]
    assert mean.get_ydata().mean() == pytest.approx(100 * metrics.compute()["ap50"])
    assert quarters.lines[-1].get_ydata().mean() == pytest.approx(100 * metrics.compute()["ap75"])
    legend = [text.get_text() for text in drawn.legends[0].get_texts()]
    named = classes if classes <= 12 else 6
    assert len(legend) == named + 1
    assert legend[-1].endswith("mean")
    assert f"{100 * metrics.compute()['ap50']:.1f}" in legend[-1]
    grey = f"{classes - 6} more classes in grey"
    assert (grey in drawn.texts[1].get_text()) == (classes > 12)
    assert (
        len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in half.lines[-named - 1 :]})
        == named + 1
    )
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    renderer, page = canvas.get_renderer(), drawn.bbox
    for text in [*drawn.texts, *drawn.legends[0].get_texts()]:
        box = text.get_window_extent(renderer)
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1


def test_a_set_without_objects_is_drawn():
    metrics = judged(2, images=0)
    assert table(metrics.curves, ["a", "b"]) == "class,iou,recall,precision,score\n"
    drawn = figure(metrics.curves, ["a", "b"], title="val")
    assert "no object in the set" in drawn.texts[1].get_text()
    FigureCanvasAgg(drawn).draw()
