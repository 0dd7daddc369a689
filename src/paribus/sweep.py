"""What a sweep shows: one line a run, the time left, and at the end the runs that failed.

A Hydra callback, so it works with every launcher that runs its jobs in this process, and keeps silent
under the others. (Hydra calls ``on_multirun_end`` only if no job failed: hence the list kept here.)
"""

import json
import logging
import math
import re
import sys
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override

from paribus.results import Run

FAILED: list[str] = []  # one line each, of this process's sweep

log = logging.getLogger(__name__)


def failures() -> str:
    """The message a sweep with failed runs ends with."""
    return "\n".join(
        [f"{len(FAILED)} run(s) failed:", *FAILED, "Each run folder's result.json holds the traceback."]
    )


class Sweep(Callback):
    """Counts the runs of a ``--multirun`` and says where it stands."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        FAILED.clear()
        if config.get("ablation"):
            try:
                _ask(config)
            except Exception as error:  # which Hydra would only warn of, to go on with a single run
                sys.exit(f"error: the ablation cannot be swept: {error}")
        HydraConfig.instance().set_config(config.copy())  # as Hydra does for jobs: `name` asks for choices
        self.all, self.ended, self.start = _count(config), 0, time.monotonic()
        self.skipped = 0
        if config.get("ablation"):
            log.info("%s (%s runs)", config.ablation.question, self.all or "?")

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.job_start = time.time()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if not hasattr(self, "start"):
            return  # a single run, or a worker of another launcher
        self.ended += 1
        folder = Path(config.hydra.runtime.output_dir)
        if job_return.status is JobStatus.FAILED:
            error = job_return._return_value
            outcome = f"FAILED {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            FAILED.append(f"  {folder}: {outcome}")
        else:
            outcome = self._outcome(folder, config)
        left = ""
        trained = self.ended - self.skipped
        if self.all and trained and self.ended < self.all:
            seconds = (time.monotonic() - self.start) / trained * (self.all - self.ended)
            left = f"  ({_clock(seconds)} left)"
        width = len(str(self.all))
        log.info("[%*d/%s] %s  %s%s", width, self.ended, self.all or "?", folder.name, outcome, left)

    def _outcome(self, folder: Path, config: DictConfig) -> str:
        """The run's metric and time, from what it wrote."""
        result = Run.read(folder).result
        metric = config.ablation.metric if config.get("ablation") else config.task.monitor
        value = result["metrics"].get(metric)
        said = f"{metric} {value:.4f}" if value is not None else f"no {metric}"
        if (folder / "result.json").stat().st_mtime < self.job_start:
            self.skipped += 1
            return f"{said}, done before"
        return f"{said}  {result['seconds']:.1f} s"


def _ask(config: DictConfig) -> None:
    """Hands an ablation's factors and seeds to the sweeper: every level, times the seeds.

    A key that the command line sets itself (``seed=0,1``) is the command line's: the question is
    narrowed by it, and not multiplied.
    """
    given = {override.lstrip("+").partition("=")[0] for override in config.hydra.overrides.task}
    question: Any = OmegaConf.to_container(config.ablation, resolve=True)
    levels = {**question["factors"], "seed": question["seeds"]}
    params = {
        key: ",".join(_level(value) for value in values) for key, values in levels.items() if key not in given
    }
    with flag_override(config, ["readonly", "struct"], [False, False]):
        config.hydra.sweeper.params = params


def _level(value: Any) -> str:
    """As Hydra's grammar has it: a word as it is, any other text in quotes (``normal(0.01)``)."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./-]+", value) else f"'{value}'"
    return json.dumps(value)


def _count(config: DictConfig) -> int | None:
    """How many jobs a grid sweep has; None if the sweeper decides that itself."""
    if not config.hydra.sweeper._target_.endswith("BasicSweeper"):
        return None
    params = config.hydra.sweeper.params or {}
    lines = [f"{key!s}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
    try:
        parsed = OverridesParser.create().parse_overrides(lines)
    except Exception:  # choices given as glob(*) need the config loader
        return None
    return math.prod(len(list(o.sweep_iterator())) for o in parsed if o.is_sweep_override())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
