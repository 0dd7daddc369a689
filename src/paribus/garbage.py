"""Python's search for garbage in cycles, and when it is not wanted."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the search: where very many objects are made that all stay, it goes through all of them again and again.

    A fifth to a quarter of the time that torch and lightning take to be imported, a fifth to a third of COCO's
    matching with a dict for each box, a tenth of a report over a thousand runs.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def end_at_once() -> None:
    """Lets this process end without a last search, which takes 1.2 s where torch and lightning are in memory."""
    atexit.register(_end)


def _end() -> None:
    gc.freeze()
    # Python has said all it has to say. What comes now is libtriton's list of what was not searched for.
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
