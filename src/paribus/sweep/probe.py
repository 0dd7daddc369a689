"""What a whole run would take, from a few of its steps."""

import math
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from paribus.build import build
from paribus.config import TrainConfig
from paribus.sweep.standing import clock

STEPS, WARM = 8, 2  # batches that are timed; the first of them, which are not


@dataclass(frozen=True)
class Cost:
    """Of one run: seconds on this machine as it is now, at most (early stopping spares some); bytes that stay on disk."""

    seconds: float
    bytes: int

    def __str__(self) -> str:
        power = min(3, int(math.log(max(self.bytes, 1), 1000)))
        return f"{clock(self.seconds)} and {self.bytes / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]} of checkpoints"


def probe(config: TrainConfig, together: int = 1) -> Cost:
    """Trains a few steps and judges a few batches in a folder that is thrown away, and counts how many there are.

    Pictures, metrics over the whole set and a first search for proposals are not in it. together: seeds that are
    trained side by side, if that is faster; a run's seconds are its share.
    """
    from paribus.device import set_threads

    set_threads(config.trainer)
    from lightning import Callback, seed_everything

    from paribus.trainer import few_steps, quiet

    class Clock(Callback):
        """When each batch ended."""

        def __init__(self) -> None:
            self.trained: list[float] = []
            self.judged: list[float] = []

        def on_train_batch_end(self, *args: Any) -> None:
            self.trained.append(time.perf_counter())

        def on_validation_start(self, *args: Any) -> None:
            self.judged.append(time.perf_counter())

        def on_validation_batch_end(self, *args: Any) -> None:
            self.judged.append(time.perf_counter())

    quiet()
    seed_everything(config.seed, workers=True, verbose=False)
    t, clock, start = config.trainer, Clock(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        parts = build(replace(config, logger={}), Path(folder))
        parts.data.open("train", "val", *(["test"] if config.test else []))
        opened = time.perf_counter() - start
        trainer = few_steps(
            t,
            callbacks=[clock],
            max_epochs=t.max_epochs,
            limit_train_batches=STEPS,
            limit_val_batches=STEPS,
            max_steps=math.ceil(STEPS / t.accumulate),
            accumulate_grad_batches=t.accumulate,
        )
        trainer.fit(parts.task, parts.data)
        if not clock.judged:
            trainer.validate(parts.task, parts.data, verbose=False)
        checkpoint = Path(folder, "last.ckpt")
        trainer.save_checkpoint(checkpoint)
        size = checkpoint.stat().st_size
        batches = len(parts.data.train_dataloader())
        judged = {
            split: len(parts.data.eval_dataloader(split)) for split in parts.data.splits if split != "train"
        }
    steps = t.max_epochs * math.ceil(batches / t.accumulate)
    steps = min(steps, t.max_steps) if t.max_steps > 0 else steps
    epochs = min(t.max_epochs, math.ceil(steps * t.accumulate / batches))
    validations = epochs // t.validate_every + 1  # and that of the best weights
    seconds = opened + steps * t.accumulate * _interval(clock.trained)
    seconds += (validations * judged["val"] + judged.get("test", 0)) * _interval(clock.judged)
    if together > 1:
        from paribus.stacked.pays import times_as_fast

        seconds /= times_as_fast(config, together)
    return Cost(seconds, 2 * size)  # the best and the last


def _interval(times: list[float]) -> float:
    """Seconds of a batch, reading it included, when all is warm."""
    gaps = [b - a for a, b in pairwise(times)]
    return median(gaps[WARM:] or gaps or [0.0])
