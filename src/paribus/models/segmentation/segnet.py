"""SegNet (Badrinarayanan, Kendall & Cipolla 2017, https://arxiv.org/abs/1511.00561), its encoder any backbone."""

import math
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import Backbone, dense, need_borders
from paribus.models.layers import ConvNormAct, pad_to_multiple
from paribus.models.normalization import Norm
from paribus.models.segmentation.auxiliary import Auxiliary
from paribus.models.upsampling import Upsample, Upsampling, check_unpooling, nearest


class SegNet(nn.Module):
    """images [B, C, H, W] -> logits [B, num_classes, H, W], for any H and W. Odd maps are pooled and unpooled as
    they are; padded, and cropped back, is only what the finest map's stride or the smallest image asks for.

    The encoder run backwards: from the coarsest map up, each map is unpooled to the places of the maxima of the
    next finer one and convolved, the last time to that one's channels. No map itself is handed over, only its
    places. With backbone=vgg16 backbone.norm=batch it is the network of the paper. The steps that a backbone
    takes before its finest map (ResNet one, ConvNeXt two) have no places and are nearest.

    upsampling: see Upsample.
    convolutions: at each map; None: as many as the encoder has there, where it is a plain stack (VGG, ConvNet,
        U-Net's), else two.
    auxiliary: in training mode the answer is (logits, those of the auxiliary head).
    dropout: of single values before the last convolution.
    norm, activation: of the decoder; None is batch, relu.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        upsampling: Upsampling = "max_unpool",
        convolutions: int | None = None,
        auxiliary: bool = False,
        dropout: float = 0.0,
        norm: Norm | None = None,
        activation: Activation | None = None,
    ):
        super().__init__()
        if convolutions is not None and convolutions < 1:
            raise ValueError(f"model.convolutions={convolutions}: 1 or more")
        need_borders(backbone, "SegNet")
        check_unpooling(upsampling, backbone.strides)
        self.backbone = dense(backbone)
        chosen: dict[str, Any] = {"norm": norm or "batch", "activation": activation or "relu"}
        channels, strides = backbone.channels, backbone.strides
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        width = channels[-1]
        for i in reversed(range(len(channels))):
            inner = channels[i]
            if i < len(channels) - 1:
                up = Upsample(
                    upsampling,
                    width,
                    out_channels=inner if upsampling == "transposed" else None,
                    fine_channels=inner,
                    factor=strides[i + 1] // strides[i],
                )
                self.ups.append(up)
                width = up.out_channels
            count = _count(self.backbone, i, convolutions)
            # The last convolution of all is the head.
            after = [inner] * (count - 1) + ([channels[i - 1]] if i and count else [])
            self.blocks.append(_stack([width, *after], **chosen))
            width = [width, *after][-1]
        for _ in range(math.ceil(math.log2(strides[0]))):
            self.ups.append(Upsample(upsampling, width))
            self.blocks.append(_stack([width, width], **chosen))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(width, num_classes, kernel_size=3, padding=1)
        self.auxiliary: Auxiliary | None = None
        if auxiliary:
            self.auxiliary = Auxiliary(backbone=backbone, num_classes=num_classes, **chosen)

    def forward(self, images: Tensor) -> Any:
        height, width = images.shape[-2:]
        strides = self.backbone.strides
        images = pad_to_multiple(images, strides[0] if min(height, width) >= strides[-1] else strides[-1])
        size = (images.shape[-2], images.shape[-1])
        maps = self.backbone(images)
        *finer, x = maps
        x = self.blocks[0](x)
        for up, block in zip(self.ups, self.blocks[1:], strict=True):
            fine = finer.pop() if finer else None
            if fine is None:
                x = up(x, (min(2 * x.shape[-2], size[0]), min(2 * x.shape[-1], size[1])))
            else:
                x = up(x, tuple(fine.shape[-2:]), fine)
            x = block(x)
        logits = nearest(self.head(self.dropout(x)), size)[..., :height, :width]
        if self.auxiliary is None or not self.training:
            return logits
        return logits, self.auxiliary(maps, size)[..., :height, :width]


def _stack(widths: list[int], norm: Norm, activation: Activation) -> nn.Sequential:
    """Convolutions from each of the widths to the next; with a bias, as the paper's have."""
    return nn.Sequential(
        *(ConvNormAct(a, b, bias=True, norm=norm, activation=activation) for a, b in pairwise(widths))
    )


def _count(backbone: Any, place: int, convolutions: int | None) -> int:
    """Of the decoder's convolutions at a map; none where the encoder has none, as at VGG's last, a pooling."""
    stages = getattr(backbone, "stages", None)
    if stages is None:
        return convolutions or 2
    if not any(True for _ in stages[place].parameters()):
        return 0
    return convolutions or sum(isinstance(m, ConvNormAct) for m in stages[place].children()) or 2
