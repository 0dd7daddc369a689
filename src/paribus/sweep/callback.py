"""The Hydra callback of a sweep: it hands an ablation to the sweeper, and shows the lines under other launchers than
Paribus's, which shows them itself. (Hydra calls ``on_multirun_end`` only if no job failed: door.py closes the board.)
"""

import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override

from paribus.sweep.board import Board, Watch
from paribus.sweep.handed import RUNS, SWEEP, by_another
from paribus.sweep.standing import FAILED, count, failure, is_grid, judged_by

log = logging.getLogger(__name__)


class Sweep(Callback):
    """Hands the question to the sweeper; counts the runs of other launchers and says where they stand.

    These take it along to where their jobs are, so it holds nothing of this process.
    """

    board: Board | None = None  # of neither a single run nor Paribus's own launcher

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        FAILED.clear()
        if config.get("ablation"):
            try:
                _ask(config)
            except Exception as error:  # which Hydra would only warn of, to go on with a single run
                sys.exit(f"error: the ablation cannot be swept: {error}")
        HydraConfig.instance().set_config(config.copy())  # as Hydra does for jobs: `name` asks for choices
        total = count(config)
        if config.get("ablation"):
            log.info("%s (%s runs)", config.ablation.question, total or "?")
        ours = not by_another()
        if config.plan and not ours:
            sys.exit("error: plan=true asks Paribus's own launcher: hydra/launcher=paribus")
        if config.plan and not is_grid(config):
            sys.exit(
                "error: this sweeper chooses each run by what the ones before found: nothing can be planned"
            )
        if not ours:
            lasting = config.hydra.launcher._target_.endswith("SlurmLauncher")
            self.board = Watch(Path(str(config.hydra.sweep.dir)), total, lasting=lasting).board

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if self.board:
            os.environ |= {SWEEP: str(self.board.folder), RUNS: str(self.board.runs or "")}
            self.board.began(config.hydra.job.num, _folder(config), config.task.monitor)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if self.board:
            self.board.ended(config.hydra.job.num, _folder(config), judged_by(config), failure(job_return))


def _folder(config: DictConfig) -> Path:
    return Path(config.hydra.runtime.output_dir)


def _ask(config: DictConfig) -> None:
    """Hands an ablation's factors and seeds to the sweeper: every level, times the seeds.

    A key that the command line sets itself (``seed=0,1``) is the command line's: the question is
    narrowed by it, and not multiplied.
    """
    given = {override.lstrip("+").partition("=")[0] for override in config.hydra.overrides.task}
    question: Any = OmegaConf.to_container(config.ablation, resolve=True)
    levels = {**question["factors"], "seed": question["seeds"]}
    params = {
        key: ",".join(written(value) for value in values)
        for key, values in levels.items()
        if key not in given
    }
    with flag_override(config, ["readonly", "struct"], [False, False]):
        config.hydra.sweeper.params = params


def written(value: Any) -> str:
    """As Hydra's grammar has it: a word as it is, any other text in quotes (``normal(0.01)``)."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./-]+", value) else f"'{value}'"
    return json.dumps(value)
