"""A run in a process that is ready at once: a fork of a server that has imported what runs import."""

import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf

from paribus.config import register

T = TypeVar("T")

# In the environment of the fork server: the modules that it imports, and what the configs name, see ready.py.
IMPORTS, TARGETS = "PARIBUS_IMPORTS", "PARIBUS_TARGETS"
READY = (
    "torch", "torchvision", "torchmetrics", "lightning", "paribus.train", "paribus.tasks", "paribus.metrics",
    "paribus.data.module", "paribus.examples", "paribus.confusion", "paribus.profile.complexity", "paribus.restore",
    "paribus.checkpoints", "paribus.detected", "paribus.progress", "paribus.loggers", "paribus.stalled",
    "paribus.judged_images",
)  # fmt: skip
# What the processes of a group tell one another, which a run of its own must not hear.
GROUP = (
    *("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "RANK", "GROUP_RANK"),
    *("MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED", "LOCAL_WORLD_SIZE"),
    # Of one task of Slurm, which are not there for a group that the run makes itself.
    *("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
)


def server(config: DictConfig, timm: bool = False) -> Any:
    """The context of the fork server, which is started if there is none yet, and then imports what the run of this
    config needs; timm, which is a second, also where later runs may need it."""
    context = multiprocessing.get_context("forkserver")
    ready = [*READY]
    ready += ["timm"] if timm or ".timm." in str(config.backbone) or config.backbone.get("pretrained") else []
    ready += ["paribus.stacked.fit", "torch._decomp"] if config.get("replicates") == "stacked" else []
    ready += ["albumentations"] if any(config.augmentation.values()) else []
    ready += ["wandb"] if "WandB" in str(config.logger.get("_target_")) else []
    # A user's own module may start what no fork survives.
    named = set(re.findall(r"_target_: ((?:paribus|torch)\.[\w.]+)", OmegaConf.to_yaml(config)))
    context.set_forkserver_preload(["paribus.sweep.ready"])
    # One thread, or numpy's library would start some there.
    words = {IMPORTS: " ".join(ready), TARGETS: " ".join(sorted(named)), "OMP_NUM_THREADS": "1"}
    with _environment(words):
        forkserver.ensure_running()
    return context


@contextmanager
def _environment(words: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in words}
    os.environ |= words
    try:
        yield
    finally:
        for key, value in before.items():
            del os.environ[key]
            if value is not None:
                os.environ[key] = value


def apart(function: Callable[..., T], *given: Any, config: DictConfig, share: dict[str, str]) -> T:
    """What a function returns, called in a ready process with its share of the machine; what it raises, is raised."""
    context = server(config)
    mine, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(function, given, share, theirs))
    process.start()
    theirs.close()
    try:
        fine, answer = mine.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"its process ended with code {process.exitcode}") from None
    process.join()
    if not fine:
        raise answer
    return answer


def _answer(function: Callable[..., Any], given: Any, share: dict[str, str], pipe: Connection) -> None:
    os.environ |= share
    register()
    try:
        pipe.send((True, function(*given)))
    except Exception as error:
        pipe.send(
            (False, type(error)(str(error)) if isinstance(error, ValueError) else RuntimeError(repr(error)))
        )


def work(
    task: str, configs: Sequence[DictConfig], share: dict[str, str], console: str, pipe: Connection
) -> None:
    """What a forked process does: the run, and a word on how it ended; of several runs what together() returns."""
    config = configs[0]
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
    function: Any = getattr(sys.modules["__main__"], task)
    function = getattr(function, "__wrapped__", function)  # as it was before @hydra.main
    if len(configs) > 1:
        from paribus.sweep.together import together

        def function(_: DictConfig) -> Any:
            return together(configs)

    returned = run_job(
        task_function=function,
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
