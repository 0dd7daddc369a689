"""Speed in a report: said where the levels differ in it, and drawn beside the metric."""

import csv
import io

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from made_runs import make_run
from paribus.report import run as report
from paribus.report.comparison import compare
from paribus.report.speed import said, speed_figure, speeds
from paribus.results import find_runs

RATES = {"slow": [0.5, 0.6, 0.4], "middle": [10, 12, 11], "fast": [200, 150, 1250]}
SCORES = {"slow": [0.5, 0.52, 0.54], "middle": [0.6, 0.61, 0.62], "fast": [0.4, 0.41, 0.42]}


def runs(root, rates=RATES, scores=SCORES, **more):
    node = {
        "question": "Which detector?",
        "factors": {"model": list(rates)},
        "seeds": [0, 1, 2],
        "metric": "test/ap",
        "baseline": {"model": "slow"},
    }
    for level, values in rates.items():
        for seed, rate in enumerate(values):
            speed = {"judged_images_per_second": rate, "device": "cpu"}
            result = (
                speed
                | {"metrics": {"test/ap": scores[level][seed]}}
                | {key: value(level) for key, value in more.items()}
            )
            make_run(root, seed=seed, config={"ablation": node}, factors={"model": level}, **result)
    return compare(find_runs(root))


def test_a_levels_speed_is_the_median_of_its_seeds(tmp_path):
    comparison = runs(tmp_path / "x")
    assert comparison.levels[2].speeds == {0: 200, 1: 150, 2: 1250}
    assert speeds(comparison) == {"slow": 0.5, "middle": 11, "fast": 200}
    assert [said(rate) for rate in (None, 0.5, 11, 77.88, 1250)] == ["", "0.5", "11", "77.9", "1,250"]


@pytest.mark.parametrize(
    "rates",
    [
        {"slow": [10, 11, 12], "fast": [13, 12, 14]},  # no more apart than seeds are
        {"slow": [10, 10, 10], "fast": [11.9, 11.9, 11.9]},
        {"slow": [10, 10, 10]},
        {"slow": [None, None], "fast": [10, 20]},  # runs of before
    ],
)
def test_speeds_that_say_nothing_are_left_out(tmp_path, rates, capsys):
    comparison = runs(tmp_path / "x", rates)
    assert speeds(comparison) == {}
    output = report.run(folder=tmp_path / "x")
    assert "images/s" not in capsys.readouterr().out + (output / "report.md").read_text()
    assert not (output / "speed.png").exists()
    assert "images_per_second" not in (output / "table.csv").read_text()


def test_speeds_of_different_machines_are_not_compared(tmp_path):
    assert speeds(runs(tmp_path / "x", device=lambda level: "cpu" if level == "slow" else "gpu")) == {}
    assert speeds(runs(tmp_path / "y", threads=lambda level: 1 + (level == "slow"))) == {}


def test_the_report_has_a_column_and_a_picture(tmp_path, capsys):
    comparison = runs(tmp_path / "x")
    output = report.run(folder=tmp_path / "x")
    printed, page = capsys.readouterr().out, (output / "report.md").read_text()
    header = "| model | n | test/ap % | std % | difference points | p | images/s | verdict |"
    assert header in page
    assert "| fast | 3 | 41.0 ± 2.5 | 1.0 | -11.0 ± 2.5 | 0.005 | 200 | worse |" in page
    assert "images/s: judged, without reading; the median of the seeds." in " ".join(page.split())
    assert "](speed.png)" in page
    assert "images/s" in printed
    assert f"Speed:   {output / 'speed.png'}" in printed
    assert (output / "speed.png").stat().st_size > 10_000
    rows = list(csv.DictReader(io.StringIO(report.table_csv(comparison))))
    assert [float(row["images_per_second"]) for row in rows] == [0.5, 11, 200]


def test_the_picture_has_a_named_point_a_level(tmp_path):
    comparison = runs(tmp_path / "x")
    drawn = speed_figure(comparison)
    (axes,) = drawn.axes
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "D"]
    assert points == [(0.5, pytest.approx(52)), (11, pytest.approx(61)), (200, pytest.approx(41))]
    bars = [line.get_ydata() for line in axes.lines if line.get_marker() == "None"]
    level = comparison.levels[0].summary
    assert list(bars[0]) == pytest.approx([52 - 100 * level.half, 52 + 100 * level.half])
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["middle", "slow", "fast"]  # from the top


def test_names_hide_neither_points_nor_each_other(tmp_path):
    rates = {f"a level with a long name {i}": [20 + i, 20 + i] for i in range(6)} | {
        "slow": [1, 1],
        "fast": [90, 90],
    }
    scores = {level: [0.5 + 0.001 * i, 0.5] for i, level in enumerate(rates)}
    drawn = speed_figure(runs(tmp_path / "x", rates, scores))
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in drawn.axes[0].texts]
    for i, box in enumerate(boxes):
        assert drawn.bbox.x0 <= box.x0
        assert box.x1 <= drawn.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[:i])
    for text in drawn.texts:
        assert text.get_window_extent(canvas.get_renderer()).x1 <= drawn.bbox.x1


def test_of_a_loss_less_is_up(tmp_path):
    comparison = runs(tmp_path / "x")
    assert not speed_figure(comparison).axes[0].yaxis_inverted()
    loss = speed_figure(comparison.__class__(**{**vars(comparison), "mode": "min"}))
    assert loss.axes[0].yaxis_inverted()
