"""What the machine lacks is said in words: how much of what, and the override that may help."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import ROOT, SMALL, environment, script, succeeded
from composing import composed
from paribus.checks import check
from paribus.results import Run
from paribus.tasks import Classification
from paribus.trouble import MachineError, in_words
from test_train import train


def said(error: BaseException, *overrides: str) -> str:
    with pytest.raises(MachineError) as raised, in_words(check(composed(*overrides)), Path("runs/a")):
        raise error
    assert raised.value.__cause__ is error
    return str(raised.value)


CUDA = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 139 GiB"
)


@pytest.mark.parametrize(
    ("overrides", "images", "ways"),
    [
        (["data.batch_size=64"], "64 images at once.", "data.batch_size=32, or trainer.accumulate=2,"),
        (["data.batch_size=9"], "9 images at once.", "data.batch_size=4, or trainer.accumulate=3,"),
        (
            ["data.batch_size=64", "trainer.accumulate=4"],
            "16 images",
            "data.batch_size=32, or trainer.accumulate=8,",
        ),
        (
            ["data.batch_size=12", "trainer.accumulate=4"],
            "3 images",
            "data.batch_size=4, or trainer.accumulate=12,",
        ),
        (
            ["data.batch_size=64", "trainer=ddp_cpu", "trainer.devices=2", "trainer.num_nodes=2"],
            "16 images at once on each of 4 devices",
            "data.batch_size=32, or trainer.accumulate=2,",
        ),
        (
            ["data.batch_size=3", "trainer.accumulate=3"],
            "1 image at once",
            "a smaller data.size, or a smaller network",
        ),
    ],
)
def test_out_of_memory_says_the_batch_and_the_half_of_it(overrides, images, ways):
    message = said(CUDA, *overrides)
    assert "out of memory on the cpu (" in message
    assert "when 2.50 GiB more were asked for" in message
    assert images in message
    assert ways in message
    # What is proposed is a config that passes.
    for way in [
        word.strip(",.") for word in message.split() if word.startswith(("data.batch", "trainer.acc"))
    ][1:]:
        check(composed(*overrides, way))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."
        ),
        RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)"),
    ],
    ids=str,
)
def test_every_library_has_words_of_its_own_for_it(error):
    assert "out of memory on the cpu" in said(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("size mismatch"), ValueError("x"), OSError(13, "denied"), KeyboardInterrupt()]
)
def test_what_is_something_else_stays_as_it_is(error):
    with pytest.raises(type(error)) as raised, in_words(check(composed()), Path("runs/a")):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    "take", [lambda: torch.empty(10**15), lambda: np.empty(10**15)], ids=["torch", "numpy"]
)
def test_a_run_out_of_memory_says_so_and_goes_on_from_the_step_before(tmp_path, monkeypatch, take):
    def step(self, *given):
        if self.trainer.global_step == 9:
            take()
        return whole(self, *given)

    whole = Classification.training_step
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "training_step", step)
        with pytest.raises(
            MachineError, match=r"out of memory on the cpu .* were asked for.*Try half: data\.batch_size=8"
        ):
            train(tmp_path / "run")
    error = Run.read(tmp_path / "run").result["error"]
    assert error["type"] == "MachineError"
    assert "in take" in error["traceback"] or "<lambda>" in error["traceback"]  # where it was is kept
    assert train(tmp_path / "run").status == "done"


@pytest.mark.slow
def test_a_full_disk_ends_a_run_with_one_message_and_the_same_command_goes_on(tmp_path):
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # a checkpoint has 85,000 bytes

    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *SMALL]
    settings = {**environment(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=settings,
        text=True,
        capture_output=True,
        timeout=240,
        preexec_fn=small_files,
    )
    (folder,) = tmp_path.glob("runs/*/*")
    assert ended.returncode == 1
    assert f"{folder / 'checkpoints'}: File too large: best.ckpt takes 8" in ended.stderr
    assert "there was none before" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert Run.read(folder).status == "failed"
    assert os.listdir(folder / "checkpoints") == []
    succeeded(script("train", *SMALL, cwd=tmp_path))
    assert Run.read(folder).status == "done"
