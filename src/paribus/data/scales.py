"""Multi-scale training: each batch at another size, resized on its device (Redmon & Farhadi 2017, YOLO9000, section 2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paribus.data.geometry import Size

STEP = 32  # sides are multiples of it: the coarsest stride of most networks


def need_sizes(size: Size | None, scales: tuple[float, float]) -> None:
    """ValueError for what are no two factors, or makes no size but one."""
    if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
        raise ValueError(f"`data.scales={list(scales)}`: [least, largest] factor on the size, above 0")
    if size and rounded(size, scales[0]) == rounded(size, scales[1]):
        raise ValueError(
            f"`data.scales={list(scales)}`: sides are rounded to multiples of {STEP}, so that images of "
            f"{size[0]} x {size[1]} (data.size) would always be {' x '.join(map(str, rounded(size, scales[0])))}: "
            "larger images, scales further apart, or data.scales=null"
        )


def drawn_size(size: Sequence[int], scales: tuple[float, float], seed: int, step: int) -> Size:
    """The (height, width) of a training step's batch: `size` by a factor within `scales`, a function of
    (seed, step), both sides rounded to multiples of 32.
    """
    return rounded(size, float(np.random.default_rng([seed, step]).uniform(*scales)))


def rounded(size: Sequence[int], factor: float) -> Size:
    height, width = (max(STEP, round(side * factor / STEP) * STEP) for side in size)
    return height, width


def resize_batch(images: Tensor, targets: Any, size: Size) -> tuple[Tensor, Any]:
    """A batch ``[B, C, H, W]``, normalized, with its targets, at another size. Boxes, areas and proposals grow with the
    image; masks take the class of the pixel their centre falls into; labels stay what they are.
    """
    old: Size = (images.shape[-2], images.shape[-1])
    if old == size:
        return images, targets
    smaller = size[0] * size[1] < old[0] * old[1]
    images = F.interpolate(images, size, mode="bilinear", antialias=smaller)
    if isinstance(targets, list):
        return images, [_resized(target, old, size) for target in targets]
    if targets.ndim == 3:
        targets = _nearest(targets, size)
    return images, targets


def _resized(target: dict[str, Tensor], old: Size, size: Size) -> dict[str, Tensor]:
    y, x = size[0] / old[0], size[1] / old[1]
    changed = {}
    for key, value in target.items():
        if key in ("boxes", "proposals"):
            changed[key] = value * value.new_tensor([x, y, x, y])
        elif key == "area":
            changed[key] = value * (x * y)
        elif key == "masks":
            changed[key] = _nearest(value, size)
    return target | changed


def _nearest(maps: Tensor, size: Size) -> Tensor:
    """As geometry.resize_nearest; F.interpolate takes no integers but bytes."""
    for axis, new in zip((-2, -1), size, strict=True):
        places = (torch.arange(new, device=maps.device) + 0.5) * (maps.shape[axis] / new)
        maps = maps.index_select(axis, places.long())
    return maps
