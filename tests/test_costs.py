"""What levels cost: said where they differ in it, and not from different machines."""

import csv
import io

import pytest

from made_runs import make_run
from paribus.report import run as report
from paribus.report.comparison import compare
from paribus.report.costs import COSTS, costs, said, speeds
from paribus.report.table import table_csv
from paribus.results import find_runs

RATES = {"slow": [0.5, 0.6, 0.4], "middle": [10, 12, 11], "fast": [200, 150, 1250]}
SCORES = {"slow": [0.5, 0.52, 0.54], "middle": [0.6, 0.61, 0.62], "fast": [0.4, 0.41, 0.42]}
MACS, PARAMETERS, SECONDS, SPEED = COSTS


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
    assert speeds(comparison) == {"slow": 0.5, "middle": 11, "fast": 200}
    assert [said(rate) for rate in (None, 0.5, 11, 77.88, 1250)] == ["", "0.5", "11", "77.9", "1,250"]


def test_each_level_has_its_runs_and_the_later_one_counts(tmp_path):
    comparison = runs(tmp_path / "x")
    config = comparison.runs[0].config
    late = {"metrics": {"test/ap": 0.7}, "started": "2026-01-01T00:00:00"}
    make_run(tmp_path / "x" / "again", seed=1, config=config, factors={"model": "slow"}, **late)
    found = {level.label: level.runs for level in compare(find_runs(tmp_path / "x")).levels}
    assert {level: sorted(of) for level, of in found.items()} == {level: [0, 1, 2] for level in RATES}
    assert found["slow"][1].metrics == {"test/ap": 0.7}


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
    assert not (output / "frontier.png").exists()
    assert "images_per_second" not in (output / "table.csv").read_text()


def test_times_of_different_machines_are_not_compared_and_counts_are(tmp_path):
    macs = {"slow": 1e9, "middle": 1e8, "fast": 1e7}.get
    for key, value in (
        ("device", lambda level: "cpu" if level == "slow" else "gpu"),
        ("threads", lambda level: 1 + (level == "slow")),
    ):
        comparison = runs(tmp_path / key, seconds=macs, macs=macs, **{key: value})
        assert (costs(comparison, SPEED), costs(comparison, SECONDS)) == ({}, {})
        assert costs(comparison, MACS) == {"slow": 1e9, "middle": 1e8, "fast": 1e7}
    beside = runs(tmp_path / "stacked", seconds=macs, stacked_with=lambda level: [1] * (level == "slow"))
    assert costs(beside, SECONDS) == {}
    same = runs(tmp_path / "same", seconds=macs)
    assert costs(same, SECONDS) == {"slow": 1e9, "middle": 1e8, "fast": 1e7}


def test_counts_that_are_about_equal_are_no_cost(tmp_path):
    assert (
        costs(runs(tmp_path / "x", parameters={"slow": 100, "middle": 101, "fast": 119}.get), PARAMETERS)
        == {}
    )
    assert costs(runs(tmp_path / "y", parameters={"slow": 100, "middle": 101, "fast": 121}.get), PARAMETERS)


def test_the_report_has_a_column_and_a_picture(tmp_path, capsys):
    comparison = runs(tmp_path / "x")
    output = report.run(folder=tmp_path / "x")
    printed, page = capsys.readouterr().out, (output / "report.md").read_text()
    header = "| model | n | test/ap % | std % | difference points | p | images/s | verdict |"
    assert header in page
    assert "| fast | 3 | 41.0 ± 2.5 | 1.0 | -11.0 ± 2.5 | 0.005 | 200 | worse |" in page
    assert "images/s: judged, without reading; the median of the seeds." in " ".join(page.split())
    assert "](frontier.svg)" in page
    assert "images/s" in printed
    assert (output / "frontier.png").stat().st_size > 10_000
    rows = list(csv.DictReader(io.StringIO(table_csv(comparison))))
    assert [float(row["images_per_second"]) for row in rows] == [0.5, 11, 200]
