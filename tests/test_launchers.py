"""Sweeps under the launchers of others: each run a fresh process, and what theirs do to a run is undone."""

import errno
import fcntl
import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

import slurm_stand_in
from command_line import SMALL, script, start, succeeded
from composing import composed
from paribus.checks import check
from paribus.config import ConfigError, TrainerConfig
from paribus.record import busy, claimed
from paribus.results import Run, curves, find_runs
from paribus.sweep.slots import a_gpu
from test_launcher import pids, runs, stepping, until

PLUGINS = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher"}
PLUGINS |= {"submitit_slurm": "hydra_submitit_launcher", "slurm": "hydra_submitit_launcher"}
PLUGINS |= {"on_ray": "hydra_ray_launcher"}
SWEEP = ["-m", *SMALL, "name=s", "model.dropout=0.1"]
LONG = [*SWEEP, "trainer.log_every=1", "trainer.max_epochs=40", "test=false"]


def under(launcher: str) -> str:
    if launcher in PLUGINS:
        pytest.importorskip(f"hydra_plugins.{PLUGINS[launcher]}")
    return f"hydra/launcher={launcher}"


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch) -> Path:
    """A Slurm on PATH; its folder."""
    folder = tmp_path_factory.mktemp("slurm")
    for key, value in slurm_stand_in.install(folder).items():
        monkeypatch.setenv(key, value)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [*PLUGINS, "basic"])
def test_two_runs_are_made_and_then_found(tmp_path, slurm, launcher):
    sweep = [*SWEEP, "trainer.max_epochs=1", "seed=0,1", under(launcher)]
    done = succeeded(script("train", *sweep, cwd=tmp_path))
    assert "[1/2]" in done.stdout
    assert "[2/2]" in done.stdout
    assert "done before" not in done.stdout
    made = {seed: (run.status, run.result["finished"]) for seed, run in runs(tmp_path).items()}
    assert {status for status, _ in made.values()} == {"done"}
    again = succeeded(script("train", *sweep, cwd=tmp_path))
    assert again.stdout.count("done before") == 2
    assert {seed: (run.status, run.result["finished"]) for seed, run in runs(tmp_path).items()} == made
    assert not [*(tmp_path / "runs" / "s").glob(".sweep*")]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", *(name for name in PLUGINS if name != "slurm")])
def test_a_run_that_fails_is_recorded_and_stops_no_other(tmp_path, slurm, launcher):
    sweep = [*SMALL, "trainer.max_epochs=1", "name=s", "model.dropout=2,0.1", "seed=0,1", under(launcher)]
    done = script("train", "-m", *sweep, cwd=tmp_path)
    assert done.returncode == 1
    assert "2 run(s) failed:" in done.stderr
    assert "FAILED ValueError: dropout probability" in done.stdout
    assert all(f"[{n}/4]" in done.stdout for n in (1, 2, 3, 4))
    states = {(r.config["model"]["dropout"], r.seed): r for r in find_runs(tmp_path / "runs")}
    assert {key: run.status for key, run in states.items()} == {
        (2, 0): "failed", (2, 1): "failed", (0.1, 0): "done", (0.1, 1): "done",
    }  # fmt: skip
    assert states[2, 0].result["error"]["type"] == "ValueError"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "on_ray"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_runs_end_with_their_sweep_and_keep_their_checkpoints(tmp_path, launcher, number):
    long = [*LONG, "trainer.max_epochs=4000", "seed=0,1", under(launcher)]
    sweep = start("train", *long, cwd=tmp_path)
    until(lambda: stepping(tmp_path))
    sweep.send_signal(number)
    sweep.communicate(timeout=100)
    assert sweep.returncode != 0
    until(lambda: not pids(tmp_path), seconds=30)
    time.sleep(1)
    assert not pids(tmp_path)  # nor does a worker begin another
    made = [run for run in runs(tmp_path).values() if run.path in stepping(tmp_path)]
    assert made
    for run in made:
        assert run.status == "interrupted"
        if (
            "val/" in (run.path / "metrics.csv").read_text()
        ):  # before that one may be told to end within a step
            assert (run.path / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "on_ray"])
def test_a_run_on_several_devices_is_a_single_run_to_its_group(tmp_path, launcher):
    several = ["trainer=ddp_cpu", "trainer.devices=1,2", "trainer.max_epochs=1"]
    succeeded(script("train", *SWEEP, *several, under(launcher), cwd=tmp_path))
    found = {run.result["processes"]: run for run in find_runs(tmp_path / "runs")}
    assert found.keys() == {1, 2}
    assert {run.status for run in found.values()} == {"done"}


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("launcher", ["submitit_local", "submitit_slurm"])
def test_a_group_is_started_by_ddp_or_by_the_launcher(tmp_path, slurm, launcher, tasks):
    group = ["trainer=ddp_cpu", "trainer.max_epochs=1", f"hydra.launcher.tasks_per_node={tasks}"]
    group += ["hydra.launcher.cpus_per_task=1", "seed=0,1"]
    done = succeeded(script("train", *SWEEP, *group, under(launcher), cwd=tmp_path))
    assert all(done.stdout.count(f"[{n}/2]") == 1 for n in (1, 2))
    found = [*runs(tmp_path).values()]
    assert [(run.status, run.result["processes"]) for run in found] == [("done", 2)] * 2


