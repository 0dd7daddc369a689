"""The same command twice gives the same run to the bit; and `trainer.deterministic=true` says what cannot."""

import os

import pytest
import torch
import torch.nn.functional as F

from command_line import SMALL
from dying import assert_alike, log, prepare, trained
from paribus.results import Run
from paribus.tasks.base import Task
from paribus.trouble import AVOIDED, MachineError, in_words
from test_resume_matrix import CHOICES

TASKS = [name for name in CHOICES["task"] if name != "taught"]


@pytest.fixture(scope="module", autouse=True)
def imported():
    prepare()


@pytest.mark.parametrize(
    "task", [pytest.param(t, marks=[] if t == "label" else pytest.mark.slow) for t in TASKS]
)
def test_the_same_command_twice_is_the_same_run(tmp_path, task):
    drawn = ["augmentation=geometric", "backbone.dropout=0.2", "trainer.ema=0.9", "trainer.log_every=1"]
    given = [*SMALL, *CHOICES["task"][task], *drawn]
    for name, more in (("once", []), ("twice", []), ("workers", ["data.num_workers=2"])):
        assert trained(tmp_path / name, [*given, *more]) == 0, log(tmp_path / name)
    assert_alike(tmp_path / "once", tmp_path / "twice")
    assert_alike(tmp_path / "once", tmp_path / "workers")


def test_a_deterministic_run_tells_torch_so_and_on_the_processor_changes_nothing(tmp_path, monkeypatch):
    whole, told = Task.training_step, tmp_path / "told"

    def step(self, batch, batch_idx):
        flags = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        told.write_text(f"{flags} {os.environ['CUBLAS_WORKSPACE_CONFIG']}")
        return whole(self, batch, batch_idx)

    assert trained(tmp_path / "plain", SMALL) == 0, log(tmp_path / "plain")
    monkeypatch.setattr(Task, "training_step", step)
    assert trained(tmp_path / "exact", [*SMALL, "trainer.deterministic=true"]) == 0, log(tmp_path / "exact")
    assert told.read_text() == "(True, False) :4096:8"
    weights = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("plain", "exact")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_an_operation_that_cannot_repeat_is_named_with_the_key(tmp_path, monkeypatch):
    """Unpooling raises on the processor too."""

    def step(self, batch, batch_idx):
        maxima, places = F.max_pool2d(batch[0], 2, return_indices=True)
        return F.max_unpool2d(maxima, places, 2).sum()

    monkeypatch.setattr(Task, "training_step", step)
    assert trained(tmp_path / "run", [*SMALL, "trainer.deterministic=true"]) == 1
    error = Run.read(tmp_path / "run").result["error"]
    assert error["type"] == "MachineError"
    assert error["message"].startswith("trainer.deterministic=true: max_unpooling2d_forward_out")
    assert error["message"].endswith("trainer.deterministic=false trains with it")


@pytest.mark.parametrize(
    "operation",
    ["roi_pool_backward_kernel", "adaptive_avg_pool2d_backward_cuda", "nll_loss2d_forward_out_cuda"],
)
def test_what_avoids_an_operation_is_said(tmp_path, operation):
    said = (
        f"{operation} does not have a deterministic implementation, but you set 'torch.use_deterministic_algo"
    )
    with (
        pytest.raises(MachineError, match=f"^trainer.deterministic=true: {operation}, ") as caught,
        in_words(None, tmp_path),
    ):  # type: ignore[arg-type]
        raise RuntimeError(said)
    for name, way in AVOIDED.items():
        assert (way in str(caught.value)) == operation.startswith(name)
