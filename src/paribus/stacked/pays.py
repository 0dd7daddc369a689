"""Whether a stack of networks is faster than one after another: measured once, and remembered."""

import copy
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from torch import Tensor

from paribus.build import build
from paribus.callbacks import wait
from paribus.config import TrainConfig
from paribus.data.remembered import kept
from paribus.device import device_name
from paribus.stacked.step import Networks

ROUNDS, STEPS = 5, 2  # that are timed in turn, so that a moment in which the machine is busy decides nothing
CLEAR = 0.85, 1.3  # times as fast: two rounds beyond that are enough
WORTH = 1.05  # times as fast, or the runs are made separately
LONG = 0.1  # seconds of a step that is arithmetic for the most part: nothing to gain, and memory to lose


def why_slower(config: TrainConfig, number: int, tasks: Callable[[], Sequence[Any]]) -> str | None:
    """Why so many networks of this form are not to be stacked here; None if they are.

    tasks: makes them, where that was not found before.
    """
    found = _found(config, number, tasks)
    if isinstance(found, str):
        return found
    if found >= WORTH:
        return None
    return f"{number} side by side take {1 / found:.2f} times as long as one after another"


def times_as_fast(config: TrainConfig, number: int) -> float:
    """How many times as fast so many seeds of a config are trained where it asks for them stacked; 1 where they are
    not."""
    found = _found(config, number, lambda: [build(config).task for _ in range(number)])
    return found if isinstance(found, float) and found >= WORTH else 1.0


def _found(config: TrainConfig, number: int, tasks: Callable[[], Sequence[Any]]) -> float | str:
    def find() -> float | str:
        data = config.data
        shape = data["batch_size"], data.get("channels", 3), *data["size"]
        device = torch.device("cuda" if config.trainer.accelerator == "gpu" else "cpu")
        return measured(tasks(), shape, device)

    return kept("side_by_side", _key(config, number), find)


def measured(tasks: Sequence[Any], shape: Sequence[int], device: torch.device) -> float | str:
    """How many times as fast a step of the stack is as theirs one after another, or why there is none.

    shape: [B, C, H, W] of a batch. The tasks are left as they are.
    """
    tasks = [copy.deepcopy(task).to(device).train() for task in tasks]
    alone = copy.deepcopy(tasks[0])
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(tasks), *shape, generator=generator).to(device)
    classes = len(alone.metrics["val"].classes)
    targets = torch.randint(classes, (len(tasks), shape[0]), generator=generator).to(device)
    state = torch.random.get_rng_state()
    try:
        one = _step(
            lambda: alone.losses((images[0], targets[0], [])), [*alone.model.parameters()], alone, device
        )
        one()
        if one() > LONG:
            return f"a step takes {one():.2g} s, which is arithmetic"
        expected = [float(tasks[k].losses((images[k], targets[k], []))["loss"].detach()) for k in (0, -1)]
        networks = Networks(tasks)
        all_of_them = _step(
            lambda: networks.losses(images, targets), [*networks.weights.values()], alone, device
        )
        try:
            found = networks.losses(images, targets)["loss"].tolist()
        except RuntimeError as error:
            if "random operation" in str(error):
                return "the network draws in its step (dropout, say)"
            return f"the network cannot be: {(str(error).splitlines() or [''])[0]}"
        if not all(
            math.isclose(a, b, rel_tol=1e-4) for a, b in zip(expected, (found[0], found[-1]), strict=True)
        ):
            return "the network answers otherwise in a stack"
        all_of_them()
        ratios: list[float] = []
        while len(ratios) < ROUNDS and not _clear(ratios):
            single = sum(one() for _ in range(STEPS))
            ratios.append(len(tasks) * single / sum(all_of_them() for _ in range(STEPS)))
    finally:
        torch.random.set_rng_state(state)
    return median(ratios)


def _clear(ratios: list[float]) -> bool:
    return len(ratios) >= 2 and (max(ratios) < CLEAR[0] or min(ratios) > CLEAR[1])


def _step(
    losses: Callable[[], dict[str, Tensor]], weights: list[Tensor], task: Any, device: torch.device
) -> Callable[[], float]:
    """What makes a step and returns its seconds."""
    optimizer = task.make_optimizer([weight for weight in weights if weight.requires_grad])

    def step() -> float:
        wait(device)
        start = time.perf_counter()
        optimizer.zero_grad()
        torch.stack([loss.sum() for loss in losses().values()]).sum().backward()
        optimizer.step()
        wait(device)
        return time.perf_counter() - start

    return step


def _key(config: TrainConfig, number: int) -> str:
    """Of the network, what it sees, how many there are, and what they run on."""
    whole, t = asdict(config), config.trainer
    seen = {key: whole["data"].get(key) for key in ("size", "batch_size", "channels")}
    on = (t.accelerator, device_name(t), platform.processor(), torch.get_num_threads(), torch.__version__)
    task = {key: whole["task"].get(key) for key in ("freeze", "freeze_norm", "label_smoothing")}
    said = [whole["backbone"], whole["model"], task, whole["optimizer"]["_target_"], number, seen, on]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
