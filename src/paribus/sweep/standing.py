"""What a sweep shows: a line for each run as it ends, the time left, the best so far, the runs that failed."""

import math
import sys
import time
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from paribus.report.comparison import direction
from paribus.results import Run, curves

FAILED: list[str] = []  # one line each, of this process's sweep


def failures() -> str:
    """The message a sweep with failed runs ends with."""
    return "\n".join(
        [f"{len(FAILED)} run(s) failed:", *FAILED, "Each run folder's result.json holds the traceback."]
    )


class Standing:
    """Where a sweep stands: a line for each run that ends, and on a terminal below them one that moves.

    total: runs of the sweep; None if the sweeper decides that as it goes. first: those of earlier batches.
    """

    def __init__(self, total: int | None, first: int = 0):
        from rich.console import Console
        from rich.live import Live

        self.total, self.since = total, time.monotonic()
        self.ended_here, self.ended_before, self.failed = 0, first, 0
        self.running: dict[
            Path, tuple[float, str]
        ] = {}  # since when, by the clock of files; what it monitors
        self.best: tuple[float, str] | None = None
        self.console = Console(file=sys.stdout, highlight=False)
        self.live = Live("", console=self.console, auto_refresh=False, transient=True)
        self.shown = 0.0

    def __enter__(self) -> "Standing":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.live.stop()

    def began(self, folder: Path, monitor: str, since: float | None = None) -> None:
        self.running[folder] = since or time.time(), monitor

    def gave_way(self, folder: Path) -> None:
        self.running.pop(folder, None)

    def ended(self, folder: Path, metric: str, error: str | None, last: bool = True) -> None:
        """Says how a run ended: by an error, or else from what it wrote of its metric. last: of those that end together,
        after which the time left can be told."""
        began, _ = self.running.pop(folder, (None, None))
        if error is not None:
            said = f"FAILED {error}"
            FAILED.append(f"  {folder}: {said}")
            self.failed += 1
        else:
            said = self._outcome(folder, metric, began)
        place = self.ended_here + self.ended_before + 1
        self.ended_here += began is not None
        self.ended_before += began is None
        width = len(str(self.total or ""))
        left = f"  ({left})" if last and (left := self._left()) else ""
        self.console.print(
            f"[{place:{width}}/{self.total or '?'}] {folder.name}  {said}{left}", markup=False, soft_wrap=True
        )
        self.moved(now=True)

    def _outcome(self, folder: Path, metric: str, began: float | None) -> str:
        """The run's metric and time."""
        run = Run.read(folder)
        value = run.metrics.get(metric)
        if value is None:
            said = f"no {metric}"
        else:
            said = f"{metric} {value:.4f}"
            sign = 1 if direction(run, metric) == "max" else -1
            if self.best is None or sign * value > sign * self.best[0]:
                self.best = value, folder.name
        before = began is None or (folder / "result.json").stat().st_mtime < began
        return f"{said}, done before" if before else f"{said}  {run.result['seconds']:.1f} s"

    def _left(self) -> str:
        done = self.ended_here + self.ended_before
        if not self.total or not self.ended_here or done >= self.total:
            return ""
        seconds = (time.monotonic() - self.since) / self.ended_here * (self.total - done)
        return f"{clock(seconds)} left"

    def moved(self, now: bool = False) -> None:
        """Draws the moving line anew, at most once a second."""
        if not self.live.is_started or (not now and time.monotonic() - self.shown < 1):
            return
        self.shown = time.monotonic()
        done = self.ended_here + self.ended_before
        words = [f"{done - self.failed} done", f"{len(self.running)} running"]
        words += [f"{self.failed} failed"] if self.failed else []
        if self.total:
            words.append(f"{self.total - done - len(self.running)} to come")
        words += [left] if (left := self._left()) else []
        words += [f"best {self.best[0]:.4f} ({self.best[1]})"] if self.best else []
        rows = [self._course(folder) for folder in self.running]
        from rich.text import Text

        self.live.update(
            Text("\n".join([*rows, "  ".join(words)]), overflow="ellipsis", no_wrap=True), refresh=True
        )

    def _course(self, folder: Path) -> str:
        """How far a run is."""
        since, metric = self.running[folder]
        try:
            course = curves(Run(folder, {}, {})).get(metric)
        except (OSError, ValueError):  # it is being written
            course = None
        where = f"  epoch {course[-1][1] + 1}  {metric} {course[-1][2]:.4f}" if course else ""
        return f"  {folder.name}{where}  {clock(time.time() - since)}"


def judged_by(config: DictConfig) -> str:
    """The metric of a run's line."""
    return config.ablation.metric if config.get("ablation") else config.task.monitor


def failure(result: JobReturn) -> str | None:
    """A failed job's error in a line; None if it did not fail."""
    if result.status is not JobStatus.FAILED:
        return None
    error = result._return_value
    kind = "" if type(error).__name__ == "FailedRunError" else f"{type(error).__name__}: "
    return kind + (str(error).splitlines() or [""])[0]


def clock(seconds: float) -> str:
    """Minutes and seconds: 0:05, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def is_grid(config: DictConfig) -> bool:
    """Whether a sweep's runs are known before the first is made; else the sweeper chooses each by those before."""
    return config.hydra.sweeper._target_.endswith(("BasicSweeper", "ParibusSweeper"))


def count(config: DictConfig) -> int | None:
    """How many runs a sweep has; None if the sweeper decides that itself."""
    if not is_grid(config):
        return config.hydra.sweeper.get("n_trials")
    params = config.hydra.sweeper.params or {}
    lines = [f"{key!s}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
    try:
        parsed = OverridesParser.create().parse_overrides(lines)
    except Exception:  # choices given as glob(*) need the config loader
        return None
    return math.prod(len(list(o.sweep_iterator())) for o in parsed if o.is_sweep_override())
