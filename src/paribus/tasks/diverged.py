"""The loss is no finite number any more: where that began, in words."""

import math
from typing import Any

import torch
from torch import Tensor

SHOWN = 16  # samples


class DivergedError(FloatingPointError, ValueError):
    """The loss is no longer a finite number. A ValueError too: what the user chose has led there, mostly the rate.

    ids: the samples of the first batch of which that is so, of all processes; empty where it is not known.
    """

    def __init__(self, message: str, ids: list[str] | None = None):
        super().__init__(message)
        self.ids = ids or []


def diverged(recent: list[tuple[dict[str, Tensor], list[str]]], step: int, parts: int) -> DivergedError:
    """The error that says at which step it began, of which losses, and with which samples.

    Looked for only now, when it is known that there is something: until then nothing has waited for the device.
    With several processes each has to come here, for each has met other samples.

    recent: losses and ids of the batches up to the end of the step ``step``, of which each has so many ``parts``.
    """
    before = step - math.ceil(len(recent) / parts)
    mine = None
    for index, (losses, ids) in enumerate(recent):
        wrong = {name: float(value) for name, value in losses.items() if not math.isfinite(float(value))}
        if wrong:
            mine = (before + index // parts + 1, wrong, ids)
            break
    found: list[Any] = [mine]
    if torch.distributed.is_initialized():
        found = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(found, mine)
    found = [one for one in found if one]
    if not found:  # the batch came before the checkpoint that the run goes on from
        return DivergedError(f"diverged: the loss is not finite by step {step}; try a smaller optimizer.lr")
    first = min(one[0] for one in found)
    found = [one for one in found if one[0] == first]
    samples = [sample for one in found for sample in one[2]]
    said = ", ".join(f"{name} is {value}" for name, value in found[0][1].items())
    more = f" and {len(samples) - SHOWN} more" if len(samples) > SHOWN else ""
    return DivergedError(
        f"diverged at step {first}: {said}, for the samples {', '.join(samples[:SHOWN])}{more}; try a smaller "
        "optimizer.lr, and look at these samples",
        samples,
    )
