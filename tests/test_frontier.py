"""The metric over its costs: a panel a cost, a named point a level, and the levels that nothing beats."""

import random

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from paribus.report.frontier import amount, frontier_picture, unbeaten
from test_costs import RATES, runs


def points(axes):
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "D"]


def test_the_picture_has_a_named_point_a_level(tmp_path):
    comparison = runs(tmp_path / "x")
    picture = frontier_picture(comparison)
    (axes,) = picture.whole.axes
    assert points(axes) == [(0.5, pytest.approx(52)), (11, pytest.approx(61)), (200, pytest.approx(41))]
    bars = [line.get_ydata() for line in axes.lines if line.get_marker() == "None"]
    level = comparison.levels[0].summary
    assert list(bars[0]) == pytest.approx([52 - 100 * level.half, 52 + 100 * level.half])
    assert list(bars[-1]) == pytest.approx([61, 41])  # the line of those that nothing beats
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["middle", "slow", "fast"]  # from the top
    assert axes.get_xlabel() == "images a second (more is better)"


def test_each_cost_that_differs_has_a_panel(tmp_path):
    macs, parameters = {"slow": 1e9, "middle": 1e8, "fast": 1e7}.get, dict.fromkeys(RATES, 5).get
    picture = frontier_picture(runs(tmp_path / "x", macs=macs, parameters=parameters))
    titles = ["multiply-adds of an image (less is better)", "images a second (more is better)"]
    assert [axes.get_xlabel() for axes in picture.whole.axes] == titles
    assert [figure.axes[0].get_xlabel() for figure in picture.panels] == titles
    assert "multiply-adds of an image, images a second" in picture.alt
    assert frontier_picture(runs(tmp_path / "y", {"slow": [1, 1, 1]})) is None


def test_unbeaten_against_brute_force():
    dice = random.Random(0)
    for more in (True, False):
        for _ in range(200):
            found = [(dice.randint(1, 6), dice.randint(1, 6)) for _ in range(dice.randint(1, 8))]
            sign = 1 if more else -1
            beaten = {
                (x, y)
                for x, y in found
                for a, b in found
                if (a, b) != (x, y) and sign * a >= sign * x and b >= y
            }
            assert unbeaten(found, more=more) == sorted(set(found) - beaten)


def test_names_hide_neither_points_nor_each_other(tmp_path):
    rates = {f"a level with a long name {i}": [20 + i, 20 + i] for i in range(6)} | {
        "slow": [1, 1],
        "fast": [90, 90],
    }
    scores = {level: [0.5 + 0.001 * i, 0.5] for i, level in enumerate(rates)}
    drawn = frontier_picture(runs(tmp_path / "x", rates, scores)).whole
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in drawn.axes[0].texts]
    assert len(boxes) == 8
    for i, box in enumerate(boxes):
        assert drawn.bbox.x0 <= box.x0
        assert box.x1 <= drawn.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[:i])
    for text in drawn.texts:
        assert text.get_window_extent(canvas.get_renderer()).x1 <= drawn.bbox.x1


def test_of_many_levels_the_unbeaten_and_the_baseline_are_named(tmp_path):
    rates = {"slow": [1.0, 1.0]} | {f"level {i}": [10.0 + i, 10.0 + i] for i in range(10)}
    scores = {"slow": [0.5, 0.51]} | {f"level {i}": [0.6 - 0.01 * (i != 9), 0.6] for i in range(10)}
    picture = frontier_picture(runs(tmp_path / "x", rates, scores))
    assert {text.get_text() for text in picture.whole.axes[0].texts} == {"level 9", "slow"}
    assert "They and the baseline are named." in picture.caption


def test_what_is_said_below_ends_inside_the_page(tmp_path):
    comparison = runs(tmp_path / "x")
    renamed = comparison.__class__(**{**vars(comparison), "baseline": "a level with a long name " * 4})
    drawn = frontier_picture(renamed).whole
    assert len(drawn.texts) > 4  # the title, and three sentences in more lines
    for text in drawn.texts:
        box = text.get_window_extent(FigureCanvasAgg(drawn).get_renderer())
        assert drawn.bbox.x0 <= box.x0 < box.x1 <= drawn.bbox.x1, text


def test_of_a_loss_less_is_up(tmp_path):
    comparison = runs(tmp_path / "x")
    assert not frontier_picture(comparison).whole.axes[0].yaxis_inverted()
    loss = frontier_picture(comparison.__class__(**{**vars(comparison), "mode": "min"})).whole.axes[0]
    assert loss.yaxis_inverted()
    assert list(loss.lines[-1].get_ydata()) == pytest.approx([41])  # the fastest has the least, too


def test_amounts_in_few_letters():
    assert [amount(value) for value in (0.5, 12, 1000, 74874, 2.5e6, 1.8e9)] == [
        "0.5", "12", "1k", "74.9k", "2.5M", "1.8G",
    ]  # fmt: skip
