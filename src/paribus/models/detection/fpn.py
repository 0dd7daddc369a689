"""Feature pyramid (Lin et al. 2017, https://arxiv.org/abs/1612.03144) and anchors, on any backbone."""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork


class FeaturePyramid(nn.Module):
    """A backbone's maps -> maps of `out_channels` at the strides `levels`, fine to coarse.

    Levels that the backbone has are joined top-down (torchvision's FeaturePyramidNetwork); coarser ones are
    appended, each twice the stride of the last: by subsampling ("pool", as in the paper) or by convolutions
    ("conv", as P6 and P7 of RetinaNet). Raises ValueError for levels that it can make neither way.
    """

    def __init__(
        self,
        *,
        channels: list[int],
        strides: list[int],
        levels: list[int],
        out_channels: int,
        extra: Literal["pool", "conv"],
    ):
        super().__init__()
        # Of several maps of one stride (ViT, dilated networks) the deepest.
        deepest = {stride: i for i, stride in enumerate(strides)}
        own = [level for level in sorted(levels) if level in deepest]
        appended = [own[-1] * 2 ** (i + 1) for i in range(len(levels) - len(own))] if own else []
        if not own or sorted(levels) != own + appended:
            raise ValueError(
                f"model.levels={list(levels)}: this backbone has maps of stride {sorted(deepest)}; "
                "take some of these, and after the last of them its double, fourfold, ..."
            )
        self.levels = own + appended
        self.indices = [deepest[level] for level in own]
        self.out_channels = out_channels  # torchvision's detectors look for it
        self.fpn = FeaturePyramidNetwork([channels[i] for i in self.indices], out_channels)
        self.extra = nn.ModuleList()
        for _ in appended:
            if extra == "pool":
                self.extra.append(nn.MaxPool2d(kernel_size=1, stride=2))
            else:
                conv = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
                nn.init.kaiming_uniform_(conv.weight, a=1)
                self.extra.append(conv if len(self.extra) == 0 else nn.Sequential(nn.ReLU(), conv))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps = list(self.fpn(OrderedDict((str(i), features[i]) for i in self.indices)).values())
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return maps


def octaves(strides: list[int], first: int, last: int) -> list[int]:
    """The backbone's first stride of at least `first` (its coarsest, if none is), doubled up to `last`."""
    levels = [min((s for s in strides if s >= first), default=max(strides))]
    while levels[-1] * 2 <= last:
        levels.append(levels[-1] * 2)
    return levels


class Anchors(AnchorGenerator):
    """In every cell boxes of side scale * stride * 2^(k / per_octave), k < per_octave, at each ratio (h / w).

    Sizes follow strides, so a level fills the octave between itself and the next. A scale of 4 with strides 8
    to 128 is RetinaNet's 32 to 813 pixels; a scale of 2 covers objects half that size.
    """

    def __init__(self, *, levels: list[int], scale: float, per_octave: int, ratios: tuple[float, ...]):
        steps = [2 ** (k / per_octave) for k in range(per_octave)]
        sizes = tuple(tuple(int(scale * stride * step) for step in steps) for stride in levels)
        super().__init__(sizes, (tuple(ratios),) * len(sizes))

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        # Under autocast torchvision would make them in bfloat16, whose numbers above 256 are 2 pixels apart.
        super().set_cell_anchors(torch.float32, device)


def image_list(images: Tensor, height: int, width: int) -> ImageList:
    """A padded batch as torchvision's detectors take it; boxes are clipped to (height, width)."""
    return ImageList(images, [(height, width)] * len(images))
