"""Committed tables held against runs made again."""

import pytest

from command_line import script
from made_runs import SCORES, make_ablation
from paribus.report.comparison import compare
from paribus.report.reproduction import reproduced, summary, tables
from paribus.report.table import table_csv
from paribus.results import find_runs, write_text


def committed(folder, scores=SCORES):
    """results/<name>/table.csv of made-up runs."""
    made = make_ablation(folder / "made" / "norm", scores)
    (folder / "results" / "norm").mkdir(parents=True)
    write_text(folder / "results" / "norm" / "table.csv", table_csv(compare(find_runs(made))))
    return folder / "results" / "norm" / "table.csv"


def outcomes(table, root):
    return {row.level: row.outcome for row in reproduced(table, root)}


def test_the_same_runs_are_equal(tmp_path):
    table = committed(tmp_path)
    assert outcomes(table, tmp_path / "made") == dict.fromkeys(SCORES, "equal")


def test_the_tolerance_is_that_of_both_intervals(tmp_path):
    """none is 0.62 with std 0.02, so half a width of 4.3027 x 0.02 / sqrt(3) = 0.0497; both sqrt(2) of it, 0.0703."""
    table = committed(tmp_path)
    for shift, outcome in ((0.070, "within"), (0.071, "outside")):
        root = tmp_path / outcome
        make_ablation(root / "norm", SCORES | {"none": [score - shift for score in SCORES["none"]]})
        row = reproduced(table, root)[0]
        assert row.tolerance == pytest.approx(0.0703, abs=1e-4)
        assert row.outcome == outcome
        assert outcomes(table, root) == {"none": outcome, "batch": "equal", "group": "equal"}


def test_what_was_not_made_again_is_missing_and_one_seed_has_no_tolerance(tmp_path):
    table = committed(tmp_path)
    assert set(outcomes(table, tmp_path / "nothing").values()) == {"missing"}
    make_ablation(tmp_path / "one" / "norm", {"none": [0.62], "batch": [0.9101]})
    assert outcomes(table, tmp_path / "one") == {"none": "equal", "batch": "outside", "group": "missing"}
    assert summary(reproduced(table, tmp_path / "one")).startswith(
        "3 levels: 1 equal, 1 outside, 1 missing; "
    )


def test_the_command(tmp_path):
    committed(tmp_path)
    make_ablation(tmp_path / "runs" / "norm")
    same = script("report", "against=results", cwd=tmp_path)
    assert same.returncode == 0, same.stderr
    assert "3 levels: 3 equal; 0 verdicts changed." in same.stdout
    other = script("report", "against=results", "root=made_elsewhere", cwd=tmp_path)
    assert other.returncode == 1
    assert "3 missing" in other.stdout
    wrong = script("report", "against=results", "ablation=depth", cwd=tmp_path)
    assert "holds no table of depth; there are: norm" in wrong.stderr


def test_a_folder_without_tables_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no tables"):
        tables(tmp_path)
