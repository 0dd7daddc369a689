"""The index of all that lies under a root."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from made_runs import SCORES, make_ablation, make_run
from paribus.report import index
from paribus.report import run as report
from paribus.results import find_runs
from test_page import Page

ROOT = Path(__file__).parents[1]

PRINTED = """
runs     levels  seeds  done  failed  left  best
────────────────────────────────────────────────────────────────────────────────
norm          3      3     8       1     0  batch, test/accuracy 91.0 ± 2.5 %
partial       4      3     7       0     5  batch, test/accuracy 91.0 ± 2.5 %
sweep         2      1     2       0     0  0.1, test/accuracy 70.00 %
two                        2       0     0  these runs answer several questions,
                                            report one at a time: other, two

run           metric                 status
───────────────────────────────────────────
one/seed=0    test/accuracy 50.00 %  done
other/seed=3                         failed

Index: runs/index.html"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Ablations whole and partial, a plain sweep, single runs, and a folder that cannot be compared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    root = Path("runs")
    make_ablation(root / "norm", SCORES | {"none": [0.6, 0.62]})
    config = find_runs(root / "norm")[0].config | {"backbone": {"norm": "none"}}
    make_run(root / "norm", seed=2, config=config, factors={"backbone.norm": "none"}, status="failed")
    node = {
        "factors": {"backbone.norm": ["none", "batch", "group", "<b>layer"]},
        "question": "Does <b> help?",
    }
    make_ablation(root / "partial", SCORES | {"none": [0.6]}, node=node)
    for lr in (0.1, 0.2):
        values = {"metrics": {"test/accuracy": 0.8 - lr}}
        make_run(
            root / "sweep", seed=0, config={"optimizer": {"lr": lr}}, factors={"optimizer.lr": lr}, **values
        )
    make_run(root / "one", seed=0, config={}, factors={}, metrics={"test/accuracy": 0.5})
    make_run(root / "other", seed=3, config={}, factors={}, status="failed")
    for i, name in enumerate(("two", "other")):
        config = {"name": name, "ablation": {"factors": {name: [1]}}}
        make_run(root / "two", seed=i, config=config, factors={name: 1})
    return root


def test_the_index_on_the_terminal(here, capsys):
    assert index.run(root=here) == here / "index.html"
    assert "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines()) == PRINTED


def test_the_page_has_the_questions_and_leads_to_the_reports_that_are_there(here):
    report.run(folder=here / "norm")
    page = Page(index.run(root=here).read_text())
    assert page.rows[0] == ["runs", "question", "best", "report", "levels", "seeds", "done", "failed", "left"]
    norm, partial, sweep, two = page.rows[1:5]
    assert norm == [
        "norm",
        "Does normalization help?",
        "batch, test/accuracy 91.0 ± 2.5 %",
        "report",
        *"33810",
    ]
    assert partial[1:4] == ["Does <b> help?", "batch, test/accuracy 91.0 ± 2.5 %", ""]
    assert sweep[1] == "test/accuracy by optimizer.lr"
    assert two[1:4] == ["", "these runs answer several questions, report one at a time: other, two", ""]
    (link,) = page.all("a")
    assert link["href"] == "norm/report/report.html"
    assert (here / link["href"]).is_file()
    assert page.rows[-2:] == [["one/seed=0", "test/accuracy 50.00 %", "done"], ["other/seed=3", "", "failed"]]


def test_links_lead_from_wherever_the_index_lies(here):
    report.run(folder=here / "norm")
    page = Page(index.run(root=here, output="elsewhere/deep").read_text())
    (link,) = page.all("a")
    assert Path("elsewhere/deep", link["href"]).resolve() == (here / "norm/report/report.html").resolve()


def test_the_index_is_the_same_each_time(here):
    first = index.run(root=here).read_bytes()
    assert index.run(root=here).read_bytes() == first


def test_the_command_with_nothing_said(here):
    program = [sys.executable, str(ROOT / "scripts/report.py")]
    done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n".join(line.rstrip() for line in done.stdout.splitlines()) == PRINTED


def test_a_root_without_runs(tmp_path):
    with pytest.raises(
        ValueError, match=r"say `ablation=<name>` or `runs=<folder>`; there are no runs in .* yet"
    ):
        index.run(root=tmp_path)
