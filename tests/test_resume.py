"""A run that was killed and repeated ends as the run that was never disturbed: bit for bit."""

import signal
import time
from pathlib import Path

import pytest
import torch

from command_line import SMALL, script, start, succeeded
from dying import Death, assert_alike, log, prepare, trained
from paribus.checkpoints import damage, latest
from paribus.results import Run, curves

ARGUMENTS = [
    *SMALL,
    "model.dropout=0.2",
    "augmentation=color",
    "trainer.max_epochs=16",  # long enough to be hit in the middle
    "trainer.log_every=1",
    "trainer.checkpoint_every=4",  # 6 steps an epoch: checkpoints fall in the middle of epochs too
]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 96
    return state["state_dict"]


def kill_after(step: int, how: signal.Signals, cwd: Path, *arguments: str) -> int:
    """Starts the run and sends the signal once metrics.csv shows the step; the exit code."""
    process = start("train", *arguments, cwd=cwd)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        rows = [line for path in cwd.glob("runs/*/*/metrics.csv") for line in path.read_text().splitlines()]
        if any(row.startswith(f"{step},") for row in rows):
            process.send_signal(how)
            break
        time.sleep(0.002)
    process.communicate(timeout=100)
    return process.returncode


def test_killed_and_repeated_equals_undisturbed(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    succeeded(script("train", *ARGUMENTS, cwd=whole))
    assert kill_after(9, signal.SIGKILL, broken, *ARGUMENTS, "data.num_workers=1") == -signal.SIGKILL
    (folder,) = broken.glob("runs/*/*")
    assert Run.read(folder).status == "running"  # it had no chance to say otherwise
    again = succeeded(script("train", *ARGUMENTS, cwd=broken))
    assert "resumed at step" in again.stdout
    (undisturbed,) = whole.glob("runs/*/*")
    expected, found = weights(undisturbed), weights(folder)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert Run.read(folder).metrics == Run.read(undisturbed).metrics
    assert curves(Run.read(folder)) == curves(Run.read(undisturbed))


@pytest.mark.slow
def test_interrupted_says_so_and_goes_on(tmp_path):
    assert kill_after(7, signal.SIGINT, tmp_path, *ARGUMENTS) == 130
    (folder,) = tmp_path.glob("runs/*/*")
    assert Run.read(folder).status == "interrupted"
    assert "resumed at step" in succeeded(script("train", *ARGUMENTS, cwd=tmp_path)).stdout
    assert Run.read(folder).status == "done"


def test_terminated_does_not_look_finished(tmp_path):
    assert kill_after(7, signal.SIGTERM, tmp_path, *ARGUMENTS) == 143
    (folder,) = tmp_path.glob("runs/*/*")
    assert Run.read(folder).status == "interrupted"


def test_a_full_disk_is_said_and_the_last_checkpoint_is_whole(tmp_path):
    prepare()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    given = [*SMALL, "trainer.checkpoint_every=2", "trainer.log_every=1"]
    assert trained(whole, given) == 0, log(whole)
    assert trained(broken, given, Death("full", "batch", 4)) == 1
    run = Run.read(broken)
    assert run.status == "failed"
    assert run.result["error"]["type"] == "MachineError"
    folder = broken / "checkpoints"
    message = run.result["error"]["message"]
    assert message.startswith(f"{folder}: File too large: ")
    assert "the one before is still there, and whole" in message
    assert message.endswith("Make room there, or train elsewhere (root=...); the same command then goes on")
    assert damage(folder / "last.ckpt") is None
    assert latest(folder) == (folder / "last.ckpt", 2)
    assert trained(broken, given) == 0, log(broken)
    assert_alike(whole, broken)


def test_a_run_that_had_stopped_early_and_is_killed_stays_stopped(tmp_path):
    """Once while it is judged, and once between the validation that ends it and the end of its epoch."""
    prepare()
    still = ["optimizer=sgd", "optimizer.lr=1e-9", "scheduler=constant"]
    given = [*SMALL, *still, "trainer.max_epochs=9", "trainer.early_stopping=1"]
    assert trained(tmp_path / "whole", given) == 0, log(tmp_path / "whole")
    assert Run.read(tmp_path / "whole").result["epochs"] < 9
    for death in (Death("kill", "judging", 1), Death("kill", "kept", 2)):
        broken = tmp_path / death.moment
        assert trained(broken, given, death) == -signal.SIGKILL
        assert trained(broken, given) == 0, log(broken)
        assert_alike(tmp_path / "whole", broken)


def test_a_resumed_run_keeps_no_half_step(tmp_path):
    """Of a step in two parts the first comes right after the checkpoint: it is not kept as that step once more."""
    prepare()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    given = [*SMALL, "trainer.accumulate=2", "trainer.checkpoint_every=3"]
    assert trained(whole, given) == 0, log(whole)
    assert trained(broken, given, Death("kill", "forward", 9)) == -signal.SIGKILL
    assert trained(broken, given, Death("kill", "forward", 2)) == -signal.SIGKILL
    assert trained(broken, given) == 0, log(broken)
    assert_alike(whole, broken)


def test_the_end_of_the_training_is_kept_and_not_trained_again(tmp_path):
    """Also where the last epoch has no validation after it."""
    prepare()
    given = [*SMALL, "trainer.validate_every=3", "trainer.max_epochs=4"]
    assert trained(tmp_path / "run", given, Death("kill", "judging", 1)) == -signal.SIGKILL
    assert latest(tmp_path / "run" / "checkpoints")[1] == 24


def test_the_losses_of_the_last_steps_are_written_also_by_who_dies_before_the_end(tmp_path):
    """Training that ends with a number of steps, in the middle of an epoch, at a step that would be kept."""
    prepare()
    given = [*SMALL, "trainer.max_steps=9", "trainer.checkpoint_every=3", "trainer.log_every=2"]
    assert trained(tmp_path / "whole", given) == 0, log(tmp_path / "whole")
    assert trained(tmp_path / "broken", given, Death("kill", "epoch", 2)) == -signal.SIGKILL
    assert trained(tmp_path / "broken", given) == 0, log(tmp_path / "broken")
    assert_alike(tmp_path / "whole", tmp_path / "broken")
