"""The runs of a sweep, several at a time, each a process of its own that is ready at once.

Imports are nine tenths of the time to a run's first step. They are made once, by a fork server that neither
touches a GPU nor starts a thread. A run is a fork of it with its own session, environment and seeds: nothing leaks
from one run into the next, and nothing is left of it when it ends. A run on several devices is a fresh process:
DDP starts the script again for each device, and must find a single run there.
"""

import copy
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from paribus.checks import check
from paribus.config import LauncherConfig, TrainConfig, register
from paribus.device import cores, free_memory, visible_gpus
from paribus.record import BusyError, busy, gave_up, known_result
from paribus.results import read_json
from paribus.sweep import Standing

log = logging.getLogger(__name__)

READY = (  # imported by the fork server
    "torch", "torchvision", "torchmetrics", "lightning", "timm", "paribus.train", "paribus.tasks", "paribus.metrics",
    "paribus.data.module", "paribus.examples", "paribus.confusion", "paribus.profile.complexity", "paribus.restore",
)  # fmt: skip
# What the processes of a group tell one another, which a run of its own must not hear.
GROUP = (
    *("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "RANK", "GROUP_RANK"),
    *("MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED"),
)
POLL = 0.1  # seconds
PATIENCE = 60.0  # seconds that a run has to write its checkpoint when it is told to end


class FailedRunError(RuntimeError):
    """What a run ended with, in its own process."""


@dataclass(eq=False)
class Job:
    """One run of the sweep."""

    overrides: list[str]
    composed: Any = None  # from when its turn has come
    folder: Path = Path()
    gpu: str | None = None
    alone: bool = False  # on several devices
    process: Any = None
    pipe: Any = None
    started: float = 0.0
    told: str | None = None  # why it was told to end
    result: JobReturn = field(default_factory=JobReturn)

    def compose(self, config: DictConfig, loader: Any, number: int) -> None:
        self.composed = loader.load_sweep_config(config, self.overrides)
        with open_dict(self.composed):
            self.composed.hydra.job.id = self.composed.hydra.job.num = number
        HydraConfig.instance().set_config(self.composed)
        sweep = self.composed.hydra.sweep
        self.folder = Path(str(sweep.dir), str(sweep.subdir)).absolute()
        runtime = self.composed.hydra.runtime
        with read_write(runtime), open_dict(runtime):
            runtime.output_dir = str(self.folder)
        HydraConfig.instance().set_config(self.composed)
        plain = copy.deepcopy(self.composed)
        with read_write(plain), open_dict(plain):
            del plain["hydra"]
        self.result.cfg, self.result.overrides = plain, self.overrides
        self.result.hydra_cfg = OmegaConf.masked_copy(self.composed, ["hydra"])
        self.result.task_name = self.composed.hydra.job.name

    def over(self) -> bool:
        return self.exit_code() is not None

    def exit_code(self) -> int | None:
        """As a shell has it, less than 0 for a signal; None while it runs."""
        return self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode

    def end(self, number: int) -> None:
        """A signal to the run alone: it ends its own workers, and keeps its checkpoint."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def sweep_up(self) -> None:
        """Kills what is left of its session."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def failed(self, error: Exception) -> None:
        self.result.status, self.result.return_value = JobStatus.FAILED, error

    def done(self, value: Any) -> None:
        self.result.status, self.result.return_value = JobStatus.COMPLETED, value


class Slots:
    """How many runs go at once, with how many threads each, and on which GPU: the machine's, shared out.

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
    jobs = [Job(list(overrides)) for overrides in job_overrides]
    numbers = {job: first + i for i, job in enumerate(jobs)}
    ahead, running = [*jobs], list[Job]()
    slots: Slots | None = None
    with Standing(len(jobs)) as standing, _signals():
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
                        job.compose(config, loader, numbers[job])
                    if busy(job.folder):  # made by another process
                        continue
                    typed = _to_do(job)
                    if typed is None:
                        ahead.remove(job)
                        standing.ended(job.folder, job.composed, job.result)
                        continue
                    slots = slots or Slots(keys, typed)
                    job.alone = typed.trainer.devices != 1
                    if not slots.have_room(job):
                        continue
                    ahead.remove(job)
                    running.append(job)
                    _start(job, task, slots.take(job))
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


def _to_do(job: Job) -> TrainConfig | None:
    """The run's config; None where there is nothing to do: it is done, given up, or its config is refused."""
    HydraConfig.instance().set_config(job.composed)
    try:
        typed = check(job.result.cfg)  # type: ignore[arg-type]
        known = known_result(job.folder, typed) or {}
    except ValueError as error:
        job.failed(error)
        return None
    if known.get("status") == "done":
        metric = typed.ablation.metric if typed.ablation else typed.task["monitor"]
        job.done(known["metrics"].get(metric))
        return None
    if known.get("status") == "failed" and not typed.retry_failed:
        said = known["error"]
        job.failed(FailedRunError(f"{said['type']}: {said['message']} (before; retry_failed=false)"))
        return None
    return typed


def _start(job: Job, task: Any, share: dict[str, str]) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    job.started, job.told = time.monotonic(), None
    console = job.folder / "console.log"
    if job.alone:
        environment = {key: value for key, value in os.environ.items() if key not in GROUP} | share
        command = [sys.executable, sys.argv[0], *filter_overrides(job.overrides), "hydra.mode=RUN"]
        with open(console, "a") as output:
            job.process = subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return
    context = _server(job.composed)
    job.pipe, theirs = context.Pipe()
    job.process = context.Process(
        target=_work, args=(task.__name__, job.composed, share, str(console), theirs), name=job.folder.name
    )
    job.process.start()
    theirs.close()


def _server(config: DictConfig) -> Any:
    """The fork server's context; it is started with the first run, and imports what that one needs."""
    context = multiprocessing.get_context("forkserver")
    ready = [*READY]
    ready += ["albumentations"] if any(config.augmentation.values()) else []
    ready += ["wandb"] if "Wandb" in str(config.logger.get("_target_")) else []
    context.set_forkserver_preload(ready)
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # or numpy's library would start threads there
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
    return context


def _work(task: str, config: DictConfig, share: dict[str, str], console: str, pipe: Connection) -> None:
    """What a forked process does: the run, and a word on how it ended."""
    os.setsid()
    with open(console, "ab", buffering=0) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ |= share
    for key in GROUP:
        os.environ.pop(key, None)
    threading.Thread(target=_end_with_sweep, args=(pipe,), daemon=True).start()
    register()
    setup_globals()
    from hydra._internal.callbacks import Callbacks
    from hydra.types import HydraContext

    HydraConfig.instance().set_config(config)
    function = getattr(sys.modules["__main__"], task)
    returned = run_job(
        task_function=getattr(function, "__wrapped__", function),  # as it was before @hydra.main
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=HydraContext(config_loader=None, callbacks=Callbacks(config)),  # type: ignore[arg-type]
    )
    failed = returned.status is JobStatus.FAILED
    error = returned._return_value if failed else None
    said = (type(error).__name__, str(error)) if failed else None
    pipe.send((said, None if failed else returned.return_value))


def _end_with_sweep(pipe: Connection) -> None:
    """Waits for the sweep's own end of the pipe to close: it was killed, and so ends this run, which keeps its
    checkpoint."""
    with suppress(EOFError, OSError):
        pipe.recv()
    os.kill(os.getpid(), signal.SIGTERM)


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
        found = read_json(job.folder / "result.json")
        job.done(found["metrics"].get(job.composed.task.monitor))
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
