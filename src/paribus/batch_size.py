"""The batch that fits into the machine's memory: foretold, and then tried."""

import math
import resource
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from paribus.build import build
from paribus.checks import check
from paribus.config import ConfigError, TrainConfig
from paribus.device import device_memory, set_threads
from paribus.record import begun

SHARE = (
    0.85  # of the memory, that a step may take: convolutions' workspaces and an allocator's waste come on top
)


def resolved(cfg: Any, folder: Path) -> Any:
    """The composed config with a number in place of ``data.batch_size=auto``: the folder's own, where a run has begun there,
    else the largest power of two (times devices and accumulated parts) with which two steps of training fit, at most
    the training set.

    Foretold by profile/footprint.py and then tried, in a process of its own; halved until it fits. A sweep is left as
    it is, for check() to refuse.
    """
    if cfg.data.get("batch_size") != "auto" or cfg.get("ablation") is not None:
        return cfg
    cfg = cfg.copy()
    t = cfg.trainer
    cfg.data.batch_size = max(1, t.devices) * t.num_nodes * t.accumulate  # one that passes
    config = check(cfg)
    known = begun(folder, config.trainer)
    cfg.data.batch_size = known["data"]["batch_size"] if known else largest(config, cfg)
    return cfg


def largest(config: TrainConfig, cfg: Any) -> int:
    """See `resolved`; cfg is config as it was composed. Raises ConfigError where not one image fits."""
    from paribus.sweep.forked import apart

    set_threads(config.trainer)
    from paribus.train import image_size

    parts = build(replace(config, logger={}))
    parts.data.open("train")
    count, unit = len(parts.data._chosen(parts.data.splits["train"])), _unit(config)
    memory = device_memory(config.trainer)
    foretold = images_that_fit(parts, config, memory, image_size(parts))
    most = _power(count // unit)

    def fits(images: int) -> bool:
        try:
            return apart(trial, config, images, memory, config=cfg, share={})
        except RuntimeError as error:
            if "ended with code" in str(error):  # by the system, for its memory
                return False
            raise

    images = most if foretold is None else min(most, _power(foretold))
    while images and not fits(images):
        images //= 2
    if not images:
        raise ConfigError(
            f"`data.batch_size=auto`: no image fits into {memory / 2**30:.1f} GiB: a smaller data.size, or a smaller "
            "network"
        )
    return images * unit


def images_that_fit(parts: Any, config: TrainConfig, memory: int, size: tuple[int, int]) -> int | None:
    """Images of (H, W) that one process can train on at once, foretold; None where the network cannot be measured.

    Its memory is a constant and so much for each image, in float32: with mixed precision more fit.
    """
    from paribus.build import make
    from paribus.profile.footprint import footprint

    few, more = 2, 4
    try:
        a, b = (
            footprint(parts.task.model, size, parts.data.channels, n, make(config.optimizer)).total
            for n in (few, more)
        )
    except ValueError:
        return None
    each = (b - a) / (more - few)
    return max(0, math.floor((SHARE * memory - (a - few * each)) / each))


def trial(config: TrainConfig, images: int, memory: int) -> bool:
    """Whether two steps with so many images at once fit into so many bytes. In a process of its own: on the processor
    it may take no more from now on.
    """
    set_threads(config.trainer)
    from lightning import seed_everything

    from paribus.parallel import prepared
    from paribus.trainer import few_steps, quiet
    from paribus.trouble import of_memory

    t = config.trainer
    quiet()
    seed_everything(config.seed, workers=True, verbose=False)
    data = {**config.data, "batch_size": images * t.accumulate}
    with tempfile.TemporaryDirectory() as folder:
        parts = build(replace(config, data=data, logger={}), Path(folder))
        parts.data.open("train")
        trainer = few_steps(t, max_steps=2, accumulate_grad_batches=t.accumulate, limit_val_batches=0)
        if t.accelerator == "cpu":
            taken = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_DATA, (taken + memory, resource.RLIM_INFINITY))
        try:
            with prepared(parts.task.model, t):
                trainer.fit(parts.task, parts.data)
        except Exception as error:
            if of_memory(error):
                return False
            raise
    return True


def _unit(config: TrainConfig) -> int:
    """Images of a step for each that is seen at once."""
    from paribus.trouble import devices

    return devices(config) * config.trainer.accumulate


def _power(number: int) -> int:
    """The largest power of two up to a number; 0 for 0."""
    return 1 << (number.bit_length() - 1) if number > 0 else 0
