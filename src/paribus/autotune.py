"""Precision and memory layout, chosen by a few steps of each: which is faster depends on the network and the device."""

import hashlib
import json
import logging
import platform
import time
from dataclasses import asdict, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from paribus.build import build
from paribus.checks import check
from paribus.config import TrainConfig, TrainerConfig
from paribus.device import device_name, set_threads
from paribus.record import begun
from paribus.results import write_text

log = logging.getLogger(__name__)

STEPS, WARM = 8, 2  # steps that are timed; the first of them, which are not
WORTH = 1.05  # times as fast as what the config says, or it stays


def tuned(cfg: Any, folder: Path) -> Any:
    """The composed config with `trainer.precision` and `trainer.channels_last` as a few steps of training are fastest,
    where `trainer.autotune` asks for that: the folder's own, where a run has begun there, else what was found before
    for this network, size and device, else what is found now. A sweep is left as it is, for check() to refuse.
    """
    if not cfg.trainer.autotune or cfg.get("ablation") is not None:
        return cfg
    cfg = cfg.copy()
    config = check(cfg)
    known = begun(folder, config.trainer)
    if known:
        chosen = {key: known["trainer"][key] for key in ("precision", "channels_last")}
    else:
        chosen = _remembered(config, cfg)
    for key, value in chosen.items():
        cfg.trainer[key] = value
    return cfg


def choices(trainer: TrainerConfig) -> list[dict[str, Any]]:
    """What is tried, what the config says first."""
    said = {"precision": trainer.precision, "channels_last": trainer.channels_last}
    tried = [
        {"precision": precision, "channels_last": last}
        for precision, last in product(("32-true", "bf16-mixed"), (False, True))
    ]
    return [said, *(choice for choice in tried if choice != said)]


def choose(seconds: list[float | None]) -> int:
    """The place of the fastest, or 0 where none is worth it. None: it does not run here."""
    best = min((s, place) for place, s in enumerate(seconds) if s is not None)[1]
    first, found = seconds[0], seconds[best]
    assert found is not None
    return best if first is None or first > WORTH * found else 0


def _remembered(config: TrainConfig, cfg: Any) -> dict[str, Any]:
    from paribus.data.remembered import cache_folder

    set_threads(config.trainer)
    file = cache_folder("tuned") / f"{_key(config)}.json"
    if file.is_file():
        return json.loads(file.read_text())["chosen"]
    from paribus.sweep.forked import apart

    tried = choices(config.trainer)
    seconds: list[float | None] = [None] * len(tried)
    for _ in range(2):  # in turn, so that a moment in which the machine is busy decides nothing
        for place, choice in enumerate(tried):
            found = apart(
                trial, replace(config, trainer=replace(config.trainer, **choice)), config=cfg, share={}
            )
            seconds[place] = min(filter(None, (seconds[place], found)), default=None)
    if not any(seconds):
        return tried[0]
    best = choose(seconds)
    for choice, found in zip(tried, seconds, strict=True):
        said = "does not run here" if found is None else f"{1000 * found:.1f} ms a step"
        log.info("autotune: %s  %s%s", _words(choice), said, "  <- chosen" * (choice is tried[best]))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({"chosen": tried[best], "tried": tried, "seconds": seconds}))
    return tried[best]


def trial(config: TrainConfig) -> float | None:
    """Seconds of a step; None where the network or the device cannot."""
    set_threads(config.trainer)
    from lightning import Callback, seed_everything

    from paribus.callbacks import wait
    from paribus.trainer import few_steps, quiet

    class Clock(Callback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            wait(module.device)
            self.ends.append(time.perf_counter())

    quiet()
    seed_everything(config.seed, workers=True, verbose=False)
    clock = Clock()
    try:
        parts = build(replace(config, logger={}))
        parts.data.open("train")
        trainer = few_steps(config.trainer, callbacks=[clock], max_steps=STEPS, limit_val_batches=0)
        trainer.fit(parts.task, parts.data)
    except RuntimeError:  # an operation that the precision lacks, memory
        return None
    return min(b - a for a, b in pairwise(clock.ends[WARM:]))


def _key(config: TrainConfig) -> str:
    """Of the network, what it sees, and what it runs on."""
    import torch

    whole = asdict(config)
    seen = {key: whole["data"].get(key) for key in ("size", "batch_size", "channels")}
    t = config.trainer
    asked = (t.precision, t.channels_last, t.accelerator, t.threads, t.compile, t.checkpoint_activations)
    on = (device_name(t), platform.processor(), torch.__version__)
    said = [whole["backbone"], whole["model"], whole["task"]["target"], whole["members"], seen, asked, on]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _words(choice: dict[str, Any]) -> str:
    return f"{choice['precision']:<10} {'channels last' if choice['channels_last'] else 'channels first'}"
