"""The runs of a sweep, several at a time, each a process of its own that is ready at once.

Imports are nine tenths of the time to a run's first step. They are made once, by a fork server that neither
touches a GPU nor starts a thread. A run is a fork of it with its own session, environment and seeds: nothing leaks
from one run into the next, and nothing is left of it when it ends. A run on several devices is a fresh process:
DDP starts the script again for each device, and must find a single run there.
"""

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, configure_log, setup_globals
from omegaconf import DictConfig

from paribus.config import LauncherConfig
from paribus.record import BusyError, busy, gave_up
from paribus.sweep.job import FailedRunError, Job
from paribus.sweep.plan import plan
from paribus.sweep.slots import Slots
from paribus.sweep.standing import Standing, count

log = logging.getLogger(__name__)

POLL = 0.1  # seconds
PATIENCE = 60.0  # seconds that a run has to write its checkpoint when it is told to end


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
    ahead, running = [*jobs], list[Job]()
    slots: Slots | None = None
    with Standing(count(config), first) as standing, _signals():
        try:
            while ahead or running:
                for job in [job for job in running if job.over()]:
                    assert slots is not None
                    running.remove(job)
                    slots.give_back(job)
                    if _concluded(job):
                        standing.ended(job.folder, job.composed, job.result)
                    else:  # another process has it
                        standing.gave_way(job.folder)
                        ahead.append(job)
                for job in [*ahead]:
                    if slots is not None and not slots.free:
                        break
                    if job.composed is None:
                        job.compose(config, loader)
                    if busy(job.folder):  # made by another process
                        continue
                    if slots is not None and not slots.have_room(job):
                        continue
                    typed = job.settle()
                    if typed is None:
                        ahead.remove(job)
                        standing.ended(job.folder, job.composed, job.result)
                        continue
                    slots = slots or Slots(keys, typed)
                    ahead.remove(job)
                    running.append(job)
                    job.start(task, slots.take(job))
                    standing.began(job.folder, job.composed)
                for job in running:
                    if keys.timeout and not job.told and time.monotonic() - job.started > 60 * keys.timeout:
                        job.told = f"it took more than hydra.launcher.timeout={keys.timeout:g} minutes"
                        job.end(signal.SIGTERM)
                standing.moved()
                time.sleep(POLL)
        except BaseException as error:
            _end(running)
            if isinstance(error, KeyboardInterrupt):
                log.info("interrupted; the same command goes on")
                raise SystemExit(130) from None
            raise
    return [job.result for job in jobs]


def _concluded(job: Job) -> bool:
    """Takes down how a run ended; false if another process had it, and it must be looked at again."""
    said: Any = None
    if job.pipe is not None:
        with suppress(EOFError, OSError):
            said = job.pipe.recv() if job.pipe.poll() else None
        job.pipe.close()
    job.sweep_up()
    code = job.exit_code()
    if said is not None and said[0] is None:
        job.done(said[1])
    elif said is not None:
        kind, message = said[0]
        if kind == BusyError.__name__:
            return False
        job.failed(FailedRunError(f"{kind}: {message}"))
    elif job.alone and code == 0:
        if job.settle() is not None:
            job.failed(
                FailedRunError(f"its process ended without a result; see {job.folder / 'console.log'}")
            )
    else:
        words = job.told or _words(code, job.folder)
        gave_up(job.folder, "TimeoutError" if job.told else "KilledError", words)
        job.failed(FailedRunError(words))
    return True


def _words(code: int | None, folder: Path) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        more = ": out of memory, if nobody killed it" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{more}; see {folder / 'console.log'}"
    return f"its process ended with code {code}; see {folder / 'console.log'}"


def _end(running: list[Job]) -> None:
    """Tells all to end, waits for them to keep their checkpoints, and kills what does not."""
    for job in running:
        job.end(signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and not all(job.over() for job in running):
        time.sleep(POLL)
    for job in running:
        job.sweep_up()


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
