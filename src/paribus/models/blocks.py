"""The blocks of a backbone, computed a second time instead of being remembered (Chen et al. 2016, Training deep nets
with sublinear memory cost).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from paribus.models.backbones import depths


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """The largest modules of several layers whose parameters are all of one depth, see depths(): residual blocks,
    transformer blocks, a convolution with its norm. Empty for a network that is a row of bare layers.
    """
    try:
        place = depths(backbone, fine=True)
    except AttributeError:  # a few of timm's do not say it
        return []
    found: list[nn.Module] = []

    def visit(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}."
            here = {place[f"{path}{key}"] for key, _ in child.named_parameters() if f"{path}{key}" in place}
            computes = any(child.children()) and not isinstance(
                child, nn.ModuleList | nn.ModuleDict | _BatchNorm
            )
            if computes and len(here) == 1:
                found.append(child)
            else:
                visit(child, path)

    visit(backbone, "")
    return found


@contextmanager
def recomputed(backbone: nn.Module) -> Iterator[None]:
    """Inside, of each block the input alone is kept for the backward pass, which computes the rest again: with the
    same draws of dropout, and without counting a batch twice in batch statistics, as torch's checkpoint() alone would.

    Keys of the weights stay as they are, unlike with torch's CheckpointWrapper.

    Raises ValueError for a network without blocks.
    """
    found = blocks(backbone)
    if not found:
        raise ValueError(
            f"trainer.checkpoint_activations: {type(backbone).__name__} is no row of blocks, so nothing would be "
            "saved; set it to false"
        )
    for block in found:
        block.forward = partial(_twice, block.forward, block)
    try:
        yield
    finally:
        for block in found:
            del block.forward


def _twice(forward: Callable[..., Any], block: nn.Module, *given: Any, **named: Any) -> Any:
    if not block.training:
        return forward(*given, **named)
    contexts = partial(_contexts, block)
    return checkpoint(forward, *given, use_reentrant=False, context_fn=contexts, **named)


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    """Of the first time and of the second."""
    return nullcontext(), _without_counting(block)


@contextmanager
def _without_counting(block: nn.Module) -> Iterator[None]:
    """Batch norms normalize as they do in training, and leave their running statistics as they are."""
    norms = [norm for norm in block.modules() if isinstance(norm, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, number) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, number
