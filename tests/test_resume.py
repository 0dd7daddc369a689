"""A run that was killed and repeated ends as the run that was never disturbed: bit for bit."""

import signal
import time
from pathlib import Path

import torch

from command_line import SMALL, script, start, succeeded
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
