"""A checkpoint is whole or not there, whatever stops its writer; one that is torn all the same is passed over."""

import logging
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from command_line import environment
from paribus.checkpoints import WholeFiles, damage, latest, write
from paribus.config import ConfigError
from paribus.restore import restored, run_config
from paribus.results import Run, curves
from paribus.tasks import Classification
from test_train import train, weights

LONG = ["trainer.max_epochs=3", "trainer.log_every=1", "model.dropout=0.2"]

WRITER = """
import os, resource, signal, sys
import torch
from pathlib import Path
from paribus.checkpoints import WholeFiles

path = Path(sys.argv[1], "checkpoints", "last.ckpt")
files = WholeFiles()
files.save_checkpoint({"global_step": 1, "weights": torch.ones(1000)}, path)
files.wait()
if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
else:
    setattr(os, sys.argv[2], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
try:
    files.save_checkpoint({"global_step": 2, "weights": torch.ones(1000_000)}, path)
    files.teardown()
except OSError as error:
    print(error)
"""


def written(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WRITER, str(folder), how]
    return subprocess.run(command, env=environment(folder), text=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_who_is_killed_while_writing_leaves_the_old_one(tmp_path, moment):
    assert written(tmp_path, moment).returncode == -9
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert damage(last) is None
    assert torch.load(last, weights_only=True)["global_step"] == 1
    assert (tmp_path / "checkpoints" / "last.ckpt.part").exists()  # of the one that was being written
    write({"global_step": 3}, last)
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(last, weights_only=True) == {"global_step": 3}


def test_training_goes_on_while_a_copy_is_written(tmp_path, monkeypatch):
    from paribus import checkpoints

    may, begun = threading.Event(), []

    def slow(checkpoint, path):
        begun.append(path.name)
        assert may.wait(30)
        write(checkpoint, path)

    monkeypatch.setattr(checkpoints, "write", slow)
    files, weights = WholeFiles(), torch.ones(3)
    files.save_checkpoint({"weights": weights, "more": [weights]}, tmp_path / "best.ckpt")
    files.save_checkpoint({"weights": weights}, tmp_path / "last.ckpt")
    weights += 1  # the next step
    assert not (tmp_path / "best.ckpt").exists()
    threading.Timer(0.2, may.set).start()
    files.save_checkpoint({"weights": weights}, tmp_path / "last.ckpt")  # waits for the one of its name
    assert (tmp_path / "best.ckpt").exists()
    files.teardown()
    assert begun == ["best.ckpt", "last.ckpt", "last.ckpt"]
    kept = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert kept["weights"].tolist() == kept["more"][0].tolist() == [1, 1, 1]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["weights"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("then", ["wait", "teardown", "save_checkpoint"])
def test_what_could_not_be_written_is_said_by_what_comes_next(tmp_path, then):
    (tmp_path / "folder").write_text("a file")
    files, given = WholeFiles(), ({"weights": torch.ones(3)}, tmp_path / "folder" / "best.ckpt")
    files.save_checkpoint(*given)
    with pytest.raises(OSError, match="folder"):
        getattr(files, then)(*given if then == "save_checkpoint" else ())
    files.teardown()


def test_where_there_is_no_room_the_folder_and_the_bytes_are_named_and_the_old_one_stays(tmp_path):
    folder = tmp_path / "checkpoints"
    said = written(tmp_path, "full").stdout
    assert str(folder) in said
    assert re.search(
        r"last\.ckpt takes 4,00\d,\d{3} bytes \(the one before is still there, and whole\)", said
    )
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 1


def save(path: Path, *, best: str = "", **more) -> Path:
    state = {
        "state_dict": {"w": torch.arange(5000.0)},
        "optimizer_states": [],
        "lr_schedulers": [],
        "loops": {},
    }
    callbacks = {"Checkpoint": {"best_model_path": best}, "EMA": {}}
    write({**state, "callbacks": callbacks, "global_step": 7, **more}, path)
    return path


def overwrite(path: Path, start: int, length: int) -> None:
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(bytes(length))


def test_every_kind_of_damage_is_found(tmp_path):
    path = save(tmp_path / "last.ckpt")
    whole = path.read_bytes()
    assert damage(path) is None
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "is torn" in str(damage(path)), length
    path.write_bytes(bytes(len(whole)))
    assert "is torn" in str(damage(path))
    path.write_bytes(whole)
    overwrite(path, whole.index(torch.arange(5000.0).numpy().tobytes()) + 4096, 4096)
    held = torch.load(path, weights_only=True)["state_dict"]["w"]  # torch does not notice
    assert not torch.equal(held, torch.arange(5000.0))
    assert "the check sum" in str(damage(path))


def test_the_last_one_is_taken_if_it_is_whole_and_else_the_best(tmp_path, caplog):
    assert latest(tmp_path) == (None, 0)
    best = save(tmp_path / "best.ckpt", global_step=3)
    last = save(tmp_path / "last.ckpt", best=str(best))
    assert latest(tmp_path) == (last, 7)
    assert not caplog.records
    last.write_bytes(last.read_bytes()[:-100])
    assert latest(tmp_path) == (best, 3)
    assert f"{last} is torn" in caplog.text
    last.unlink()
    assert latest(tmp_path) == (best, 3)


@pytest.mark.parametrize("left", ["torn", "gone"])
def test_without_the_best_that_the_last_needs_training_begins_anew(tmp_path, caplog, left):
    last = save(tmp_path / "last.ckpt", best="best.ckpt")
    if left == "torn":
        (tmp_path / "best.ckpt").write_bytes(b"")
    assert latest(tmp_path) == (None, 0)
    assert f"{last} is whole, but best.ckpt, which it needs, is" in caplog.text
    assert "training begins anew" in caplog.text
    save(last)  # written before anything was judged: it needs none
    assert latest(tmp_path) == (last, 7)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"state_dict": {}}, "weights alone"),
        ({"code": Path("x")}, "cannot be read as tensors and plain data"),
        ([1], "no state of a model"),
    ],
)
def test_what_no_training_has_left_is_passed_over(tmp_path, caplog, state, said):
    torch.save(state, tmp_path / "last.ckpt")
    assert latest(tmp_path) == (None, 0)
    assert said in caplog.text


