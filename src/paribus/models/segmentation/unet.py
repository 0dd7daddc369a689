"""U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597), its contracting path any backbone."""

import math
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import Backbone, dense
from paribus.models.layers import ConvNormAct, pad_to_multiple
from paribus.models.normalization import Norm
from paribus.models.segmentation.auxiliary import Auxiliary
from paribus.models.upsampling import Upsample, Upsampling, check_unpooling, nearest


class UNet(nn.Module):
    """images [B, C, H, W] -> logits [B, num_classes, H, W], for any H and W: padded inside, cropped back.

    From the coarsest map up, each step enlarges to the next finer map, joins it and convolves twice. A backbone
    whose finest map is coarser than the image (stride 2, or 4 in ConvNeXt, 16 in ViT) gets further doublings
    without a map to join. With backbone=unet, upsampling=transposed and decoder_channels=null it is the network
    of 2015.

    decoder_channels: of each step, coarse to fine; a shorter path takes the first of them, a longer repeats
        the last. None: those of the map that each step joins, as in the paper.
    upsampling: see Upsample; transposed gives the channels of its step, as in the paper.
    skip: how the finer map is joined: concat, beside, as in the paper; add, to the enlarged map, which takes over
        its channels (Chaurasia & Culurciello 2017, LinkNet); none, not at all.
    padded: false as in the paper, with backbone=unet backbone.padded=false: no convolution sees beyond the image,
        which is mirrored at its border until the logits have its size (the paper's overlap tile, figure 2); maps
        are cropped where they are joined.
    auxiliary: in training mode the answer is (logits, those of the auxiliary head).
    dropout: of single values of the coarsest map (the paper's section 3.1).
    norm, activation: of the decoder; None is batch, relu.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        decoder_channels: list[int] | None,
        upsampling: Upsampling = "nearest",
        skip: Literal["concat", "add", "none"] = "concat",
        padded: bool = True,
        auxiliary: bool = False,
        dropout: float = 0.0,
        norm: Norm | None = None,
        activation: Activation | None = None,
    ):
        super().__init__()
        if decoder_channels is not None and not decoder_channels:
            raise ValueError(
                "model.decoder_channels is empty: give the channels of each step, coarse to fine"
            )
        if skip not in ("concat", "add", "none"):
            raise ValueError(f"model.skip={skip}: one of concat, add, none")
        if padded != getattr(backbone, "padded", True):
            raise ValueError(
                f"model.padded={str(padded).lower()}, but the backbone's convolutions are "
                f"{'not' if padded else 'all'} padded: both or neither, with backbone=unet "
                f"backbone.padded={str(padded).lower()}"
            )
        check_unpooling(upsampling, backbone.strides)
        self.backbone = dense(backbone)
        self.skip, self.padded = skip, padded
        doublings = math.ceil(math.log2(backbone.strides[0]))
        skips = [*reversed(backbone.channels[:-1]), *[0] * doublings]
        factors = [b // a for a, b in reversed([*pairwise(backbone.strides)])] + [2] * doublings
        decoder_channels = decoder_channels or [n for n in skips if n] or backbone.channels
        widths = [*decoder_channels, *[decoder_channels[-1]] * len(skips)][: len(skips)]
        chosen: dict[str, Any] = {"norm": norm or "batch", "activation": activation or "relu"}
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        below = backbone.channels[-1]
        for width, finer, factor in zip(widths, skips, factors, strict=True):
            wanted = finer if skip == "add" and finer else width if upsampling == "transposed" else below
            up = Upsample(upsampling, below, out_channels=wanted, fine_channels=finer, factor=factor)
            self.ups.append(up)
            joined = up.out_channels + (finer if skip == "concat" else 0)
            padding = int(padded)
            self.blocks.append(
                nn.Sequential(
                    ConvNormAct(joined, width, padding=padding, **chosen),
                    ConvNormAct(width, width, padding=padding, **chosen),
                )
            )
            below = width
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(below, num_classes, kernel_size=1)
        self.auxiliary: Auxiliary | None = None
        if auxiliary:
            self.auxiliary = Auxiliary(backbone=backbone, num_classes=num_classes, **chosen)

    def forward(self, images: Tensor) -> Any:
        height, width = images.shape[-2:]
        if self.padded:
            images = pad_to_multiple(images, max(self.backbone.strides))
            size = (images.shape[-2], images.shape[-1])
        else:
            images, size = self._mirrored(images)
        maps = self.backbone(images)
        *skips, x = maps
        x = self.dropout(x)
        for up, block in zip(self.ups, self.blocks, strict=True):
            fine = skips.pop() if skips else None
            if fine is None:
                x = up(x, (min(2 * x.shape[-2], size[0]), min(2 * x.shape[-1], size[1])))
            else:
                fine = fine if self.padded else _middle(fine, (2 * x.shape[-2], 2 * x.shape[-1]))
                x = up(x, tuple(fine.shape[-2:]), fine)
                if self.skip == "concat":
                    x = torch.cat([x, fine], dim=1)
                elif self.skip == "add":
                    x = x + fine
            x = block(x)
        logits = nearest(self.head(x), size)[..., :height, :width]
        if self.auxiliary is None or not self.training:
            return logits
        seen = tuple(self.backbone.strides[-2] * n for n in maps[-2].shape[-2:])
        other = self.auxiliary(maps, size if self.padded else seen)
        return logits, _middle(other, size)[..., :height, :width]

    def _mirrored(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images with as much border as unpadded convolutions take away, and the size of what they leave: that of
        the images or slightly more, as each pooling needs an even map.
        """
        coarsest = self.backbone.strides[-1]
        border = 6 * coarsest - 4  # on each side: 92 for 16
        # A bottom of n cells leaves coarsest * n - 4 * (coarsest - 1) pixels.
        height, width = (n + (4 - n) % coarsest for n in images.shape[-2:])
        rows = _reflected(images.shape[-2], border, height + border, images.device)
        columns = _reflected(images.shape[-1], border, width + border, images.device)
        return images[..., rows[:, None], columns], (height, width)


def _reflected(length: int, before: int, end: int, device: torch.device) -> Tensor:
    """The places -before to end of a side that is mirrored at its first and its last pixel, over and over.

    F.pad reflects once only, and its backward is not deterministic on CUDA.
    """
    period = max(1, 2 * (length - 1))
    place = torch.arange(-before, end, device=device) % period
    return torch.minimum(place, period - place)


def _middle(x: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]
