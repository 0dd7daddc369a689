"""Learning rate schedules as plain functions of the step, and the optimizer's parameter groups.

A schedule is called with the number of steps done and the number of steps in all, and returns a factor of
the base rate. ``warmup`` and the places of the steps are a number of steps (an integer) or a fraction of
the training (a float between 0 and 1), so that one recipe serves any length. During the warm-up the factor
rises in a straight line from ``warmup_start`` to 1 (Goyal et al. 2017, section 2.2).
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The base rate throughout."""

    warmup: int | float = 0
    warmup_start: float = 0.01

    def __post_init__(self) -> None:
        _check_warmup(self.warmup, self.warmup_start)

    def __call__(self, step: int, total: int) -> float:
        return _rise(step, _warmup_steps(self.warmup, total), self.warmup_start)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Times ``factor`` after every ``every`` steps, counted from the first step, the warm-up included."""

    every: int | float
    factor: float = 0.1
    warmup: int | float = 0
    warmup_start: float = 0.01

    def __post_init__(self) -> None:
        _check_place("every", self.every)
        _check_share("factor", self.factor)
        _check_warmup(self.warmup, self.warmup_start)

    def __call__(self, step: int, total: int) -> float:
        rise = _rise(step, _warmup_steps(self.warmup, total), self.warmup_start)
        return rise * self.factor ** int(step / _steps(self.every, total) + 1e-9)  # 0.07 * 100 > 7


@dataclass(frozen=True, kw_only=True)
class MultiStep:
    """Times ``factor`` at each of ``milestones``, counted from the first step, the warm-up included."""

    milestones: list[int | float]
    factor: float = 0.1
    warmup: int | float = 0
    warmup_start: float = 0.01

    def __post_init__(self) -> None:
        for place in self.milestones:
            _check_place("milestones", place)
        fractions = {isinstance(place, float) for place in self.milestones}
        if len(fractions) > 1 or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(
                f"scheduler.milestones is {list(self.milestones)}; "
                "they must rise, and be all steps or all fractions"
            )
        _check_share("factor", self.factor)
        _check_warmup(self.warmup, self.warmup_start)

    def __call__(self, step: int, total: int) -> float:
        passed = sum(step >= round(_steps(place, total)) for place in self.milestones)
        return _rise(step, _warmup_steps(self.warmup, total), self.warmup_start) * self.factor**passed


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from 1 to ``final`` over the steps after the warm-up (Loshchilov and Hutter 2017)."""

    final: float = 0.0
    warmup: int | float = 0
    warmup_start: float = 0.01

    def __post_init__(self) -> None:
        _check_share("final", self.final)
        _check_warmup(self.warmup, self.warmup_start)

    def __call__(self, step: int, total: int) -> float:
        warmup = _warmup_steps(self.warmup, total)
        rise = _rise(step, warmup, self.warmup_start)
        return rise * _half_cosine(1.0, self.final, _progress(step, warmup, total))


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """``(1 - progress) ** power`` from 1 to ``final`` over the steps after the warm-up ("poly", DeepLab)."""

    power: float = 0.9
    final: float = 0.0
    warmup: int | float = 0
    warmup_start: float = 0.01

    def __post_init__(self) -> None:
        if self.power <= 0:
            raise ValueError(f"scheduler.power is {self.power}; it must be above 0")
        _check_share("final", self.final)
        _check_warmup(self.warmup, self.warmup_start)

    def __call__(self, step: int, total: int) -> float:
        warmup = _warmup_steps(self.warmup, total)
        fall = self.final + (1 - self.final) * (1 - _progress(step, warmup, total)) ** self.power
        return _rise(step, warmup, self.warmup_start) * fall


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Half a cosine up from ``warmup_start`` to 1, another down to ``final`` (Smith and Topin 2018).

    As torch's ``OneCycleLR`` with the base rate as ``max_lr``; the momentum stays as it is.
    """

    final: float = 4e-6
    warmup: int | float = 0.3
    warmup_start: float = 0.04

    def __post_init__(self) -> None:
        _check_share("final", self.final)
        _check_warmup(self.warmup, self.warmup_start)

    def __call__(self, step: int, total: int) -> float:
        warmup = _steps(self.warmup, total)
        _check_fits(self.warmup, warmup, total)
        # As in torch, each half reaches its end at its last step, not at the step after it.
        peak, end = max(warmup - 1, 0), max(total - 1, 1)
        if step < peak:
            return _half_cosine(self.warmup_start, 1.0, step / peak)
        return _half_cosine(1.0, self.final, _progress(step, peak, end))


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    backbone_lr_factor: float = 1.0,
    layer_decay: float = 1.0,
    depths: dict[str, int] | None = None,
    decay_norm_and_bias: bool = False,
) -> list[dict[str, Any]]:
    """The trainable parameters in groups: of ``model.backbone`` or not, decayed or not, and with ``layer_decay``
    by depth.

    The backbone's rate is lr * backbone_lr_factor * layer_decay ** k in the k-th block before the head; ``depths``
    gives each of its parameters its block, by name.

    Norms and biases, which are the parameters of one dimension, are not decayed unless asked (He et al.
    2019, Bag of Tricks, section 3.1). Frozen parameters and empty groups are left out. Each group has
    ``name``, ``params``, ``lr`` and ``weight_decay``. Raises ValueError where nothing is trainable.
    """
    for key, value in {
        "lr": lr,
        "weight_decay": weight_decay,
        "backbone_lr_factor": backbone_lr_factor,
        "layer_decay": layer_decay,
    }.items():
        if value < 0:
            raise ValueError(f"{key} is {value}; it must not be negative")
    backbone = getattr(model, "backbone", None)
    place: dict[int, int] = {}  # how many blocks before the head
    if isinstance(backbone, nn.Module):
        deepest = max(depths.values()) if depths else 0
        place = {
            id(p): deepest - depths[name] + 1 if depths else 0 for name, p in backbone.named_parameters()
        }
    groups: dict[str, dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        before = place.get(id(parameter))
        part = "head" if before is None else f"backbone_{before}" if before else "backbone"
        decayed = decay_norm_and_bias or parameter.ndim > 1
        name = part if decayed else f"{part}_no_decay"
        group = {
            "name": name,
            "params": [],
            "lr": lr if before is None else lr * backbone_lr_factor * layer_decay**before,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        groups.setdefault(name, group)["params"].append(parameter)
    if not groups:
        raise ValueError(
            "every parameter is frozen, so there is nothing to train: unfreeze the head (model=clustering is "
            "trained by task=clustering)"
        )
    return list(groups.values())


def _steps(place: int | float, total: int) -> float:
    return place * total if isinstance(place, float) else place


def _warmup_steps(warmup: int | float, total: int) -> int:
    steps = round(_steps(warmup, total))
    _check_fits(warmup, steps, total)
    return steps


def _rise(step: int, warmup: int, start: float) -> float:
    return start + (1 - start) * step / warmup if step < warmup else 1.0


def _progress(step: int, begin: float, end: float) -> float:
    """From 0 at ``begin`` to 1 at ``end``; stays there before and after."""
    return min(max(step - begin, 0) / max(end - begin, 1), 1.0)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _check_place(key: str, value: int | float) -> None:
    if not (0 < value < 1 if isinstance(value, float) else value >= 1):
        raise ValueError(
            f"scheduler.{key} has {value}; write a number of steps (an integer from 1) "
            "or a fraction of the training (a float between 0 and 1)"
        )


def _check_share(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"scheduler.{key} is {value}; it must be between 0 and 1, a factor of the base rate")


def _check_warmup(warmup: int | float, start: float) -> None:
    if warmup != 0:
        _check_place("warmup", warmup)
    _check_share("warmup_start", start)


def _check_fits(warmup: int | float, steps: float, total: int) -> None:
    if steps > total:
        raise ValueError(
            f"scheduler.warmup is {warmup} steps, but the training has {total}; write a fraction, such as 0.1"
        )
