"""What a fork server does before the first fork, which imports this and nothing else: it imports what runs import, and
reads what their checks will read.

Then nothing that is there is looked at again in search of garbage: neither by the server nor by the runs, which would
have to copy the memory that they share for it.
"""

import gc
import os
from contextlib import suppress
from importlib import import_module

from paribus.checks import read
from paribus.garbage import end_at_once, uncollected
from paribus.sweep.forked import IMPORTS, TARGETS

with uncollected():
    targets = os.environ.get(TARGETS, "").split()
    for name in [*os.environ.get(IMPORTS, "").split(), *(target.rpartition(".")[0] for target in targets)]:
        with suppress(ImportError):  # the run that needs it says so
            import_module(name)
    for target in targets:
        read(target)
    gc.freeze()
end_at_once()
