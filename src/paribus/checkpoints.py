"""Checkpoint files: written whole or not at all, and looked at before a training goes on from one."""

import errno
import io
import logging
import os
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

log = logging.getLogger(__name__)

NEEDED = {"optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step"}


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint by a thread, from a copy of its tensors: training goes on meanwhile. Beside its place, until the
    disk has it, and then moved there at once.

    Lightning's own is written in the folder for temporary files. Where that is another file system, the last step
    is a copy onto the old checkpoint, and whoever is killed in it has neither. Nor does it wait for the disk, so
    that a power cut may leave a name without content. Its AsyncCheckpointIO lets copies queue up in memory; here a
    checkpoint waits until the one before of its name is written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.thread: ThreadPoolExecutor | None = None
        self.writing: dict[Path, Future[None]] = {}
        self.copies: dict[Path, list[Any]] = {}
        self.failed: OSError | None = None  # the first: what fails after it would hide it

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises what one before could not do."""
        path = Path(path)
        for place, writing in [*self.writing.items()]:
            if place == path or writing.done():
                self._end(place)
        parts, form = tree_flatten(checkpoint)
        before = self.copies.get(path, [])
        self.copies[path] = copies = [
            _room(part, *before[place : place + 1]) for place, part in enumerate(parts)
        ]
        tensors = [place for place, part in enumerate(parts) if isinstance(part, Tensor)]
        with torch.no_grad():  # all at once: one by one takes a twentieth more
            torch._foreach_copy_([copies[place] for place in tensors], [parts[place] for place in tensors])
        self.thread = self.thread or ThreadPoolExecutor(
            1, "checkpoint"
        )  # one: they are written in their order
        self.writing[path] = self.thread.submit(write, tree_unflatten(self.copies[path], form), path)

    def wait(self) -> None:
        """Until what was to be kept is on the disk; raises OSError where it could not be."""
        while self.writing:
            self._end(next(iter(self.writing)))

    def _end(self, path: Path) -> None:
        try:
            self.writing.pop(path).result()
        except OSError as error:
            self.failed = self.failed or error
            raise self.failed from None

    def teardown(self) -> None:
        thread, self.thread, self.copies = self.thread, None, {}
        try:
            self.wait()
        finally:
            if thread is not None:
                thread.shutdown()


def _room(part: Any, before: Any = None) -> Any:
    """For a tensor's copy on the host, the memory that the one before had: new memory takes ten times as long."""
    if not isinstance(part, Tensor):
        return part
    if not isinstance(before, Tensor) or before.shape != part.shape or before.dtype != part.dtype:
        return torch.empty_like(part, device="cpu", requires_grad=False)
    return before


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Raises OSError with the folder and the bytes that are needed where they cannot be had; what was there
    stays.
    """
    content = io.BytesIO()  # in memory first: torch's own writer does not survive a full disk
    torch.save(checkpoint, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")  # one name, so that what a kill leaves is written over
    try:
        with open(part, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno not in FULL:
            raise
        before = "the one before is still there, and whole" if path.exists() else "there was none before"
        words = f"{error.strerror}: {path.name} takes {content.tell():,} bytes ({before})"
        raise OSError(error.errno, words, str(path.parent)) from None
    folder = os.open(path.parent, os.O_RDONLY)  # the new name too is on the disk only then
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a spent quota, a file larger than may be


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, every byte of it checked; None if nothing is.

    ``torch.load`` alone finds a cut end, but takes zeros in the middle for weights: it reads no check sums.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as records:
                torn = records.testzip()
        except Exception as error:  # zipfile raises whatever it stumbles on
            return f"is torn ({str(error).lower()})"
    return f"is damaged (the check sum of its {torn} is wrong)" if torn else None


def state_of(path: Path) -> tuple[dict[str, Any], str | None]:
    """What a checkpoint holds, and what is wrong with the file if that cannot be had; nothing in it is run."""
    if wrong := damage(path):
        return {}, wrong
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # many kinds: what is pickled may be anything
        return {}, f"cannot be read as tensors and plain data ({type(error).__name__})"
    return (
        (state, None)
        if isinstance(state, dict) and "state_dict" in state
        else ({}, "holds no state of a model")
    )


def latest(folder: Path) -> tuple[Path | None, int]:
    """The checkpoint in ``folder`` that a training goes on from, and its step; (None, 0) where it begins anew.

    That is last.ckpt, or else best.ckpt. One that is not whole is passed over, and the log says so; and so is
    last.ckpt where the best checkpoint that it speaks of is not whole, for what is judged would be lost.
    """
    last, best = folder / "last.ckpt", folder / "best.ckpt"
    held = [path for path in (last, best) if path.is_file()]
    for path in held:
        state, wrong = state_of(path)
        if not wrong and NEEDED - state.keys():
            wrong = "holds weights alone, no state of a training"
        if not wrong and path == last and _has_best(state):
            lost = damage(best) if best in held else "is missing"
            wrong = f"is whole, but {best.name}, which it needs, {lost}" if lost else None
        if not wrong:
            return path, state["global_step"]
        log.warning("%s %s: passed over", path, wrong)
    if held:
        log.warning("%s holds no other checkpoint to go on from: training begins anew", folder)
    return None, 0


def _has_best(state: dict[str, Any]) -> bool:
    """Whether there was a best one yet. What keeps last.ckpt every few steps calls that its best."""
    kept = (callback.get("best_model_path") or "" for callback in state["callbacks"].values())
    return any(Path(path).name == "best.ckpt" for path in kept)
