"""U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597), its contracting path any backbone."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paribus.models.backbones import Backbone, dense
from paribus.models.layers import ConvNormAct, pad_to_multiple
from paribus.models.normalization import Norm


class UNet(nn.Module):
    """images [B, C, H, W] -> logits [B, num_classes, H, W], for any H and W: padded inside, cropped back.

    From the coarsest map up, each step enlarges to the next finer map, joins it and convolves twice (the
    paper's expanding path; its convolutions are unpadded and its enlarging learned). A backbone whose finest
    map is coarser than the image (stride 2, or 4 in ConvNeXt, 16 in ViT) gets further doublings without a map
    to join.

    decoder_channels: of each step, coarse to fine; a shorter path takes the first of them, a longer repeats
        the last.
    norm: of the decoder; None is batch.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        decoder_channels: list[int],
        norm: Norm | None = None,
    ):
        super().__init__()
        if not decoder_channels:
            raise ValueError(
                "model.decoder_channels is empty: give the channels of each step, coarse to fine"
            )
        self.backbone = dense(backbone)
        doublings = math.ceil(math.log2(backbone.strides[0]))
        skips = [*reversed(backbone.channels[:-1]), *[0] * doublings]
        widths = [*decoder_channels, *[decoder_channels[-1]] * len(skips)][: len(skips)]
        self.blocks = nn.ModuleList()
        for (below, width), skip in zip(pairwise([backbone.channels[-1], *widths]), skips, strict=True):
            self.blocks.append(
                nn.Sequential(
                    ConvNormAct(below + skip, width, norm=norm or "batch"),
                    ConvNormAct(width, width, norm=norm or "batch"),
                )
            )
        self.head = nn.Conv2d(widths[-1], num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        images = pad_to_multiple(images, max(self.backbone.strides))
        *skips, x = self.backbone(images)
        for block in self.blocks:
            # Nearest: its backward is deterministic on CUDA, and the convolutions that follow smooth.
            if skips:
                skip = skips.pop()
                x = torch.cat([_resize(x, skip.shape[-2:]), skip], dim=1)
            else:
                x = _resize(
                    x, (min(2 * x.shape[-2], images.shape[-2]), min(2 * x.shape[-1], images.shape[-1]))
                )
            x = block(x)
        return _resize(self.head(x), images.shape[-2:])[..., :height, :width]


def _resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return x if x.shape[-2:] == torch.Size(size) else F.interpolate(x, size=size, mode="nearest")
