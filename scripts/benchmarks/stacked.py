"""Seeds side by side (replicates=stacked) against the same seeds one after another.

    OMP_NUM_THREADS=1 python scripts/benchmarks/stacked.py [--quick]

Eight seeds each of a tiny convolutional network (stages of 8 and 16 channels, 16 px, batch 16, SGD with momentum) and
of an MLP of two layers of 512, for which the probe has to say no. Both ways are Paribus's own: its data, augmentation,
log, checkpoints and Trainer, the weights those of the seeds. First the losses in metrics.csv and the weights are held
to be equal to 1e-5 after twelve steps. Of the tiny network the steps from the second epoch on count, the set being in
memory by then; of the MLP the whole trainings, where the second way asks the probe first, which remembers nothing, and
then makes them one after another too. Seconds are the processor's, of one thread.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import measure
import torch
from lightning import Callback, seed_everything
from ours import composed

from paribus.build import build
from paribus.config import TrainConfig
from paribus.loggers import Csv
from paribus.results import Run, curves
from paribus.stacked import pays
from paribus.stacked.fit import Training
from paribus.trainer import make_trainer, quiet

SEEDS = 8
SET = ["data.size=[16,16]", "data.batch_size=16", "trainer.progress=false", "trainer.threads=1"]
TINY = [*SET, "backbone=convnet", "backbone.channels=[8,16]", "optimizer=momentum", "augmentation=on_device"]
LARGE = [*SET, "backbone=mlp"]


def lengths(train: int) -> str:
    return f"data.reader.lengths={{train: {train}, val: 16, test: 16}}"


def seeds(*asked: str) -> list[TrainConfig]:
    return [composed(*asked, f"seed={seed}") for seed in range(SEEDS)]


class Clock(Callback):
    """Seconds of each epoch's training."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.since = time.process_time()

    def on_validation_start(self, *_: Any) -> None:
        self.epochs.append(time.process_time() - self.since)


def folders(configs: list[TrainConfig], home: str) -> list[Path]:
    found = [Path(home, str(config.seed)) for config in configs]
    for folder in found:
        folder.mkdir()
    return found


def one_by_one(configs: list[TrainConfig], home: str) -> tuple[float, list[Any]]:
    """The seconds of the steps, and the tasks."""
    seconds, tasks = 0.0, []
    for config, folder in zip(configs, folders(configs, home), strict=True):
        seed_everything(config.seed, workers=True, verbose=False)
        parts, csv, clock = build(config), Csv(folder), Clock()
        trainer, _, _ = make_trainer(config, folder, [csv], True)
        trainer.callbacks.insert(0, clock)
        trainer.fit(parts.task, parts.data)
        csv.finalize("success")
        seconds += sum(clock.epochs[1:])
        tasks.append(parts.task)
    return seconds, tasks


def side_by_side(configs: list[TrainConfig], home: str) -> tuple[float, list[Any]]:
    with patch.object(pays, "measured", lambda *_: 2.0):  # it is to be seen here
        training = Training(configs, folders(configs, home))
    clock = Clock()
    training.fit(clock)
    training.close()
    return sum(clock.epochs[1:]), [parts.task for parts in training.parts]


def in_a_folder(way: Callable, configs: list[TrainConfig]) -> Callable[[], float]:
    """The way, as often as it is asked for."""

    def again() -> float:
        with tempfile.TemporaryDirectory() as home, patch.dict(os.environ, XDG_CACHE_HOME=home):
            return way(configs, home)[0]

    return again


def held_equal() -> None:
    """The losses that are logged, and the weights and statistics at the end."""
    short = ["trainer.max_epochs=2", "trainer.log_every=1"]
    configs = seeds(
        *TINY, lengths(96), *short, "optimizer.lr=0.005"
    )  # at ten times that rounding grows faster
    found = []
    for way in (one_by_one, side_by_side):
        with tempfile.TemporaryDirectory() as home, patch.dict(os.environ, XDG_CACHE_HOME=home):
            tasks = way(configs, home)[1]
            rows = [curves(Run(Path(home, str(config.seed)), {}, {})) for config in configs]
            found.append((rows, tasks))
    (rows, tasks), (others, stacked) = found
    for one, other in zip(rows, others, strict=True):
        assert one.keys() == other.keys()
        for name, curve in one.items():
            for (step, _, a), (at, _, b) in zip(curve, other[name], strict=True):
                assert step == at
                assert abs(a - b) < 1e-5, f"another {name} at step {step}: {a} and {b}"
    for one, other in zip(tasks, stacked, strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(
                other.state_dict()[name], value, rtol=0, atol=1e-5, msg=f"other {name}"
            )


def tiny(quick: bool) -> None:
    steps, epochs = (4, 2) if quick else (64, 4)
    configs = seeds(*TINY, lengths(16 * steps), f"trainer.max_epochs={epochs}")
    found = measure.in_turn(
        {
            "one after another": in_a_folder(one_by_one, configs),
            "side by side": in_a_folder(side_by_side, configs),
        },
        1 if quick else 5,
    )
    measure.table(found, f"ms a step of {SEEDS} tiny networks", 1e3 / (steps * (epochs - 1)))
    apart, stacked = found.values()
    measure.claim(
        f"{SEEDS} seeds side by side", "one after another", measure.ratio(apart, stacked), ">=2.5", not quick
    )


def falls_back(quick: bool) -> None:
    configs = seeds(*LARGE, lengths(64 if quick else 512), f"trainer.max_epochs={1 if quick else 16}")
    said: list[str | None] = []

    def asked_first(configs: list[TrainConfig], home: str) -> tuple[float, list[Any]]:
        Path(home, "asked").mkdir()
        said.append(Training(configs, [Path(home, "asked", str(config.seed)) for config in configs]).unfit)
        return one_by_one(configs, home)

    found = measure.in_turn(
        {
            "one after another": measure.timed(in_a_folder(one_by_one, configs)),
            "the probe, and then so": measure.timed(in_a_folder(asked_first, configs)),
        },
        1 if quick else 5,
    )
    print("told:", said[0] or "that it pays")
    assert quick or all(said), "the probe has let it be stacked"
    measure.table(found, f"s of {SEEDS} trainings of an MLP")
    apart, asked = found.values()
    measure.claim(
        "where it falls back", "one after another", measure.ratio(apart, asked), ">=0.95", not quick
    )


if __name__ == "__main__":
    hurried = measure.quick(__doc__)
    torch.set_num_threads(1)
    quiet()
    held_equal()
    tiny(hurried)
    falls_back(hurried)
    measure.end()