def broken_off(folder: Path, monkeypatch, batch: int, *overrides: str, error: type = RuntimeError) -> None:
    """Trains until that batch, in whose middle an error comes: its statistics have moved, its weights not."""
    seen, whole = [], Classification.training_step

    def step(self, *given):
        loss = whole(self, *given)
        seen.append(1)
        if len(seen) == batch:
            raise error("broken off")
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "training_step", step)
        with pytest.raises((RuntimeError, SystemExit)):
            train(folder, *overrides)


def assert_equal_runs(a: Path, b: Path) -> None:
    x, y = weights(a), weights(b)
    assert x.keys() == y.keys()
    assert all(torch.equal(x[key], y[key]) for key in x)
    assert Run.read(a).metrics == Run.read(b).metrics
    assert curves(Run.read(a)) == curves(Run.read(b))


def test_what_is_judged_is_the_best_epoch_and_not_the_last(tmp_path):
    unsteady = ["optimizer=sgd", "optimizer.lr=0.3", "scheduler=constant", "trainer.max_epochs=8"]
    found = train(tmp_path / "run", *unsteady)
    scores = [value for _, _, value in curves(found)["val/accuracy"]]
    assert max(scores) > scores[-1]  # else this says nothing
    assert found.metrics["val/accuracy"] == max(scores)
    assert found.result["best_epoch"] == scores.index(max(scores))


def test_a_run_whose_last_checkpoint_is_torn_ends_as_an_undisturbed_one(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    train(tmp_path / "whole", *LONG)
    broken_off(tmp_path / "torn", monkeypatch, 16, *LONG, "trainer.checkpoint_every=3")
    last = tmp_path / "torn" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 15
    last.write_bytes(last.read_bytes()[:-1000])
    train(tmp_path / "torn", *LONG, "trainer.checkpoint_every=3")
    assert f"{last} is torn" in caplog.text
    assert re.search(r"resumed at step (6|12)\b", caplog.text)  # the best so far
    assert_equal_runs(tmp_path / "whole", tmp_path / "torn")


def test_a_run_all_of_whose_checkpoints_are_torn_begins_anew_and_ends_as_an_undisturbed_one(
    tmp_path, monkeypatch, caplog
):
    train(tmp_path / "whole", *LONG)
    broken_off(tmp_path / "torn", monkeypatch, 16, *LONG)
    for name in ("last", "best"):
        overwrite(tmp_path / "torn" / "checkpoints" / f"{name}.ckpt", 0, 500)
    train(tmp_path / "torn", *LONG)
    assert "training begins anew" in caplog.text
    assert_equal_runs(tmp_path / "whole", tmp_path / "torn")


def test_a_run_that_ends_before_its_first_validation_goes_on(tmp_path, monkeypatch):
    """There is no best.ckpt yet, and none is missed."""
    broken_off(tmp_path / "broken", monkeypatch, 4, *LONG, "trainer.checkpoint_every=1")
    assert not (tmp_path / "broken" / "checkpoints" / "best.ckpt").exists()
    assert latest(tmp_path / "broken" / "checkpoints")[1] == 3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_middle_of_a_step_leaves_no_half_step(tmp_path, monkeypatch, error):
    """Batch norm has seen the batch by then, and the first part of the step has left its gradient."""
    overrides = [*LONG, "trainer.accumulate=2", "backbone.norm=batch", "trainer.max_epochs=2"]
    train(tmp_path / "whole", *overrides)
    broken_off(tmp_path / "broken", monkeypatch, 16, *overrides, "trainer.checkpoint_every=1", error=error)
    assert latest(tmp_path / "broken" / "checkpoints")[1] == 7
    train(tmp_path / "broken", *overrides, "trainer.checkpoint_every=1")
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


def test_a_torn_best_checkpoint_of_a_finished_run_is_named(tmp_path):
    train(tmp_path / "run", "trainer.max_steps=1")
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-10])
    with pytest.raises(ConfigError, match=r"best\.ckpt is torn .*train it again"):
        restored(*run_config(tmp_path / "run"))
