"""Paribus as its doors build it, fed with batches that lie in memory, for what is measured of a step."""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning import Callback
from omegaconf import flag_override

from paribus.build import Parts, build
from paribus.checks import check
from paribus.config import CONF, TrainConfig, register
from paribus.device import check_device, set_threads
from paribus.trainer import make_trainer, quiet

Batch = tuple[torch.Tensor, Any, list[str]]


def composed(*overrides: str) -> TrainConfig:
    """The config of ``scripts/train.py overrides``, checked."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg.copy())
    with flag_override(cfg, ["readonly", "struct"], [False, False]):
        cfg.pop("hydra")
    return check(cfg)


class Fed:
    """Batches for a training loop, which notes the time at two of them: that of the steps between is what counts.

    at: called before each batch, with its number.
    """

    def __init__(
        self,
        batches: list[Batch],
        warm: int = 0,
        clock: Callable[[], float] = time.process_time,
        at: Callable[[int], None] = lambda number: None,
    ):
        self.batches, self.warm, self.clock, self.at = batches, warm, clock, at
        self.first = self.last = 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches):
            self.at(number)
            if number == self.warm:
                self.first = self.clock()
            if number == len(self.batches) - 1:
                self.last = self.clock()
            yield batch

    @property
    def seconds(self) -> float:
        """Of a step."""
        return (self.last - self.first) / (len(self.batches) - 1 - self.warm)


def parts_of(config: TrainConfig) -> Parts:
    """With weights that are those of the seed."""
    torch.manual_seed(config.seed)
    return build(config)


def fit(
    config: TrainConfig,
    parts: Parts,
    train: Fed | None = None,
    rows: Callable[[dict], object] = lambda row: None,
    watching: Sequence[Callback] = (),
) -> None:
    """Trains as ``paribus.train`` does, at its default logging: on the config's data, or on batches that are given, of
    which the first is judged; what is logged goes to metrics.csv, and to ``rows``.
    """
    from paribus.loggers import Csv
    from paribus.parallel import prepared

    quiet()
    set_threads(config.trainer)
    check_device(config.trainer)
    data: Any = parts.data
    if train is not None:
        data.setup = lambda stage: None
        data.train_dataloader, data.val_dataloader = lambda: train, lambda: Fed(train.batches[:1])
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        prepared(parts.task.model, config.trainer),
    ):
        csv = Csv(folder)
        write = csv.log_metrics

        def log_metrics(metrics: dict[str, float], step: int | None = None) -> None:
            rows(metrics)
            write(metrics, step)

        csv.log_metrics = log_metrics  # type: ignore[method-assign]
        trainer, _, _ = make_trainer(config, Path(folder), [csv], in_sweep=False)
        trainer.callbacks[:0] = watching
        trainer.fit(parts.task, data)
        csv.finalize("success")
