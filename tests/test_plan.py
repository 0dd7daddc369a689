"""A plan: what is done and what is left, from a few steps, and nothing trained; what seeds could show."""

import pytest
from omegaconf import OmegaConf

from command_line import SMALL, script, succeeded
from composing import composed
from made_runs import make_ablation
from paribus.report.statistics import detectable
from paribus.results import Run, find_runs
from paribus.sweep.plan import differences_shown
from paribus.sweep.probe import Cost, probe

SWEEP = ["-m", *SMALL, "name=s", "backbone.norm=none,batch", "seed=0,1"]


def test_a_plan_trains_nothing_and_knows_what_is_done(tmp_path):
    succeeded(script("train", *SWEEP, "seed=0", cwd=tmp_path))
    before = {run.path: run.result for run in find_runs(tmp_path / "runs")}
    planned = succeeded(script("train", *SWEEP, "plan=true", cwd=tmp_path))
    assert planned.stdout.count("1 done, 1 new") == 2
    assert "assumed; no pair is seen yet" in planned.stdout
    assert {run.path: run.result for run in find_runs(tmp_path / "runs")} == before

    # What is foreseen of the disk is what a run leaves there, but for what callbacks add to it.
    path = next(run.path for run in find_runs(tmp_path / "runs") if run.config["backbone"]["norm"] == "none")
    size = sum(file.stat().st_size for file in (path / "checkpoints").iterdir())
    cost = probe(OmegaConf.to_object(composed(*SMALL, "backbone.norm=none")))
    assert cost.bytes == pytest.approx(size, rel=0.2)
    assert 0 < cost.seconds < 20 * Run.read(path).result["seconds"]


@pytest.mark.slow
def test_a_refused_run_is_refused_before_anything_is_trained(tmp_path):
    done = script("train", "-m", *SMALL, "model.dropout=0,high", "plan=true", cwd=tmp_path)
    assert done.returncode == 1
    assert "1 refused" in done.stdout
    assert "model.dropout" in done.stderr
    assert not find_runs(tmp_path / "runs")


def test_a_launcher_that_cannot_plan_says_so(tmp_path):
    done = script("train", *SWEEP, "plan=true", "hydra/launcher=basic", cwd=tmp_path)
    assert done.returncode == 1
    assert "hydra/launcher=paribus" in done.stderr


def test_what_seeds_could_show_is_what_the_spread_says(tmp_path):
    """Differences of group to batch: 0.005, -0.01, 0.005; of none: -0.30, -0.29, -0.28."""
    folder = make_ablation(tmp_path / "a")
    variance = (2 * 0.005**2 + 0.01**2 + 2 * 0.01**2) / 4
    said = "\n".join(differences_shown(folder, 3, 3))
    assert "6 pairs" in said
    for n in (3, 5, 10, 20):
        assert f"{100 * detectable(variance**0.5, n):.1f} with {n}" in said
    assert "assumed" in "\n".join(differences_shown(tmp_path / "none", 3, 3))
    assert differences_shown(folder, 1, 3) == []
    assert differences_shown(tmp_path / "none", 2, 1)[0].startswith("One seed shows no difference")


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        (Cost(5, 999), "0:05 and 999 B"),
        (Cost(3723, 18_512_000), "1:02:03 and 18.5 MB"),
        (Cost(0, 3e12), "3e+03 GB"),
    ],
)
def test_costs_are_said(cost, said):
    assert said in str(cost)
