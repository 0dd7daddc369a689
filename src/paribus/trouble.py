"""What the machine lacks while a run trains, in words: memory, or room on the disk."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paribus.config import TrainConfig

# torch names one of these an error of its own (torch.OutOfMemoryError); cuDNN's and the processor's are a
# RuntimeError like any other.
MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|_ALLOC_FAILED", re.IGNORECASE)
TRIED = re.compile(r"[Tt]ried to allocate (\d+(?:\.\d+)? ?\w*)|Unable to allocate (\d+(?:\.\d+)? ?\w*)")


class MachineError(ValueError):
    """The machine has not what the run needs; the message says what, and the override that may help."""


@contextmanager
def in_words(config: TrainConfig, folder: Path) -> Iterator[None]:
    """Raises MachineError for what is raised inside for want of memory or of room on the disk."""
    try:
        yield
    except Exception as error:
        for cause in _chain(error):
            if isinstance(cause, OSError):
                if words := _of_room(cause, folder):
                    logging.raiseExceptions = False  # the run's log may lie on the same disk
                    raise MachineError(words) from error
            elif isinstance(cause, MemoryError) or (
                isinstance(cause, RuntimeError) and MEMORY.search(str(cause))
            ):
                raise MachineError(_of_memory(cause, config)) from error
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The first failure first: what clearing up after it raises says less."""
    if error is not None:
        yield from _chain(error.__cause__ or (None if error.__suppress_context__ else error.__context__))
        yield error


def _of_room(error: OSError, folder: Path) -> str | None:
    from paribus.checkpoints import FULL

    if error.errno not in FULL:
        return None
    return (
        f"{error.filename or folder}: {error.strerror}. Make room there, or train elsewhere (root=...); "
        "the same command then goes on"
    )


def _of_memory(error: BaseException, config: TrainConfig) -> str:
    from paribus.device import device_name

    t, batch = config.trainer, config.data["batch_size"]
    found = TRIED.search(str(error))
    asked = f", when {next(filter(None, found.groups()))} more were asked for" if found else ""
    devices = _devices(config)
    images = max(1, batch // (devices * t.accumulate))
    head = (
        f"out of memory on the {t.accelerator} ({device_name(t)}){asked}. data.batch_size={batch} is {images} "
        + ("image" if images == 1 else "images")
        + " at once"
        + (f" on each of {devices} devices" if devices > 1 else "")
    )
    if images == 1:
        return f"{head}, and fewer there are not: a smaller data.size, or a smaller network"
    half = images // 2
    ways = [f"data.batch_size={half * devices * t.accumulate}"]
    # The next number of parts that the batch divides into, of at most half as many images each.
    for parts in range(t.accumulate + 1, batch // devices + 1):
        if batch % (devices * parts) == 0 and batch // (devices * parts) <= half:
            ways.append(
                f"trainer.accumulate={parts}, which keeps the steps as they are (batch norm alone sees less)"
            )
            break
    return f"{head}. Try half: {', or '.join(ways)}"


def _devices(config: TrainConfig) -> int:
    devices = config.trainer.devices
    if devices == -1:
        import torch

        devices = max(1, torch.cuda.device_count())
    return devices * config.trainer.num_nodes
