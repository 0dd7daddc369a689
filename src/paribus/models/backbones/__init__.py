"""Image encoders with one interface, so that `backbone=` is one factor in every task."""

from typing import Any, Protocol

from torch import Tensor


class Backbone(Protocol):
    """`forward(x[B, C, H, W])` gives maps NCHW, fine to coarse, of `channels` and `strides` (pixels a cell).

    What stands between a network's last map and its classifier (a final norm, a class token, fully connected
    layers) is no map. A backbone with such a part has further:
      embed(x) -> [B, embedding], what its own classifier would see, and the attribute `embedding`;
      dense() -> itself without that part, whose parameters would never get a gradient (DDP stops at those).
    """

    channels: list[int]
    strides: list[int]

    def __call__(self, x: Tensor) -> list[Tensor]: ...


def dense(backbone: Any) -> Any:
    """The backbone for a model that uses its maps only."""
    return backbone.dense() if hasattr(backbone, "dense") else backbone
