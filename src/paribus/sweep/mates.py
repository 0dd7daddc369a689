"""Which runs of a sweep are made in one process: the seeds of a level, with replicates=stacked."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig

from paribus.config import TrainConfig
from paribus.record import busy
from paribus.results import differences
from paribus.stacked.refused import why_not
from paribus.sweep.job import Job

log = logging.getLogger(__name__)
TOLD: set[str] = set()  # of this process's sweep, each once


def mates(
    job: Job, typed: TrainConfig, ahead: Sequence[Job], most: int, config: DictConfig, loader: Any
) -> list[Job]:
    """Those of the runs ahead that differ from this one in the seed alone and are to be made, with it no more than so
    many; none where they cannot be stacked, which is said once.

    most: as many as leave a share of the sweep to every slot.
    """
    found: list[Job] = []
    if job.apart or job.alone:
        return found
    same = [other for other in ahead if not other.apart and _form(other) == _form(job)]
    words = why_not(typed) if same else None
    if words:
        job.apart = True
        if words not in TOLD:
            log.info("not stacked: %s", words)
        TOLD.add(words)
        return found
    for other in same:
        if len(found) + 1 >= most:
            break
        if other.composed is None:
            other.compose(config, loader)
        if busy(other.folder):
            continue
        theirs = other.settle()
        if theirs is not None and not differences(asdict(typed), asdict(theirs), ignore=("seed",)):
            found.append(other)
    return found


def _form(job: Job) -> list[str]:
    """What was asked for, but for the seed."""
    return sorted(override for override in job.overrides if not override.startswith("seed="))
