"""The machine shared out: how many runs go at once, with how many threads each, and on which GPU."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from paribus.config import LauncherConfig, TrainConfig, TrainerConfig
from paribus.device import cores, free_memory, visible_gpus
from paribus.record import BusyError, claimed
from paribus.sweep.job import Job


class Slots:
    """The shares, taken and given back.

    With ``n_jobs`` not said as many as there are GPUs, or cores for the threads that a run is given; one,
    if it is given none, and so has all.
    """

    def __init__(self, keys: LauncherConfig, config: TrainConfig):
        trainer, here = config.trainer, cores()
        gpus: list[Any] = (visible_gpus() if trainer.accelerator == "gpu" else []) or [None]
        threads = trainer.threads or int(os.environ.get("OMP_NUM_THREADS") or 0)
        each = keys.n_jobs or (1 if gpus[0] or not threads else max(1, here // threads))
        at_once = each * len(gpus)
        if keys.memory:
            at_once = max(1, min(at_once, int(free_memory() / 2**30 / keys.memory)))
        self.free = (gpus * each)[:at_once]
        self.all = at_once
        self.threads = threads or max(1, here // at_once)

    def have_room(self, job: Job) -> bool:
        return len(self.free) == self.all if job.alone else bool(self.free)

    def take(self, job: Job) -> dict[str, str]:
        """What the environment of the run says of its share."""
        if job.alone:
            return {}
        job.gpu = self.free.pop(0)
        return {
            "OMP_NUM_THREADS": str(self.threads),
            **({"CUDA_VISIBLE_DEVICES": job.gpu} if job.gpu else {}),
        }

    def give_back(self, job: Job) -> None:
        if not job.alone:
            self.free.append(job.gpu)


@contextmanager
def a_gpu(trainer: TrainerConfig) -> Iterator[dict[str, str]]:
    """One of several GPUs for a run on one, for launchers that leave all to every run: the first that the fewest have.

    What a run has, it holds by a lock, so that processes that know nothing of each other spread out.
    """
    several = trainer.accelerator == "gpu" and trainer.devices == 1
    names = visible_gpus() if several else []
    if len(names) < 2:
        yield {}
        return
    folder = Path(tempfile.gettempdir(), f"paribus-gpus-{os.getuid()}")
    with ExitStack() as held:
        for place in (f"{name}-{turn}" for turn in count() for name in names):
            try:
                held.enter_context(claimed(folder / place))
            except BusyError:
                continue
            yield {"CUDA_VISIBLE_DEVICES": place.rpartition("-")[0]}
            return
