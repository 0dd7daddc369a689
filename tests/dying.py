"""A run in a fork of the test's process, that dies where it is told to; and what two runs must have alike."""

import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from composing import composed
from paribus import checkpoints, train
from paribus.callbacks import Checkpoint
from paribus.record import Record
from paribus.results import Run
from paribus.sweep.forked import READY
from paribus.tasks.base import Task

KINDS = ("kill", "term", "ctrl_c", "error", "memory")
# Where a run may die: in whose method, before it or after. The last three come after training.
MOMENTS: dict[str, tuple[Any, str, str]] = {
    "batch": (Task, "on_train_batch_start", "before"),
    "forward": (Task, "training_step", "after"),
    "update": (Task, "on_before_optimizer_step", "before"),
    "step": (Task, "on_train_batch_end", "after"),
    "validation": (Task, "validation_step", "after"),
    "validated": (Task, "on_validation_epoch_end", "after"),
    "kept": (Checkpoint, "on_validation_end", "after"),
    "epoch": (Task, "on_train_epoch_end", "before"),
    "next_epoch": (Task, "on_train_epoch_end", "after"),
    "write": (checkpoints.WholeFiles, "save_checkpoint", "within"),
    "written": (checkpoints.WholeFiles, "save_checkpoint", "after"),
    "judging": (Task, "test_step", "after"),
    "judged": (Task, "on_test_epoch_end", "after"),
    "record": (Record, "done", "before"),
}


class Death(NamedTuple):
    """How a run dies, at which call of which method."""

    kind: str
    moment: str
    call: int

    def comes(self) -> None:
        """Arms this process: the call kills it."""
        owner, name, when = MOMENTS[self.moment]
        whole: Callable = getattr(owner, name)
        calls = 0

        def method(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != self.call:
                return whole(*given, **named)
            if when == "before":
                self.die()
            if when == "within":  # the file is there, its name not yet
                checkpoints.os = Deadly(self)  # type: ignore[attr-defined]
            answer = whole(*given, **named)
            if when == "after":
                self.die()
            return answer

        setattr(owner, name, method)

    def die(self) -> None:
        print("dies", self, flush=True)
        if self.kind == "full":  # as a disk is: from now on no file grows larger
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
            return
        if self.kind == "error":
            raise RuntimeError("an error of the test")
        if self.kind == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        os.kill(
            os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM, "ctrl_c": signal.SIGINT}[self.kind]
        )


class Deadly:
    """The module os, whose next ``replace`` is the end."""

    def __init__(self, death: Death):
        self.death = death

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def replace(self, *given: Any) -> None:
        checkpoints.os = os  # type: ignore[attr-defined]
        self.death.die()
        os.replace(*given)


def prepare() -> None:
    """What a run imports, once: a fork has it then."""
    import importlib

    for name in (*READY, "albumentations"):
        importlib.import_module(name)


def trained(
    folder: Path, overrides: list[str], death: Death | None = None, processes: int = 1, rank: int = 0
) -> int:
    """Trains in ``folder`` in a process of its own, or in several; the exit code of the one that dies, or of the
    first. What they print is in <folder>.log."""
    fork = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = [
        fork.Process(
            target=_child, args=(folder, overrides, death if i == rank else None, i, processes, port)
        )
        for i in range(processes)
    ]
    for process in group:
        process.start()
    end = time.monotonic() + 120
    for process in [group[rank], *group]:
        process.join(max(0.1, end - time.monotonic()))
        if process is group[rank] and death:
            end = time.monotonic() + 20  # the others notice, or are ended as a launcher does
    hung = [process for process in group if process.is_alive()]
    for process in hung:
        process.kill()
        process.join()
    assert not hung or (death and death.kind != "term"), f"hung: {log(folder)}"
    code = group[rank].exitcode
    assert code is not None
    return code


def _child(folder: Path, overrides: list[str], death: Death | None, rank: int, world: int, port: int) -> None:
    out = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if world > 1:
        os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"NODE_RANK": "0", "WORLD_SIZE": str(world)}
    code: Any = 0
    try:
        torch.set_num_threads(1)
        if death:
            death.comes()
        train.run(composed(*overrides, "trainer.threads=1", "trainer.progress=false"), folder, in_sweep=True)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def log(folder: Path) -> str:
    return folder.with_suffix(".log").read_text()


# --- what two runs must have alike ---------------------------------------------------------------------

OF_THE_CLOCK = {
    *("started", "finished", "seconds", "images_per_second", "judged_images_per_second", "peak_memory_bytes"),
    *("command", "job"),
}


def assert_alike(a: Path, b: Path) -> None:
    """Two run folders: the checkpoints to the bit, every metric and row, and every other file to the byte."""
    x, y = Run.read(a), Run.read(b)
    assert x.status == y.status == "done", (log(a), log(b))
    said = [{k: v for k, v in run.result.items() if k not in OF_THE_CLOCK} for run in (x, y)]
    assert_equal(*said, "result")
    assert (a / "metrics.csv").read_text() == (b / "metrics.csv").read_text()
    for name in ("best", "last"):
        p, q = (path / "checkpoints" / f"{name}.ckpt" for path in (a, b))
        assert p.exists() == q.exists(), (name, p.exists())
        if p.exists():
            one, two = (torch.load(path, weights_only=True) for path in (p, q))
            assert_equal(plain(one, str(a)), plain(two, str(b)), name)
    mine, others = files(a), files(b)
    assert mine.keys() == others.keys()
    for name in mine:
        assert mine[name] == others[name], name


def plain(state: Any, folder: str) -> Any:
    """A checkpoint with the folder's name taken out."""
    if isinstance(state, dict):
        # Lightning does not restore the score of the last validation, which nothing reads.
        kept = {key: value for key, value in state.items() if key != "current_score"}
        return {plain(key, folder): plain(value, folder) for key, value in kept.items()}
    if isinstance(state, list | tuple):
        return [plain(value, folder) for value in state]
    return state.replace(folder, "") if isinstance(state, str) else state


def assert_equal(a: Any, b: Any, where: str) -> None:
    assert type(a) is type(b), (where, a, b)
    if isinstance(a, dict):
        assert a.keys() == b.keys(), (where, a.keys() ^ b.keys())
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), (where, a, b)
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}.{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7)), where
    else:
        assert a == b or (a != a and b != b), (where, a, b)


def files(folder: Path) -> dict[str, bytes]:
    """What else a run has written."""
    apart = ("checkpoints", "wandb", "tensorboard")
    named = ("config.yaml", "result.json", "metrics.csv", "wandb_id", ".lock")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in named and path.relative_to(folder).parts[0] not in apart
    }
