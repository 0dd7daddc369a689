"""Augmentation of whole batches on the device, each sample with its own draw.

What a sample gets depends on (seed, epoch, id) alone: not on its batch, the number of processes or the device. That is
what torchvision's batched transforms lack, which draw once for a batch, and kornia's, which draw from one generator.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paribus.data.samples import IGNORE

LARGE = 64 * 64  # pixels, from where on the processor copies one by one faster
# Steele et al. 2014, Fast splittable pseudorandom number generators: SplitMix64, in two's complement.
STEP, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def keys(seed: int, epoch: int, ids: Sequence[str], device: torch.device) -> Tensor:
    """int64 ``[B]``, from which all that chance decides for these samples follows."""
    high = zlib.crc32(f"{seed},{epoch}".encode()) - 2**31
    found = torch.tensor([high << 32 | zlib.crc32(id.encode()) for id in ids])
    if device.type == "cuda":
        found = found.pin_memory()  # or the copy would wait for the device
    return found.to(device, non_blocking=True)


def uniform(keys: Tensor, place: int, number: int) -> Tensor:
    """float32 ``[number, B]`` in [0, 1), others for each place in a list of augmentations."""
    draws = torch.arange(place * 16 + 1, place * 16 + 1 + number, device=keys.device)
    x = keys + draws[:, None] * STEP
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * FIRST
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * SECOND
    x = x ^ (x >> 31 & (1 << 33) - 1)
    return (x >> 40 & (1 << 24) - 1).float() * 2.0**-24


def augmented(images: Tensor, targets: Any, changes: Sequence[Any], drawn: Tensor) -> tuple[Tensor, Any]:
    """A batch after one change and the next. drawn: the samples' `keys`."""
    for place, change in enumerate(changes):
        images, targets = change(images, targets, uniform(drawn, place, change.draws))
    return images, targets


class Flip:
    """Left and right swapped in a share p of the samples; masks and boxes with their images."""

    moves, boxes, draws = True, True, 1

    def __init__(self, *, p: float = 0.5):
        _share("p", p)
        self.p = p

    def __call__(self, images: Tensor, targets: Any, draw: Tensor) -> tuple[Tensor, Any]:
        """draw: ``[1, B]``."""
        chosen = draw[0] < self.p
        images = _flipped(images, chosen)
        if isinstance(targets, Tensor) and targets.ndim == 3:
            targets = _flipped(targets, chosen)
        elif isinstance(targets, list):
            targets = [
                _mirrored(t, flipped, images.shape[-1]) for t, flipped in zip(targets, chosen, strict=True)
            ]
        return images, targets


class Shift:
    """Moved by up to a share of the side, up or down and left or right, to the pixel; what comes in is black, and
    ignored in masks. Padding by 4 of 32 pixels and a random crop is share=0.125 (He et al. 2016, section 4.2).
    """

    moves, boxes, draws = True, False, 2

    def __init__(self, *, share: float = 0.125):
        _share("share", share)
        self.share = share

    def __call__(self, images: Tensor, targets: Any, draw: Tensor) -> tuple[Tensor, Any]:
        """draw: ``[2, B]``."""
        most = [round(self.share * side) for side in images.shape[-2:]]
        starts = [(d * (2 * m + 1)).long() for d, m in zip(draw, most, strict=True)]
        images = _window(images, starts, most, 0)
        if isinstance(targets, Tensor) and targets.ndim == 3:
            targets = _window(targets[:, None], starts, most, IGNORE)[:, 0]
        return images, targets


class Cutout:
    """A square of a share of the shorter side, anywhere with its centre in the image, is gray (DeVries and Taylor 2017);
    what masks and boxes say stays.
    """

    moves, boxes, draws = False, True, 2

    def __init__(self, *, share: float = 0.5):
        _share("share", share)
        self.share = share

    def __call__(self, images: Tensor, targets: Any, draw: Tensor) -> tuple[Tensor, Any]:
        """draw: ``[2, B]``."""
        sides = images.shape[-2:]
        half = self.share * min(sides) / 2
        inside = []
        for side, d in zip(sides, draw, strict=True):
            centre = (d * side).floor()[:, None]
            places = torch.arange(side, device=images.device)
            inside.append((places >= centre - half) & (places < centre + half))
        gone = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return images.masked_fill(gone, 128), targets


class Color:
    """Brightness, contrast and saturation, each times a factor of its own from [1 - x, 1 + x], in this order.

    Contrast is the difference to the image's mean gray, saturation that to each pixel's gray (ITU-R 601), as in
    torchvision's ColorJitter; its hue is not here.
    """

    moves, boxes, draws = False, True, 3

    def __init__(self, *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0):
        for name, x in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            _share(name, x)
        self.ranges = (brightness, contrast, saturation)

    def __call__(self, images: Tensor, targets: Any, draw: Tensor) -> tuple[Tensor, Any]:
        """draw: ``[3, B]``. The images are floats from then on, still in [0, 255]."""
        images = images.float()
        for place, (x, d) in enumerate(zip(self.ranges, draw, strict=True)):
            if not x:
                continue
            factor = (1 + x * (2 * d - 1)).view(-1, 1, 1, 1)
            other: Tensor | float = 0.0
            if place:
                red, green, blue = images.split(1, 1)
                # by numbers: for a tensor of weights the host would wait
                gray = 0.299 * red + 0.587 * green + 0.114 * blue
                other = gray.mean((2, 3), keepdim=True) if place == 1 else gray
            images = ((images - other) * factor + other).clamp_(0, 255)
        return images, targets


def _flipped(images: Tensor, chosen: Tensor) -> Tensor:
    if (
        images.device.type == "cpu"
    ):  # only those: 16 times as fast there, where nothing has to wait to know which
        images = images.clone()
        for i in chosen.nonzero()[:, 0].tolist():
            images[i] = images[i].flip(-1)
        return images
    return torch.where(chosen.view(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)


def _window(images: Tensor, starts: Sequence[Tensor], most: Sequence[int], fill: int) -> Tensor:
    """Of images ``[B, C, H, W]`` padded by `most`, the H x W that begin at `starts`."""
    height, width = images.shape[-2:]
    if images.device.type == "cpu" and height * width > LARGE:
        found = torch.full_like(images, fill)
        for i, (top, left) in enumerate(zip(*(start.tolist() for start in starts), strict=True)):
            down, right = top - most[0], left - most[1]  # of the window against the image
            seen = images[i, :, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
            found[i, :, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)] = seen
        return found
    padded = F.pad(images, (most[1], most[1], most[0], most[0]), value=fill)
    windows = padded.permute(0, 2, 3, 1).unfold(1, height, 1).unfold(2, width, 1)
    return windows[torch.arange(len(images), device=images.device), starts[0], starts[1]]


def _mirrored(target: dict[str, Tensor], flipped: Tensor, width: int) -> dict[str, Tensor]:
    found = dict(target)
    for name in {"boxes", "proposals"} & target.keys():
        x1, y1, x2, y2 = target[name].unbind(-1)
        mirrored = torch.stack([width - x2, y1, width - x1, y2], -1)
        found[name] = torch.where(flipped, mirrored, target[name])
    if "masks" in target:
        found["masks"] = torch.where(flipped, target["masks"].flip(-1), target["masks"])
    return found


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"augmentation.on_device: {name}={value}: from 0 to 1")
