"""What the machine lacks while a run trains, in words: memory, or room on the disk."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from paribus.config import TrainConfig

# torch names one of these an error of its own (torch.OutOfMemoryError); cuDNN's and the processor's are a
# RuntimeError like any other.
MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|_ALLOC_FAILED", re.IGNORECASE)
ORDER = re.compile(r"(\w+) does not have a deterministic implementation")
AVOIDED = {  # what torch calls an operation begins so -> what asks for another one
    "roi_pool": "model.roi=align avoids it",
    "adaptive_avg_pool2d": "a data.size whose last map has the cells that the layers after it are made for avoids it",
}
TRIED = re.compile(r"[Tt]ried to allocate (\d+(?:\.\d+)? ?\w*)|Unable to allocate (\d+(?:\.\d+)? ?\w*)")


class MachineError(ValueError):
    """The machine has not what the run needs; the message says what, and the override that may help."""


@contextmanager
def in_words(config: TrainConfig, folder: Path) -> Iterator[None]:
    """Raises MachineError for what is raised inside for want of memory, of room on the disk, or of an operation that
    repeats exactly."""
    try:
        yield
    except Exception as error:
        for cause in _chain(error):
            if isinstance(cause, OSError):
                if words := _of_room(cause, folder):
                    logging.raiseExceptions = False  # the run's log may lie on the same disk
                    raise MachineError(words) from error
            elif of_memory(cause):
                raise MachineError(_of_memory(cause, config)) from error
            elif isinstance(cause, RuntimeError) and (found := ORDER.search(str(cause))):
                raise MachineError(_of_order(found[1])) from error
        raise


def of_memory(error: BaseException) -> bool:
    """Whether it is raised for want of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(MEMORY.search(str(error)))
    )


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


def _of_order(operation: str) -> str:
    ways = [words for name, words in AVOIDED.items() if operation.startswith(name)]
    ways += ["trainer.deterministic=false trains with it"]
    return (
        f"trainer.deterministic=true: {operation}, which this run needs, adds in another order each time on this device. "
        + "; ".join(ways)
    )


def _of_memory(error: BaseException, config: TrainConfig) -> str:
    from paribus.device import device_name

    t, batch = config.trainer, config.data["batch_size"]
    found = TRIED.search(str(error))
    asked = f", when {next(filter(None, found.groups()))} more were asked for" if found else ""
    among = devices(config)
    images = max(1, batch // (among * t.accumulate))
    head = (
        f"out of memory on the {t.accelerator} ({device_name(t)}){asked}. data.batch_size={batch} is {images} "
        + ("image" if images == 1 else "images")
        + " at once"
        + (f" on each of {among} devices" if among > 1 else "")
    )
    if images == 1:
        return f"{head}, and fewer there are not: a smaller data.size, or a smaller network"
    fitting = _fitting(config)
    fewer = fitting if fitting and fitting < images else images // 2
    ways = [f"data.batch_size={fewer * among * t.accumulate}"]
    # The next number of parts that the batch divides into, of at most so many images each.
    for parts in range(t.accumulate + 1, batch // among + 1):
        if batch % (among * parts) == 0 and batch // (among * parts) <= fewer:
            ways.append(
                f"trainer.accumulate={parts}, which keeps the steps as they are (batch norm alone sees less)"
            )
            break
    least = f"By what a step takes, {fewer} fit" if fewer == fitting else "Try half"
    return f"{head}. {least}: {', or '.join(ways)}"


def _fitting(config: TrainConfig) -> int | None:
    """Images at once that the memory has room for, foretold; None where that is not known."""
    from paribus.batch_size import images_that_fit
    from paribus.build import build
    from paribus.device import device_memory

    size = config.data.get("size")
    with suppress(Exception):  # whatever it is, the run has failed of something else
        parts = build(replace(config, logger={}))
        return images_that_fit(parts, config, device_memory(config.trainer), tuple(size)) if size else None
    return None


def devices(config: TrainConfig) -> int:
    """Processes among which a batch is divided."""
    count = config.trainer.devices
    if count == -1:
        import torch

        count = max(1, torch.cuda.device_count())
    return count * config.trainer.num_nodes
