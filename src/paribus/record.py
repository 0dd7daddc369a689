"""A run's claim on its folder and its entry in it: who trains here, what was found, how it ended.

The claim is a lock that the system lets go of with its owner. Between machines it holds where the shared disk carries
locks: NFS does (Linux carries flock there as the lock of a range, since 2.6.12), unless it is mounted with nolock or
local_lock; so do GPFS, CephFS, and Lustre mounted with flock. fcntl's own locks go no further, and are lost as soon as
the process closes the file somewhere else.
"""

import errno
import fcntl
import logging
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import yaml

from paribus import results
from paribus.config import ConfigError, TrainConfig, TrainerConfig
from paribus.device import global_rank

log = logging.getLogger(__name__)


class BusyError(ConfigError):
    """Another process is making the run."""


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; the system lets go of it when the process dies, however."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        if not _held(lock, tries=3):  # who only looks whether it is busy holds it for a moment
            raise BusyError(
                f"{folder}: another process is training this run now; wait for it, or give a name="
            )
        yield


def busy(folder: Path) -> bool:
    """Whether another process holds the folder now."""
    try:
        lock = open(folder / ".lock", "r+")  # noqa: SIM115  # NFS locks only what may be written
    except FileNotFoundError:
        return False
    with lock:
        return not _held(lock, tries=1)


def _held(lock: IO[str], tries: int) -> bool:
    """Whether the lock is this process's now; until the file is closed."""
    for i in range(tries):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                log.warning(
                    "%s: the disk carries no locks (%s): start no run twice there", lock.name, error.strerror
                )
                return True
            if i + 1 < tries:
                time.sleep(0.05)
    return False


def begun(folder: Path, trainer: TrainerConfig) -> dict[str, Any] | None:
    """The config of the run that has begun in a folder; None if there is none. What it leaves to be found, the first
    process finds, and the others wait to read."""
    file = folder / "config.yaml"
    if global_rank(trainer):
        until = time.monotonic() + 60 * trainer.timeout
        while not file.is_file() and time.monotonic() < until:
            time.sleep(0.5)
    return results.Run.read(folder).config if file.is_file() else None


def gave_up(folder: Path, kind: str, message: str) -> None:
    """Says for a run that cannot do so itself any more that it has failed."""
    path = folder / "result.json"
    found = results.read_json(path) if path.is_file() else None
    if found is None or found["status"] == "done":  # not begun, or finished after all
        return
    error = {"type": kind, "message": message, "traceback": ""}
    results.write_json(path, found | {"status": "failed", "error": error, "finished": results.utc_now()})


def known_result(folder: Path, config: TrainConfig) -> dict[str, Any] | None:
    """What the folder already holds of this run; None if it is new. Refuses another config's folder."""
    if not (folder / "config.yaml").is_file():
        return None
    run = results.Run.read(folder)
    changed = results.differences(run.config, asdict(config))
    if changed:
        lines = [f"  {key}: {was} there, {now} now" for key, was, now in changed]
        raise ConfigError(
            "\n".join(
                [
                    f"{folder} holds a run with another config:",
                    *lines,
                    "Give this one a name (name=...), or remove the folder to train anew.",
                ]
            )
        )
    return run.result


class Record:
    """Writes config.yaml and result.json: ``running`` now, and at the end how it ended and after how many seconds."""

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        choices: dict[str, str],
        stacked_with: Sequence[int] = (),
    ):
        """stacked_with: the seeds whose networks are trained beside this one's; its seconds are its share of theirs."""
        self.together = 1 + len(stacked_with)
        self.path, self.start = folder / "result.json", time.perf_counter()
        before = results.read_json(self.path) if self.path.is_file() else {}
        self.before = before.get("seconds", 0.0) if before.get("status") == "interrupted" else 0.0
        factors = {}
        if config.ablation:
            flat = results.flatten(asdict(config))
            asked = config.ablation.factors.items()
            factors = {key: _as_asked(flat.get(key, choices.get(key)), levels) for key, levels in asked}
        self.result: dict[str, Any] = {
            "status": "running",
            "error": None,
            "name": config.name,
            "job": folder.name,
            "factors": factors,
            "seed": config.seed,
            **({"stacked_with": list(stacked_with)} if stacked_with else {}),
            **results.environment(),
            "started": results.utc_now(),
        }
        results.write_text(
            folder / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)
        )
        results.write_json(self.path, self.result)

    def done(self, found: dict[str, Any]) -> None:
        self._end("done", found)

    def failed(self, error: BaseException) -> None:
        """``interrupted`` for Ctrl-C and signals, which can be resumed; ``failed`` for the rest."""
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self.interrupted()
            return
        text = "".join(traceback.format_exception(error))
        said = {"type": type(error).__name__, "message": str(error), "traceback": text}
        try:
            self._end("failed", {"error": said})
        except OSError:  # the disk that the run failed for is full here too; `running` is left, and goes on
            log.warning("%s cannot be written; it still says `running`", self.path)

    def interrupted(self) -> None:
        self._end("interrupted", {})

    def alone(self, spent: float) -> None:
        """So many seconds are its own of what was done together, which is over."""
        self.before, self.together, self.start = self.before + spent, 1, time.perf_counter()

    def _end(self, status: str, found: dict[str, Any]) -> None:
        """A run that is done stays so."""
        if self.result["status"] == "done":
            return
        spent = (time.perf_counter() - self.start) / self.together
        seconds = {"seconds": self.before + spent}  # of all that was interrupted too
        ended = self.result | {"status": status, "finished": results.utc_now(), **found, **seconds}
        results.write_json(self.path, ended)
        self.result = ended


def _as_asked(value: Any, levels: list[Any]) -> Any:
    """A level that is a place, as the question has it, and not where that lies on this machine."""
    places = {str(Path(level).expanduser().absolute()): level for level in levels if isinstance(level, str)}
    return places.get(value, value) if isinstance(value, str) else value
