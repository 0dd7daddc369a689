"""The sweep's own launcher: runs that die, sweeps that are killed, shared and repeated; what leaks into no run."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from command_line import SMALL, script, start, succeeded
from paribus.config import LauncherConfig, TrainConfig, TrainerConfig
from paribus.record import busy, claimed
from paribus.results import Run, curves, find_runs, write_json
from paribus.sweep.forked import IMPORTS, READY, TARGETS
from paribus.sweep.job import Job, stop, undisturbed
from paribus.sweep.slots import Slots

SWEEP = ["-m", *SMALL, "name=s", "trainer.checkpoint_every=2", "model.dropout=0.1"]


def runs(folder: Path) -> dict[int | None, Run]:
    return {run.seed: run for run in find_runs(folder / "runs" / "s")}


def pids(folder: Path) -> list[int]:
    """Processes whose output goes into the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            target = os.readlink(entry / "fd" / "1")
        except OSError:
            continue
        if target.startswith(str(folder)):
            found.append(int(entry.name))
    return found


def until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def stepping(folder: Path):
    """The folders of runs that have written a row of metrics and are not done."""
    return [p.parent for p in folder.glob("runs/s/*/metrics.csv") if len(p.read_text().splitlines()) > 3]


@pytest.mark.slow
def test_a_killed_sweep_leaves_nothing_running_and_repeated_ends_as_an_undisturbed_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    long = [*SWEEP, "trainer.max_epochs=8", "trainer.log_every=1", "seed=0,1,2"]
    succeeded(script("train", *long, cwd=whole))
    sweep = start("train", *long, cwd=broken)
    until(lambda: stepping(broken))
    time.sleep(random.random())
    sweep.kill()
    sweep.communicate(timeout=60)
    until(lambda: not pids(broken))
    finished = {s: run.result["finished"] for s, run in runs(broken).items() if run.status == "done"}
    assert len(finished) < 3
    again = succeeded(script("train", *long, cwd=broken))
    assert again.stdout.count("done before") == len(finished)
    the_same(runs(broken), runs(whole))
    assert {s: runs(broken)[s].result["finished"] for s in finished} == finished


def steps(folder: Path) -> dict[Path, int]:
    """How many rows each run has written."""
    return {path: len(path.read_text().splitlines()) for path in folder.glob("runs/s/*/metrics.csv")}


def the_same(found: dict[int | None, Run], expected: dict[int | None, Run]) -> None:
    assert found.keys() == expected.keys()
    for seed in expected:
        assert found[seed].metrics == expected[seed].metrics
        assert curves(found[seed]) == curves(expected[seed])


