"""Sweeps through the command line: a bad run among good ones, and the same command again."""

from types import SimpleNamespace

import pytest

from command_line import SMALL, script, succeeded
from hydra_plugins.paribus_sweeper import ParibusSweeper
from paribus.results import Run, find_runs


@pytest.mark.slow
def test_a_failing_run_stops_nothing_and_is_named(tmp_path):
    sweep = ["-m", *SMALL, "model.dropout=0,2,0.1", "trainer.max_epochs=1"]
    done = script("train", *sweep, cwd=tmp_path)
    assert done.returncode == 1
    assert "1 run(s) failed:" in done.stderr
    assert "model.dropout=2" in done.stderr
    assert "dropout probability" in done.stderr
    assert "[1/3]" in done.stdout
    assert sorted(run.status for run in find_runs(tmp_path / "runs")) == ["done", "done", "failed"]
    finished = {
        run.path: run.result.get("finished") for run in find_runs(tmp_path / "runs") if run.status == "done"
    }

    again = script("train", *sweep, cwd=tmp_path)
    assert again.stdout.count("done before") == 2
    assert {path: Run.read(path).result["finished"] for path in finished} == finished


def test_an_ablation_and_its_report(tmp_path):
    small = [*SMALL, "trainer.max_epochs=1", "seed=0,1"]
    done = succeeded(
        script("train", "ablation=normalization", *small, "backbone.norm=none,batch", cwd=tmp_path)
    )
    assert "Does normalization help" in done.stdout
    assert "(4 runs)" in done.stdout  # narrowed, not multiplied
    runs = find_runs(tmp_path / "runs" / "normalization")
    assert len(runs) == 4
    assert {run.factors["backbone.norm"] for run in runs} == {"none", "batch"}
    report = succeeded(script("report", "ablation=normalization", cwd=tmp_path))
    assert "baseline" in report.stdout
    assert (tmp_path / "runs" / "normalization" / "report" / "figure.png").exists()


@pytest.mark.slow
def test_a_search_by_optuna_goes_on_where_it_was(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    sweep = ["-m", "hydra/sweeper=tpe", "hydra.sweeper.n_jobs=2", *SMALL, "name=s"]
    done = succeeded(script("train", *sweep, "hydra.sweeper.n_trials=4", cwd=tmp_path))
    assert "[4/4]" in done.stdout
    before = {run.path: run.result["finished"] for run in find_runs(tmp_path / "runs")}
    assert len(before) == 4
    rates = {run.config["optimizer"]["lr"] for run in find_runs(tmp_path / "runs")}
    assert len(rates) == 4
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    best = max(run.metrics["val/accuracy"] for run in find_runs(tmp_path / "runs"))
    assert f"Best value: {best}" in done.stdout

    more = succeeded(script("train", *sweep, "hydra.sweeper.n_trials=6", cwd=tmp_path))
    assert more.stdout.count("done before") == 4
    found = {run.path: run.result["finished"] for run in find_runs(tmp_path / "runs")}
    assert len(found) == 6
    assert before.items() <= found.items()


def test_what_a_search_would_do_cannot_be_planned(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    done = script("train", "-m", "hydra/sweeper=tpe", *SMALL, "plan=true", cwd=tmp_path)
    assert done.returncode == 1
    assert "nothing can be planned" in done.stderr


def test_what_cannot_be_composed_is_refused_before_the_first_run(tmp_path):
    done = script("train", "-m", *SMALL, "seed=0,1,x", cwd=tmp_path)
    assert done.returncode == 1
    assert "seed" in done.stderr
    assert "'x'" in done.stderr
    assert not find_runs(tmp_path / "runs")


def test_of_jobs_that_differ_in_numbers_alone_one_is_composed_ahead():
    composed = []
    loader = SimpleNamespace(
        load_sweep_config=lambda master_config, sweep_overrides: composed.append(sweep_overrides)
    )
    sweeper = object.__new__(ParibusSweeper)  # Hydra's search for plugins makes its own classes anew
    sweeper.hydra_context, sweeper.config = SimpleNamespace(config_loader=loader), {}
    rates = ("lr=1", "lr=0.1", "lr=1e-2", "lr=null")
    jobs = [
        [backbone, rate, f"seed={i}"] for backbone in ("on=a", "on=b") for rate in rates for i in range(9)
    ]
    sweeper.validate_batch_is_legal(jobs)
    kinds = ("lr=1", "lr=0.1", "lr=null")  # an integer, a float, neither
    assert composed == [[backbone, rate, "seed=0"] for backbone in ("on=a", "on=b") for rate in kinds]
