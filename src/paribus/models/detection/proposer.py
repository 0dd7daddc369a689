"""Proposals that are not learned: windows on a grid, or those that selective search found in the image."""

import math
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from paribus.models.detection.detector import need_positive

Search = Literal["single", "fast", "quality"]


class Proposer:
    """Of each image of a batch boxes [P, 4], P at most `most`, the best guess first: those that came with it, cut at
    its border, or windows. An image without any has itself as one.

    proposals: selective_search, which `search` tells the data to do | grid.
    strategy, side, smallest, least: of selective search, see data/selective_search.py.
    window: of a grid the keywords of windows(); of more than `most` some are drawn, the same for every image of a size.
    """

    def __init__(
        self,
        *,
        proposals: Literal["grid", "selective_search"],
        most: int | None,
        strategy: Search = "fast",
        side: int | None = None,
        smallest: int | None = None,
        least: float = 4.0,
        window: dict[str, Any] | None = None,
    ):
        if proposals not in ("grid", "selective_search"):
            raise ValueError(f"model.proposals={proposals}: grid or selective_search")
        if most is not None:
            need_positive(num_proposals=most)
        self.most, self.window = most, window or {}
        self.search: dict[str, Any] | None = None
        if proposals == "selective_search":
            if strategy not in ("single", "fast", "quality"):
                raise ValueError(f"model.search_strategy={strategy}: single, fast or quality")
            for key, value in {"side": side, "smallest": smallest}.items():
                if value is not None and value < 1:
                    raise ValueError(f"model.search_{key}={value}: pixels, 1 or more, or null")
            self.search = {"strategy": strategy, "side": side, "smallest": smallest, "least": least}
        else:
            windows((16, 16), **self.window)  # complains of its keys

    def __call__(self, given: list[Tensor] | None, size: tuple[int, int], images: Tensor) -> list[Tensor]:
        """size: (H, W) of the images before they were padded; boxes are float32, on their device."""
        whole = torch.tensor([[0.0, 0.0, size[1], size[0]]], device=images.device)
        if self.search is None:
            found = drawn(size, self.most, tuple(sorted(self.window.items()))).to(images.device)
            return [found if len(found) else whole] * len(images)
        if given is None:
            raise ValueError(
                "this detector takes proposals, and the images come without: model.proposals=grid"
            )
        limit = whole[:, [2, 3, 2, 3]]
        cut = [torch.minimum(boxes[: self.most].float(), limit).clamp(min=0) for boxes in given]
        return [boxes if len(boxes) else whole for boxes in cut]


def windows(
    size: tuple[int, int],
    *,
    smallest: float = 16.0,
    per_octave: int = 2,
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    step: float = 0.25,
) -> Tensor:
    """Boxes [P, 4] on a grid over an image of `size` (H, W), large ones first.

    smallest: the root of the smallest windows' area, in pixels; from there in equal steps, `per_octave` for each
        doubling, up to what fits in.
    ratios: heights / widths.
    step: from one to the next, of the window's own side, or somewhat less, so that the first and the last touch the
        border.

    Raises ValueError where these are no grid.
    """
    if smallest < 1 or per_octave < 1 or not ratios or min(ratios) <= 0 or not 0 < step <= 1:
        raise ValueError(
            f"model.window_smallest={smallest}, windows_per_octave={per_octave}, window_ratios={list(ratios)}, "
            f"window_step={step}: pixels and a number of at least 1, ratios above 0, a step above 0 and at most 1"
        )
    parts = [torch.zeros(0, 4)]
    octaves = math.log2(max(max(size) / smallest, 1))
    for k in range(math.floor(octaves * per_octave) + 1):
        side = smallest * 2 ** (k / per_octave)
        for ratio in ratios:
            height, width = side * math.sqrt(ratio), side / math.sqrt(ratio)
            if height > size[0] or width > size[1]:
                continue
            starts = [
                torch.linspace(0, room, math.ceil(room / (step * extent)) + 1)
                for room, extent in ((size[0] - height, height), (size[1] - width, width))
            ]
            corners = torch.cartesian_prod(*starts).flip(1)
            parts.append(torch.cat([corners, corners + torch.tensor([width, height])], dim=1))
    return torch.cat(parts[::-1])


@lru_cache(maxsize=64)
def drawn(size: tuple[int, int], most: int | None, window: tuple[tuple[str, Any], ...]) -> Tensor:
    """Windows, and if there are more than `most` as many of them, in any order: they are no better or worse."""
    found = windows(size, **dict(window))
    if most is None or len(found) <= most:
        return found
    return found[torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:most]]
