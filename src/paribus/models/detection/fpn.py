"""Feature pyramid (Lin et al. 2017, https://arxiv.org/abs/1612.03144) and anchors, on any backbone."""

from collections import OrderedDict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork

from paribus.models.backbones import Backbone, dense

Neck = Literal["fpn", "none"]


class FeaturePyramid(nn.Module):
    """A backbone's maps -> maps of `out_channels` at the strides `levels`, fine to coarse.

    Levels that the backbone has are joined top-down (torchvision's FeaturePyramidNetwork); coarser ones are
    appended, each twice the stride of the last: by subsampling ("pool", as in the paper) or by convolutions
    ("conv", as P6 and P7 of RetinaNet). Raises ValueError for levels that it can make neither way.

    neck: none leaves out the top-down path and keeps all else: each map goes through its own 1x1 and 3x3
        convolution, the paper's "bottom-up pyramid" (its ablation, section 5.1).
    """

    def __init__(
        self,
        *,
        channels: list[int],
        strides: list[int],
        levels: list[int],
        out_channels: int,
        extra: Literal["pool", "conv"],
        neck: Neck = "fpn",
    ):
        super().__init__()
        if neck not in ("fpn", "none"):
            raise ValueError(f"model.neck={neck}: fpn or none")
        # Of several maps of one stride (ViT, dilated networks) the deepest.
        deepest = {stride: i for i, stride in enumerate(strides)}
        own = [level for level in sorted(levels) if level in deepest]
        appended = [own[-1] * 2 ** (i + 1) for i in range(len(levels) - len(own))] if own else []
        if not own or sorted(levels) != own + appended:
            raise ValueError(
                f"model.levels={list(levels)}: this backbone has maps of stride {sorted(deepest)}; "
                "take some of these, and after the last of them its double, fourfold, ..."
            )
        self.levels, self.own = own + appended, own
        self.indices = [deepest[level] for level in own]
        self.out_channels = out_channels  # torchvision's detectors look for it
        widths = [channels[i] for i in self.indices]
        self.neck = neck
        # A pyramid of one map is its two convolutions.
        self.fpn: Any = (
            FeaturePyramidNetwork(widths, out_channels)
            if neck == "fpn"
            else nn.ModuleList(FeaturePyramidNetwork([width], out_channels) for width in widths)
        )
        self.extra = nn.ModuleList()
        for _ in appended:
            if extra == "pool":
                self.extra.append(nn.MaxPool2d(kernel_size=1, stride=2))
            else:
                conv = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
                nn.init.kaiming_uniform_(conv.weight, a=1)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
                self.extra.append(conv if len(self.extra) == 0 else nn.Sequential(nn.ReLU(), conv))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        own = [features[i] for i in self.indices]
        if self.neck == "fpn":
            maps = _joined(self.fpn, own)
        else:
            maps = [m for fpn, one in zip(self.fpn, own, strict=True) for m in _joined(fpn, [one])]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return maps


def _joined(fpn: nn.Module, maps: list[Tensor]) -> list[Tensor]:
    return list(fpn(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())


def octaves(strides: list[int], first: int, last: int) -> list[int]:
    """The backbone's first stride of at least `first` (its coarsest, if none is), doubled up to `last`."""
    levels = [min((s for s in strides if s >= first), default=max(strides))]
    while levels[-1] * 2 <= last:
        levels.append(levels[-1] * 2)
    return levels


def make_pyramid(
    backbone: Backbone,
    *,
    out_channels: int,
    levels: list[int] | None,
    span: tuple[int, int],
    extra: Literal["pool", "conv"],
    neck: Neck,
) -> FeaturePyramid:
    """Of a backbone. levels: None is with neck=fpn those of octaves(*span), and with neck=none the single map of
    stride 16 (the first coarser one, the coarsest), as in the detectors before pyramids.
    """
    usual = octaves(backbone.strides, *span) if neck == "fpn" else octaves(backbone.strides, 16, 16)[:1]
    return FeaturePyramid(
        channels=backbone.channels,
        strides=backbone.strides,
        levels=levels or usual,
        out_channels=out_channels,
        extra=extra,
        neck=neck,
    )


def trimmed(backbone: Any, last: int) -> Any:
    """The backbone for a model that uses its maps up to index `last`: see dense(), and without what makes the coarser
    ones, which would never get a gradient either, and would be run all the same.
    """
    backbone = dense(backbone)
    maps = last + 1
    if maps == len(backbone.strides):
        return backbone
    if hasattr(backbone, "stages"):
        del backbone.stages[maps:]
    elif hasattr(backbone, "network"):  # Timm, whose import takes seconds
        backbone.indices = backbone.network.prune_intermediate_layers(backbone.indices[:maps])
    backbone.channels, backbone.strides = backbone.channels[:maps], backbone.strides[:maps]
    return backbone


class Anchors(AnchorGenerator):
    """In every cell boxes of side scale * stride * 2^(k / per_octave), k < per_octave, at each ratio (h / w).

    Sizes follow strides, so a level fills the octave between itself and the next. A scale of 4 with strides 8
    to 128 is RetinaNet's 32 to 813 pixels; a scale of 2 covers objects half that size.

    levels: the strides. single: one map has the boxes of all levels in its cells.
    """

    def __init__(
        self,
        *,
        levels: list[int],
        scale: float,
        per_octave: int,
        ratios: list[float] | tuple[float, ...],
        single: bool = False,
    ):
        if scale <= 0 or per_octave < 1 or not ratios or min(ratios) <= 0:
            raise ValueError(
                f"model.anchor_scale={scale}, anchors_per_octave={per_octave}, anchor_ratios={list(ratios)}: "
                "more than 0, and one ratio at least"
            )
        steps = [2 ** (k / per_octave) for k in range(per_octave)]
        sizes = [tuple(int(scale * stride * step) for step in steps) for stride in levels]
        if min(map(min, sizes)) < 1:
            raise ValueError(
                f"model.anchor_scale={scale}: an anchor of less than a pixel at stride {levels[0]}"
            )
        if single:
            sizes = [sum(sizes, ())]
        super().__init__(tuple(sizes), (tuple(ratios),) * len(sizes))

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        # Under autocast torchvision would make them in bfloat16, whose numbers above 256 are 2 pixels apart.
        super().set_cell_anchors(torch.float32, device)


def make_anchors(
    backbone: Backbone,
    pyramid: FeaturePyramid,
    *,
    span: tuple[int, int],
    scale: float,
    per_octave: int,
    ratios: list[float] | tuple[float, ...],
) -> Anchors:
    """Of a pyramid's levels. A single map has those of all levels of octaves(*span), so that a detector without a
    pyramid looks for objects of the same sizes (Lin et al. 2017, table 1: 15 anchors a cell).
    """
    single = len(pyramid.levels) == 1
    levels = octaves(backbone.strides, *span) if single else pyramid.levels
    return Anchors(levels=levels, scale=scale, per_octave=per_octave, ratios=ratios, single=single)


def image_list(images: Tensor, height: int, width: int) -> ImageList:
    """A padded batch as torchvision's detectors take it; boxes are clipped to (height, width)."""
    return ImageList(images, [(height, width)] * len(images))
