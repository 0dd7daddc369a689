"""What a model costs, in figures that need no clock: parameters and multiply-adds."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count(model: nn.Module, size: tuple[int, int], in_channels: int = 3) -> tuple[int, int | None]:
    """Parameters, and multiply-adds of one image of `size` (H, W): torch's flop counter / 2.

    On the meta device: nothing is computed, and attention is counted, which on a CPU in evaluation mode runs
    as a fused operator that the counter does not know.

    Classifiers and segmenters are counted whole. Detectors: backbone, pyramid and heads (Faster R-CNN's box
    head for the full number of proposals), which is all but the selection of boxes (their `raw`). None for a
    network that cannot run without values.

    Raises ValueError where the network does not take images of this size.
    """
    parameters = sum(p.numel() for p in model.parameters())
    # deepcopy finds its copies of the tensors in the memo, so no value is copied.
    memo: dict[int, torch.Tensor] = {id(p): nn.Parameter(p.detach().to("meta")) for p in model.parameters()}
    memo |= {id(b): b.to("meta") for b in model.buffers()}
    meta = copy.deepcopy(model, memo).eval()
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            getattr(meta, "raw", meta)(torch.zeros(1, in_channels, *size, device="meta"))
    except (RuntimeError, AssertionError) as error:
        if "meta" in str(error):
            return parameters, None
        raise ValueError(
            f"{type(model).__name__} does not take images of {size[0]} x {size[1]} (`data.size`): {error}; "
            "a timm network tied to one size takes another with `backbone.image_size`"
        ) from error
    return parameters, counter.get_total_flops() // 2
