"""A network applied to a large image in overlapping windows, blended where they meet.

torchvision has no such function, and MONAI's and mmsegmentation's come with all of their library.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def slide(
    model: Callable[[Tensor], Tensor], images: Tensor, *, window: Sequence[int], overlap: float
) -> Tensor:
    """images ``[B, C, H, W]`` -> the blended logits of all windows, float32 ``[B, classes, H, W]``.

    Windows of ``window`` (height, width) lie evenly over the image and share at least ``overlap`` of their side
    with the next; a smaller image is one window. The network sees one window of all images at a time: memory
    is that of a batch of windows, and of the logits.

    Logits are averaged, not probabilities: where one window answers, its logits are the network's own, and
    the loss of the whole is what it would be without windows. A window counts nothing in the outer quarter
    of its overlap, where the network saw the filling of its convolutions and not the image, then more and
    more up to the inner quarter; towards the image's own border, where the whole image looks the same, it
    counts fully. (Ronneberger et al. 2015, U-Net, figure 2, cut such margins off; Isensee et al. 2021, nnU-Net,
    weigh all by a Gaussian.) So the result is the whole image's, wherever windows begin at a multiple of the
    network's stride, for a network that looks no further than a quarter of the overlap.
    """
    rows = _tiles(images.shape[-2], window[0], overlap, images.device)
    columns = _tiles(images.shape[-1], window[1], overlap, images.device)
    blended: Tensor | None = None
    for top, down in rows:
        for left, across in columns:
            area = (..., slice(top, top + len(down)), slice(left, left + len(across)))
            part = model(images[area]).float()
            if blended is None:
                blended = part.new_zeros(*part.shape[:2], *images.shape[-2:])
            blended[area] += part * (down[:, None] * across)
    assert blended is not None
    return blended


def refuse(window: Sequence[int] | None, overlap: float) -> None:
    """ValueError for windows that cannot be."""
    if window is not None and (len(window) != 2 or min(window) < 1):
        raise ValueError(
            f"task.window={list(window)}: [height, width] in pixels, or null for the whole image"
        )
    if not 0 <= overlap < 1:
        raise ValueError(f"task.overlap={overlap}: the share of a window, from 0 to below 1")


def _tiles(length: int, size: int, overlap: float, device: torch.device) -> list[tuple[int, Tensor]]:
    """Along one axis where each window begins, and the weights of its pixels; at each pixel they sum to 1."""
    size = min(size, length)
    shared = int(size * overlap)
    last = math.ceil((length - size) / (size - shared))
    starts = [round(i * (length - size) / max(last, 1)) for i in range(last + 1)]
    ramp = torch.ones(size, device=device)
    if shared:
        ramp = ((torch.arange(size, device=device) + 0.5 - shared / 4) / (shared / 2)).clamp(0, 1)
    weights, total = [], torch.zeros(length, device=device)
    for i, start in enumerate(starts):
        weight = torch.ones(size, device=device)
        if i > 0:
            weight = weight * ramp
        if i < last:
            weight = weight * ramp.flip(0)
        weights.append(weight)
        total[start : start + size] += weight
    return [(s, w / total[s : s + size]) for s, w in zip(starts, weights, strict=True)]
