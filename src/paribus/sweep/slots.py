"""The machine shared out: how many runs go at once, with how many threads each, and on which GPU."""

import os
from typing import Any

from paribus.config import LauncherConfig, TrainConfig
from paribus.device import cores, free_memory, visible_gpus
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
