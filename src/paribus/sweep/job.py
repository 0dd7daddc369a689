"""One run of a sweep: its config, its process, and what it came to."""

import copy
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from paribus.checks import check
from paribus.config import TrainConfig
from paribus.record import BusyError, busy, gave_up, known_result
from paribus.results import read_json
from paribus.sweep.forked import GROUP, work

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds that a run has to write its checkpoint when it is told to end
# In the environment of a fresh process: its input ends with the process that started it, and so does the run.
TIED = "PARIBUS_TIED"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM are heard when this is over: OmegaConf, in whose midst they come, may make another error of
    them.
    """
    heard: list[int] = []
    before: dict[int, Any] = {}
    try:
        for each in (signal.SIGINT, signal.SIGTERM):
            # Only this thread hears signals, and only handlers of Python's can be put back.
            if threading.current_thread() is threading.main_thread() and signal.getsignal(each) is not None:
                before[each] = signal.signal(each, lambda number, frame: heard.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        signal.raise_signal(heard[0])


class FailedRunError(RuntimeError):
    """What a run ended with, in its own process."""


@dataclass(eq=False)
class Job:
    """One run of the sweep."""

    overrides: list[str]
    number: int = 0
    composed: Any = None  # from when its turn has come
    folder: Path = Path()
    gpu: str | None = None
    mates: list["Job"] = field(default_factory=list)  # that are made in the same process
    apart: bool = False  # never with others
    alone: bool = False  # on several devices, or not by our launcher: in a fresh process
    script: str = field(default_factory=lambda: os.path.abspath(sys.argv[0]))
    process: Any = None
    pipe: Any = None
    started: float = 0.0
    told: str | None = None  # why it was told to end
    known: dict[str, Any] = field(default_factory=dict)  # its result as it was when it was settled
    refused: bool = False  # its config, or that its folder holds another
    result: JobReturn = field(default_factory=JobReturn)

    @undisturbed()
    def compose(self, config: DictConfig, loader: Any) -> None:
        self.composed = loader.load_sweep_config(config, self.overrides)
        with open_dict(self.composed):
            self.composed.hydra.job.id = self.composed.hydra.job.num = self.number
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
        self.alone = plain.trainer.devices != 1

    @property
    def level(self) -> str:
        """The name of its folder, without the seed."""
        return self.folder.name.rpartition("seed=")[0].rstrip(",") or "as it is"

    @undisturbed()
    def settle(self, since: str = "9") -> TrainConfig | None:
        """The run's config; None where there is nothing to do: it is done, given up, or its config is refused.

        since: when the sweep began. What failed after that, another process has just tried for it.
        """
        HydraConfig.instance().set_config(self.composed)
        try:
            typed = check(self.result.cfg)  # type: ignore[arg-type]
            self.known = known_result(self.folder, typed) or {}
        except ValueError as error:
            self.refused = True
            self.failed(error)
            return None
        if self.known.get("status") == "done":
            self.done(self.known["metrics"].get(typed.metric))
            return None
        if self.known.get("status") == "failed":
            said, tried = self.known["error"], self.known.get("finished", "") >= since
            if tried or not typed.retry_failed:
                why = "in another process" if tried else "before; retry_failed=false"
                self.failed(FailedRunError(f"{said['type']}: {said['message']} ({why})"))
                return None
        return typed

    def start(self, task: Any, share: dict[str, str], forks: Any = None) -> None:
        """Begins the process: a fork, or on several devices a fresh one. share: of the environment, see Slots.take.
        forks: what server() returned; None where no run needs it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started, self.told = time.monotonic(), None
        console = self.folder / "console.log"
        if self.alone:
            environment = {key: value for key, value in os.environ.items() if key not in GROUP}
            command = [sys.executable, self.script, *filter_overrides(self.overrides), "hydra.mode=RUN"]
            with open(console, "a") as output:
                self.process = subprocess.Popen(
                    command,
                    env=environment | share | {TIED: "1"},
                    cwd=self.composed.hydra.runtime.cwd,
                    stdout=output,
                    stderr=output,
                    stdin=subprocess.PIPE,
                    start_new_session=True,
                )
            return
        self.pipe, theirs = forks.Pipe()
        self.process = forks.Process(
            target=work,
            args=(task.__name__, [job.composed for job in (self, *self.mates)], share, str(console), theirs),
            name=self.folder.name,
        )
        self.process.start()
        theirs.close()

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

    def ends(self) -> list[tuple["Job", bool]]:
        """Of each run of the process whether it has ended, and how is taken down; else it must be looked at again."""
        if not self.mates:
            return [(self, self.conclude())]
        said, code = self._heard()
        jobs, self.mates = [self, *self.mates], []
        if said is None:
            why, values = _words(code, self.folder), [None] * len(jobs)
        else:
            error, answer = said
            why, values = answer if error is None else (error[1], [None] * len(jobs))
        if why is not None and not self.told:
            log.info("%s, not stacked: %s", self.level, why)
        for job, value in zip(jobs, values, strict=True):
            job.apart = why is not None
            if value is not None:
                job.done(value[0])
            elif self.told:
                gave_up(job.folder, "TimeoutError", self.told)
                job.failed(FailedRunError(self.told))
        return [(job, value is not None or bool(self.told)) for job, value in zip(jobs, values, strict=True)]

    def _heard(self) -> tuple[Any, int | None]:
        """What the process said last, and its exit code; nothing is left of it."""
        said: Any = None
        if self.pipe is not None:
            with suppress(EOFError, OSError):
                said = self.pipe.recv() if self.pipe.poll() else None
            self.pipe.close()
        self.sweep_up()
        code = self.exit_code()
        self.process = None  # its number may be another's from now on
        return said, code

    def conclude(self) -> bool:
        """Takes down how a run ended; false if another process had it, and it must be looked at again."""
        said, code = self._heard()
        if self.alone and code and busy(self.folder):
            return False
        if said is not None and said[0] is None:
            self.done(said[1])
        elif said is not None:
            kind, message = said[0]
            if kind == BusyError.__name__:
                return False
            self.failed(FailedRunError(f"{kind}: {message}"))
        elif self.alone and code == 0:
            if self.settle() is not None:
                self.failed(
                    FailedRunError(f"its process ended without a result; see {self.folder / 'console.log'}")
                )
        elif self.alone and not self.told and (error := self.wrote().get("error")):
            self.failed(FailedRunError(f"{error['type']}: {error['message']}"))
        else:
            words = self.told or _words(code, self.folder)
            gave_up(self.folder, "TimeoutError" if self.told else "KilledError", words)
            self.failed(FailedRunError(words))
        return True

    def wrote(self) -> dict[str, Any]:
        """Its result, if it is another than when the run was settled; else empty."""
        path = self.folder / "result.json"
        found = read_json(path) if path.is_file() else {}
        return found if found != self.known else {}

    def failed(self, error: Exception) -> None:
        self.result.status, self.result.return_value = JobStatus.FAILED, error

    def done(self, value: Any) -> None:
        self.result.status, self.result.return_value = JobStatus.COMPLETED, value


def stop(jobs: Sequence[Job]) -> None:
    """Tells those that run to end, waits for them to keep their checkpoints, and kills what does not.

    One that Ctrl-C has met before its process had begun has nothing to keep.
    """
    begun = [job for job in jobs if job.process is not None and job.process.pid is not None]
    running = [job for job in begun if not job.over()]
    for job in running:
        job.end(signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and not all(job.over() for job in running):
        time.sleep(0.05)
    for job in begun:
        job.sweep_up()


def _words(code: int | None, folder: Path) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        more = ": out of memory, if nobody killed it" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{more}; see {folder / 'console.log'}"
    return f"its process ended with code {code}; see {folder / 'console.log'}"
