"""A loss that is no finite number: at which step, which part of it, and of which samples."""

import pytest
import torch

from command_line import SMALL, script
from paribus.results import Run
from paribus.tasks import Classification, DivergedError
from paribus.tasks.diverged import diverged
from test_train import train

NAN = float("nan")


def batches(*values: float, name: str = "loss"):
    return [({name: torch.tensor(value)}, [f"{i}a", f"{i}b"]) for i, value in enumerate(values)]


def test_the_first_batch_is_named_by_its_step_and_samples():
    error = diverged(batches(1, 2, NAN, 3, float("inf")), step=105, parts=1)
    assert str(error).startswith(
        "diverged at step 103: loss is nan, for the samples 2a, 2b; try a smaller optimizer.lr"
    )
    assert error.ids == ["2a", "2b"]


@pytest.mark.parametrize(("bad", "step"), [(0, 9), (2, 9), (3, 10), (6, 11)])
def test_the_step_of_a_batch_that_is_a_part_of_one(bad, step):
    values = [1.0] * 7  # two steps of three parts, and the epoch's last, of one
    values[bad] = float("-inf")
    assert f"diverged at step {step}: loss is -inf, for" in str(diverged(batches(*values), step=11, parts=3))


def test_only_the_parts_that_are_not_finite_are_named():
    losses = {
        name: torch.tensor(value) for name, value in {"loss": NAN, "boxes": 1.0, "classes": NAN}.items()
    }
    assert "loss is nan, classes is nan, for" in str(diverged([(losses, ["x"])], step=1, parts=1))


def test_a_large_batch_is_cut_in_the_message_and_whole_in_the_error():
    ids = [f"{i}.png" for i in range(20)]
    error = diverged([({"loss": torch.tensor(NAN)}, ids)], step=1, parts=1)
    assert "14.png, 15.png and 4 more; try" in str(error)
    assert error.ids == ids


def test_where_the_batch_is_forgotten_the_step_is_said():
    assert str(diverged(batches(1, 2), step=7, parts=1)).startswith(
        "diverged: the loss is not finite by step 7; try"
    )


@pytest.fixture
def bad_sample(monkeypatch):
    """Of one batch, the third of the second epoch, the loss is no number; its samples."""
    whole, seen = Classification.losses, []

    def losses(self, batch):
        found = whole(self, batch)
        seen.append(batch[2])
        return {name: value * NAN for name, value in found.items()} if len(seen) == 9 else found

    monkeypatch.setattr(Classification, "losses", losses)
    return seen


@pytest.mark.parametrize("more", [[], ["trainer.checkpoint_every=1"], ["trainer.log_every=1"]], ids=str)
def test_a_run_names_the_samples_and_keeps_a_checkpoint_from_before(tmp_path, bad_sample, more):
    with pytest.raises(DivergedError, match="diverged at step 9: loss is nan") as raised:
        train(tmp_path / "run", *more)
    assert raised.value.ids == bad_sample[8]
    assert len(bad_sample[8]) == 16
    assert all(name in str(raised.value) for name in bad_sample[8])
    assert bad_sample[8][0] in Run.read(tmp_path / "run").result["error"]["message"]
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == (8 if "trainer.checkpoint_every=1" in more else 6)
    assert all(torch.isfinite(value).all() for value in kept["state_dict"].values())


@pytest.mark.slow
def test_two_processes_name_the_samples_of_both(tmp_path):
    arguments = [
        "optimizer=sgd",
        "optimizer.lr=1e30",
        "trainer=ddp_cpu",
        "trainer.devices=2",
        "backbone.norm=group",
    ]
    ended = script("train", *SMALL, *arguments, "trainer.progress=false", cwd=tmp_path)
    assert ended.returncode == 1
    (result,) = [Run.read(path).result for path in tmp_path.glob("runs/*/*")]
    message = result["error"]["message"]
    assert "diverged at step" in message
    assert message.count("train/") == 16  # a batch, of which each process had the half
