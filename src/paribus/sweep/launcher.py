"""The runs of a sweep, several at a time, each a process of its own that is ready at once.

Imports are nine tenths of the time to a run's first step. They are made once, by a fork server that neither
touches a GPU nor starts a thread. A run is a fork of it with its own session, environment and seeds: nothing leaks
from one run into the next, and nothing is left of it when it ends. A run on several devices is a fresh process:
DDP starts the script again for each device, and must find a single run there.
"""

import logging
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from hydra.core.utils import JobReturn, configure_log, setup_globals
from omegaconf import DictConfig

from paribus.config import LauncherConfig
from paribus.record import busy
from paribus.results import utc_now
from paribus.sweep.forked import server
from paribus.sweep.job import Job, stop
from paribus.sweep.mates import mates
from paribus.sweep.plan import plan
from paribus.sweep.slots import Slots
from paribus.sweep.standing import Standing, count, failure, judged_by

log = logging.getLogger(__name__)

POLL = 0.1  # seconds
NETWORKS = ("backbone=", "backbone.pretrained=", "experiment=")  # what decides whether a run needs timm


def launch(
    config: DictConfig,
    loader: Any,
    task: Any,
    keys: LauncherConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Runs every job to its end, and returns what each came to in their order; Hydra raises the first failure.

    A finished run is found and not made again; one that another process is making is waited for, so that two of
    the same command share the work. Ctrl-C and SIGTERM end the runs first, which keep their checkpoints.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    jobs = [Job(list(overrides), first + i) for i, overrides in enumerate(job_overrides)]
    if config.plan:
        for job in jobs:
            job.compose(config, loader)
        plan(jobs, keys)
        return [job.result for job in jobs]
    ahead, running, since = [*jobs], list[Job](), utc_now()
    networks = {one for job in jobs for one in job.overrides if one.startswith(NETWORKS)}
    several = len({one.partition("=")[0] for one in networks}) < len(networks)  # not all runs are of one
    slots: Slots | None = None
    forks: Any = None  # of a server which the first run sets up
    with Standing(count(config), first) as standing, _signals():
        try:
            while ahead or running:
                for job in [job for job in running if job.over()]:
                    assert slots is not None
                    running.remove(job)
                    slots.give_back(job)
                    for each, ended in (ends := job.ends()):
                        if ended:
                            metric, said = judged_by(each.composed), failure(each.result)
                            standing.ended(each.folder, metric, said, last=each is ends[-1][0])
                        else:  # another process has it, or it is to be made by itself
                            standing.gave_way(each.folder)
                            ahead.append(each)
                for job in [*ahead]:
                    if slots is not None and not slots.free:
                        break
                    if job not in ahead:  # taken along
                        continue
                    if job.composed is None:
                        job.compose(config, loader)
                    if busy(job.folder):  # made by another process
                        continue
                    if slots is not None and not slots.have_room(job):
                        continue
                    typed = job.settle(since)
                    if typed is None:
                        ahead.remove(job)
                        standing.ended(job.folder, judged_by(job.composed), failure(job.result))
                        continue
                    slots = slots or Slots(keys, typed)
                    ahead.remove(job)
                    if typed.replicates == "stacked":
                        job.mates = mates(
                            job, typed, ahead, math.ceil((1 + len(ahead)) / slots.all), config, loader
                        )
                        ahead = [each for each in ahead if each not in job.mates]
                    running.append(job)
                    if not job.alone:
                        forks = forks or server(job.composed, timm=several)
                    job.start(task, slots.take(job), forks)
                    for each in (job, *job.mates):
                        standing.began(each.folder, each.composed.task.monitor)
                for job in running:
                    most = 60 * (keys.timeout or 0) * (1 + len(job.mates))
                    if keys.timeout and not job.told and time.monotonic() - job.started > most:
                        job.told = f"it took more than hydra.launcher.timeout={keys.timeout:g} minutes"
                        job.end(signal.SIGTERM)
                standing.moved()
                unread = next((job for job in ahead if job.composed is None), None)
                if unread:  # while the runs go: a config takes as long as a look or two
                    unread.compose(config, loader)
                elif running or ahead:  # until a run ends, or so long
                    wait([job.process.sentinel for job in running if not job.alone], POLL)
        except BaseException as error:
            stop(running)
            if isinstance(error, KeyboardInterrupt):
                log.info("interrupted; the same command goes on")
                raise SystemExit(130) from None
            raise
    return [job.result for job in jobs]


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM ends the sweep as Ctrl-C does."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
