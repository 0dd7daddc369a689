"""The training of several runs whose networks are side by side."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning import seed_everything

from paribus.build import Parts, build
from paribus.callbacks import Speed, keeping
from paribus.checkpoints import latest
from paribus.config import TrainConfig
from paribus.device import check_device, set_threads
from paribus.loggers import Csv
from paribus.stacked.batches import Joined
from paribus.stacked.files import CheckpointOf, FilesOfEach, OfEach
from paribus.stacked.pays import why_slower
from paribus.stacked.step import Stack
from paribus.trainer import quiet, trainer_of

log = logging.getLogger(__name__)


class Training:
    """What train() does for one run, for those of several seeds at once.

    unfit: why it is not to be done, if it is not. A training that was broken off goes on where all of them stand at one
    step; else each goes on alone.
    """

    def __init__(self, configs: Sequence[TrainConfig], folders: Sequence[Path]):
        self.configs, self.folders = configs, folders
        self.threads = set_threads(configs[0].trainer)
        quiet()
        check_device(configs[0].trainer)
        self.parts: list[Parts] = []
        self.kept = [latest(folder / "checkpoints") for folder in folders]
        self.csvs = [Csv(folder) for folder in folders]
        if len({(path and path.name, step) for path, step in self.kept}) > 1:
            self.unfit: str | None = "their checkpoints are of different steps"
            return
        self.unfit = why_slower(configs[0], len(configs), lambda: [parts.task for parts in self._built()])
        if not self.unfit:
            self.data = Joined([parts.data for parts in self._built()])

    def _built(self) -> list[Parts]:
        """The parts of each run, as it alone would make them."""
        for config in self.configs[len(self.parts) :]:
            seed_everything(config.seed, workers=True, verbose=False)
            self.parts.append(build(config))
        return self.parts

    def fit(self, *watching: Any) -> None:
        """watching: callbacks besides."""
        config = self.configs[0]
        self.parts[0].data.open("train", "val", *(["test"] if config.test else []))
        resumed, step = self.kept[0]
        if resumed:
            log.info("resumed at step %d", step)
        for csv in self.csvs:
            csv.resume_at(step)
        self.keeping = [
            keeping(one, folder, partial(CheckpointOf, place))
            for place, (one, folder) in enumerate(zip(self.configs, self.folders, strict=True))
        ]
        self.speed = Speed()
        self.trainer = trainer_of(
            config.trainer,
            logger=False,
            enable_checkpointing=False,  # by Lightning's own, beside ours
            callbacks=[*watching, self.speed, OfEach(self.keeping)],
            plugins=[FilesOfEach(self.folders)],
        )
        stack = Stack([parts.task for parts in self.parts], [[csv] for csv in self.csvs])
        self.trainer.fit(stack, self.data, ckpt_path=resumed, weights_only=True)

    def ended(self, place: int) -> tuple[Any, ...]:
        """Of one of the runs what concluded() wants to know."""
        made = self.trainer, self.keeping[place][0], self.speed
        csv, parts = self.csvs[place], self.parts[place]
        return self.configs[place], self.folders[place], parts, [csv], made, self.threads

    def close(self) -> None:
        for csv in self.csvs:
            csv.finalize("")