@pytest.mark.slow
def test_a_sweep_that_is_killed_at_random_moments_until_it_is_done(tmp_path):
    """The sweep alone or its runs with it, at any moment: what is finished stays, and is not trained again."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    long = [*SWEEP, "trainer.max_epochs=8", "trainer.log_every=1", "seed=0,1,2"]
    succeeded(script("train", *long, cwd=whole))
    finished, kills = dict[int | None, str](), 0
    while len(finished) < 3:
        sweep = start("train", *long, cwd=broken)
        if random.random() < 0.8:  # while a run trains, and else while all is being made ready
            now = steps(broken)
            until(lambda sweep=sweep, now=now: steps(broken) != now or sweep.poll() is not None)
        try:
            sweep.communicate(timeout=random.uniform(0, 3))
        except subprocess.TimeoutExpired:
            with_it = pids(broken) if random.random() < 0.5 else []
            sweep.kill()
            for pid in with_it:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            sweep.communicate(timeout=60)
            kills += 1
        until(lambda: not pids(broken))
        now = {s: run.result["finished"] for s, run in runs(broken).items() if run.status == "done"}
        assert {seed: now[seed] for seed in finished} == finished
        finished = now
        assert kills < 60
    assert kills
    the_same(runs(broken), runs(whole))


@pytest.mark.slow
def test_two_of_the_same_sweep_share_its_runs(tmp_path):
    both = [start("train", *SWEEP, "seed=0,1,2,3", cwd=tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all(text.count("val/accuracy") + text.count("done before") >= 4 for text in said)
    assert any("done before" in text for text in said)
    found = runs(tmp_path)
    assert len(found) == 4
    assert {run.status for run in found.values()} == {"done"}
    for run in found.values():  # whoever came second found it done, and trained no step of it
        assert all(len(course) == len({step for step, _, _ in course}) for course in curves(run).values())


@pytest.mark.slow
def test_a_run_that_is_killed_or_too_slow_fails_alone_and_is_retried_unless_told_not_to(tmp_path):
    long = [*SWEEP, "trainer.max_epochs=2,4000"]
    sweep = start("train", *long, cwd=tmp_path)
    folder = until(
        lambda: [p for p in stepping(tmp_path) if Run.read(p).config["trainer"]["max_epochs"] == 4000]
    )[0]
    for pid in pids(folder):
        os.kill(pid, signal.SIGKILL)
    said = sweep.communicate(timeout=200)[0]
    assert sweep.returncode == 1
    assert "ended by SIGKILL: out of memory, if nobody killed it" in said
    states = {run.config["trainer"]["max_epochs"]: run for run in find_runs(tmp_path / "runs")}
    assert states[2].status == "done"
    assert states[4000].result["error"]["type"] == "KilledError"

    left = script("train", *long, "retry_failed=false", cwd=tmp_path)
    assert left.returncode == 1
    assert "(before; retry_failed=false)" in left.stdout

    slow = script("train", *long, "hydra.launcher.timeout=0.1", cwd=tmp_path)
    assert "it took more than hydra.launcher.timeout=0.1 minutes" in slow.stdout
    (failed,) = (run for run in find_runs(tmp_path / "runs") if run.status != "done")
    assert failed.result["error"]["type"] == "TimeoutError"


def test_ctrl_c_ends_the_runs_which_keep_their_checkpoints(tmp_path):
    sweep = start("train", *SWEEP, "trainer.max_epochs=4000", "seed=0,1", cwd=tmp_path)
    until(lambda: stepping(tmp_path))
    sweep.send_signal(signal.SIGINT)
    sweep.communicate(timeout=100)
    assert sweep.returncode == 130
    assert not pids(tmp_path)
    made = [run for run in runs(tmp_path).values() if (run.path / "metrics.csv").is_file()]
    assert {run.status for run in made} == {"interrupted"}
    assert all((run.path / "checkpoints" / "last.ckpt").is_file() for run in made if stepping(tmp_path))


@pytest.mark.slow
def test_a_sweep_over_devices_starts_a_group_of_its_own_for_each_run(tmp_path):
    sweep = [*SWEEP, "trainer=ddp_cpu", "trainer.devices=1,2", "trainer.max_epochs=1"]
    succeeded(script("train", *sweep, cwd=tmp_path))
    found = {run.result["processes"]: run for run in find_runs(tmp_path / "runs")}
    assert found.keys() == {1, 2}
    assert {run.status for run in found.values()} == {"done"}


@pytest.mark.slow
def test_what_is_made_ready_starts_no_thread_and_touches_no_gpu():
    code = (
        "import gc, os, paribus.sweep.ready, sys\n"
        "assert len(os.listdir('/proc/self/task')) == 1, os.listdir('/proc/self/task')\n"
        "assert not sys.modules['torch'].cuda.is_initialized()\n"
        "assert {'paribus.models.backbones.mlp', 'pydantic.type_adapter'} <= sys.modules.keys()\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 100_000"
    )
    words = {
        IMPORTS: " ".join(READY),
        TARGETS: "paribus.models.backbones.mlp.MLP no.such.Target",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | words, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")  # libtriton's list of leaks is not heard


def test_what_failed_since_the_sweep_began_was_tried_by_another_process(tmp_path):
    from omegaconf import OmegaConf

    from composing import composed
    from paribus.checks import check
    from paribus.record import Record

    cfg = composed("name=s")
    Record(tmp_path, check(cfg), {}).failed(RuntimeError("no"))
    whole = OmegaConf.create({"hydra": HydraConfig.instance().cfg.hydra})
    finished = json.loads((tmp_path / "result.json").read_text())["finished"]

    def left(since: str) -> Job | None:
        job = Job([], folder=tmp_path, composed=whole)
        job.result.cfg = cfg
        return job if job.settle(since) is not None else None

    assert left(since="9")  # it failed before, and is tried again
    assert left(since=finished) is None


def config(**trainer) -> TrainConfig:
    return TrainConfig(trainer=TrainerConfig(**trainer))


def test_the_machine_is_shared_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("paribus.sweep.slots.cores", lambda: 8)
    monkeypatch.setattr("paribus.sweep.slots.visible_gpus", lambda: ["a", "b"])
    monkeypatch.setattr("paribus.sweep.slots.free_memory", lambda: 10 * 2**30)

    def shared(n_jobs=None, memory=None, **trainer):
        slots = Slots(LauncherConfig(n_jobs=n_jobs, memory=memory), config(**trainer))
        shares = [slots.take(Job([])) for _ in range(len(slots.free))]
        return [(s["OMP_NUM_THREADS"], s.get("CUDA_VISIBLE_DEVICES")) for s in shares]

    assert shared() == [("8", None)]  # a run has all, if nothing is said
    assert shared(threads=2) == [("2", None)] * 4
    assert shared(n_jobs=2) == [("4", None)] * 2
    assert shared(threads=1, memory=4) == [("1", None)] * 2
    assert shared(accelerator="gpu") == [("4", "a"), ("4", "b")]
    assert shared(n_jobs=2, accelerator="gpu") == [("2", "a"), ("2", "b"), ("2", "a"), ("2", "b")]


def test_a_slot_that_is_given_back_is_given_again(monkeypatch):
    slots = Slots(LauncherConfig(n_jobs=2), config(threads=1))
    first, second, alone = Job([]), Job([]), Job([], alone=True)
    slots.take(first)
    assert slots.have_room(second)
    assert not slots.have_room(alone)
    slots.take(second)
    assert not slots.have_room(Job([]))
    slots.give_back(first)
    slots.give_back(second)
    assert slots.have_room(alone)


@pytest.mark.parametrize("key", ["n_jobs", "memory", "timeout"])
def test_shares_that_cannot_be_are_refused(key):
    with pytest.raises(ValueError, match=rf"hydra\.launcher\.{key}=0: more than 0, or null"):
        LauncherConfig(**{key: 0})


def test_a_folder_is_busy_while_it_is_claimed(tmp_path):
    assert not busy(tmp_path)
    with claimed(tmp_path):
        code = (
            f"from pathlib import Path; from paribus.record import busy; print(busy(Path({str(tmp_path)!r})))"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"
    assert not busy(tmp_path)


def test_what_is_done_stays_done_and_what_is_not_has_failed(tmp_path):
    from paribus.record import gave_up

    gave_up(tmp_path, "KilledError", "killed")
    assert not [*tmp_path.iterdir()]
    for status, after in (("done", "done"), ("interrupted", "failed"), ("running", "failed")):
        write_json(tmp_path / "result.json", {"status": status})
        gave_up(tmp_path, "KilledError", "killed")
        assert json.loads((tmp_path / "result.json").read_text())["status"] == after


def test_a_signal_in_the_midst_of_a_config_is_heard_after_it():
    seen = []

    def told(number, frame):
        seen.append("told")

    before = signal.signal(signal.SIGTERM, told)
    try:
        with undisturbed():
            signal.raise_signal(signal.SIGTERM)
            seen.append("done")
        assert seen == ["done", "told"]
        assert signal.getsignal(signal.SIGTERM) is told
        with undisturbed():
            pass
        assert seen == ["done", "told"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_sweep_lets_go_of_a_process_that_never_began():
    job = Job(["seed=0"])
    job.process = multiprocessing.get_context("forkserver").Process(target=print)
    stop([job])  # Ctrl-C came before it had a number
    assert job.process.pid is None