def weights(run: Run) -> dict:
    import torch

    return torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def the_same(found: Run, expected: Run) -> None:
    assert found.metrics == expected.metrics
    assert curves(found) == curves(expected)
    assert {k: v.tolist() for k, v in weights(found).items()} == {
        k: v.tolist() for k, v in weights(expected).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(("minutes", "why"), [(240, "preempted"), (5, "timed-out")])
def test_jobs_that_are_requeued_end_as_undisturbed_ones(tmp_path, slurm, minutes, why):
    """Slurm says by a signal that a job's turn is over, and kills the job as soon as that asks for another."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    succeeded(script("train", *LONG, "seed=0,1", cwd=whole))
    keys = [f"hydra.launcher.timeout_min={minutes}", "hydra.launcher.cpus_per_task=1"]
    sweep = start("train", *LONG, "seed=0,1", under("slurm"), *keys, cwd=broken)
    for turn in (1, 2):
        before = rows(broken)
        until(lambda before=before: rows(broken) > before + 5)
        subprocess.run(["scancel", "1000_0", "--signal", "USR2"], check=True)
        until(lambda turn=turn: slurm_stand_in.state("1000_0")["restarts"] == turn)
    said = sweep.communicate(timeout=200)[0]
    assert sweep.returncode == 0, said
    assert all(said.count(f"[{n}/2]") == 1 for n in (1, 2))
    (log,) = broken.glob("runs/s/.submitit/1000_0/*.err")
    assert log.read_text().count(f"this job is {why}") == 2
    console = (runs(broken)[0].path / "console.log").read_text()
    assert console.count("interrupted; the same command resumes it") == 2
    for seed in (0, 1):
        the_same(runs(broken)[seed], runs(whole)[seed])


def rows(folder: Path) -> int:
    """How many rows of metrics the first seed's run has written."""
    return sum(len(path.read_text().splitlines()) for path in folder.glob("runs/s/*seed=0/metrics.csv"))


def test_a_launcher_whose_tasks_are_not_the_runs_processes_is_refused(monkeypatch):
    under("submitit_slurm")

    def asked(*overrides):
        cfg = composed(*overrides, "hydra/launcher=submitit_slurm", "hydra.mode=MULTIRUN")
        assert HydraConfig.get().launcher.tasks_per_node
        return check(cfg)

    asked("trainer=ddp_cpu", "hydra.launcher.tasks_per_node=2")
    asked("trainer=ddp_cpu")
    with pytest.raises(ConfigError, match=r"`hydra\.launcher\.tasks_per_node=4`: one for each device"):
        asked("trainer=ddp_cpu", "hydra.launcher.tasks_per_node=4")
    with pytest.raises(ConfigError, match=r"`hydra\.launcher\.nodes=2` and `trainer\.num_nodes=1`"):
        asked("hydra.launcher.nodes=2")


def test_runs_that_know_nothing_of_each_other_spread_over_the_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("paribus.sweep.slots.visible_gpus", lambda: ["a", "b"])
    gpu = TrainerConfig(accelerator="gpu")
    with ExitStack() as held:
        given = [held.enter_context(a_gpu(gpu))["CUDA_VISIBLE_DEVICES"] for _ in range(5)]
    assert given == ["a", "b", "a", "b", "a"]
    with a_gpu(gpu) as share:
        assert share == {"CUDA_VISIBLE_DEVICES": "a"}
    for all_of_them in (TrainerConfig(), TrainerConfig(accelerator="gpu", devices=2, strategy="ddp")):
        with a_gpu(all_of_them) as share:
            assert not share


def test_locks_are_asked_for_as_nfs_gives_them(tmp_path, monkeypatch):
    """Which has no exclusive lock for a file that is open for reading only (man 2 flock)."""
    plain = fcntl.flock

    def nfs(file, operation):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        plain(file, operation)

    monkeypatch.setattr(fcntl, "flock", nfs)
    with claimed(tmp_path):
        assert busy(tmp_path)
    assert not busy(tmp_path)


def test_a_disk_without_locks_is_named(tmp_path, monkeypatch, caplog):
    def lustre(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", lustre)
    with claimed(tmp_path):
        assert not busy(tmp_path)
    assert "carries no locks (Function not implemented): start no run twice there" in caplog.text


@pytest.mark.slow
def test_a_fresh_run_on_several_devices_ends_with_a_sweep_that_is_killed(tmp_path):
    long = [*LONG, "trainer.max_epochs=4000", "trainer=ddp_cpu", "seed=0"]
    sweep = start("train", *long, cwd=tmp_path)
    until(lambda: stepping(tmp_path))
    sweep.kill()
    sweep.communicate(timeout=60)
    until(lambda: not pids(tmp_path), seconds=60)


@pytest.mark.slow
def test_nodes_that_share_a_sweep_lose_no_run_and_make_none_twice(tmp_path):
    """A node dies on the way, and runs fail; the whole is scripts/benchmarks/many_nodes.py."""
    small = ["--runs", "24", "--nodes", "4", "--killed", "1", "--failing", "2", "--seconds", "1"]
    done = script("benchmarks/many_nodes", *small, cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASS") >= 4
