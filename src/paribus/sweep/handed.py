"""A run that another's launcher was given (joblib, submitit, Ray, Hydra's basic one), made in a fresh process.

Their workers make one run after another, and live among signals and ranks of their own. Here a worker only starts the
run as the command line would, and waits: nothing leaks from one run into the next, DDP finds a single run, and a signal
ends the run first, which keeps its checkpoint, before the launcher has it and asks Slurm for another turn.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from paribus.config import CONF, TrainConfig
from paribus.device import cores
from paribus.record import busy
from paribus.results import utc_now
from paribus.sweep.job import TIED, Job, stop
from paribus.sweep.slots import a_gpu

OURS = "hydra_plugins.paribus_launcher."
SWEEP = "PARIBUS_SWEEP"  # in a worker's environment: the folder whose lock the sweep holds
RUNS = "PARIBUS_RUNS"  # and how many that has
SCRIPT = CONF.parent / "scripts" / "train.py"
POLL = 0.2  # seconds


def by_another() -> bool:
    """Whether this process is a job of another's launcher."""
    return not HydraConfig.get().launcher._target_.startswith(OURS)


def hand_on(cfg: DictConfig, config: TrainConfig, folder: Path) -> Any:
    """The run's metric, once it is made; raises what it failed with.

    A finished run is found, one that another process is making is waited for.
    """
    composed: Any = HydraConfig.instance().cfg
    job = Job(list(composed.hydra.overrides.task), composed=composed, folder=folder, alone=True)
    job.script, job.result.cfg = str(SCRIPT), cfg
    sweep = (
        Path(os.environ[SWEEP]) if SWEEP in os.environ and not _in_slurm() else None
    )  # Slurm's jobs outlive it
    group = _group(composed.hydra.launcher, config)
    first = int(group.get("RANK", group.get("NODE_RANK", 0))) == 0
    since = utc_now()
    with _passed_on(job), ExitStack() as held:
        share = held.enter_context(a_gpu(config.trainer)) | _threads(composed.hydra.launcher) | group
        while True:
            _while(lambda: first and busy(folder), sweep, job)
            if job.settle(since) is not None:
                job.start(None, share)
                _while(lambda: not job.over(), sweep, job)
                if job.told or job.wrote().get("status") == "interrupted":
                    _leave()
                if not job.conclude():
                    continue
            found = (
                job.result._return_value
            )  # the property prints an error's overrides, as Hydra then does too
            if isinstance(found, Exception):
                raise found
            return found


def _while(condition: Any, sweep: Path | None, job: Job) -> None:
    """Waits, as long as the sweep does."""
    while True:
        if sweep and not busy(sweep):
            stop([job])
            os._exit(143)  # nobody is left to hear of it, and no other run is to be begun
        if not condition():
            return
        time.sleep(POLL)


def _leave() -> None:
    """The run was told to end. Slurm says itself when its job is over: a process that ends before looks done."""
    while _in_slurm():
        time.sleep(1)
    raise SystemExit(143)


def _in_slurm() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


@contextmanager
def _passed_on(job: Job) -> Iterator[None]:
    """A signal ends the run, and then is the launcher's: submitit has SIGUSR2 from Slurm before the time is over."""
    launchers: dict[int, Any] = {}

    def told(number: int, frame: Any) -> None:
        job.told = "it was told to end"
        stop([job])
        if not callable(launchers[number]):
            raise SystemExit(128 + number)
        launchers[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            if each == signal.SIGTERM or callable(signal.getsignal(each)):
                launchers[each] = signal.signal(each, told)
    try:
        yield
    finally:
        stop([job])
        for number, handler in launchers.items():
            signal.signal(number, handler)


def _threads(launcher: DictConfig) -> dict[str, str]:
    """submitit starts all jobs at once, and says nothing to OpenMP; joblib and Ray do."""
    each = launcher.get("cpus_per_task")
    if not each and os.environ.get("SUBMITIT_EXECUTOR") == "local" and "OMP_NUM_THREADS" not in os.environ:
        each = max(1, cores() // (int(os.environ.get(RUNS) or 1) * launcher.get("tasks_per_node", 1)))
    return {"OMP_NUM_THREADS": str(each)} if each else {}


def _group(launcher: DictConfig, config: TrainConfig) -> dict[str, str]:
    """What Lightning must find of the other processes, where submitit has started one on each node, or each device."""
    if launcher.get("nodes", 1) * launcher.get("tasks_per_node", 1) == 1:
        return {}
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    job, group = JobEnvironment(), TorchDistributedEnvironment()
    found = {
        "MASTER_ADDR": group.master_addr if job.num_nodes > 1 else "127.0.0.1",
        "MASTER_PORT": str(group.master_port),
        "NODE_RANK": str(job.node),
    }
    if group.local_world_size == config.trainer.devices:  # or Lightning starts the node's others itself
        found |= {
            "RANK": str(group.rank),
            "LOCAL_RANK": str(group.local_rank),
            "WORLD_SIZE": str(group.world_size),
        }
    return found


def tie() -> None:
    """In the run's own process: it ends with the one that started it, and leaves that one's signals to it."""
    if TIED not in os.environ:
        return
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # Slurm signals every process of a job
        signal.signal(number, signal.SIG_IGN)

    def wait() -> None:
        os.read(0, 1)  # not through sys.stdin, whose lock a thread may not hold as Python ends
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
