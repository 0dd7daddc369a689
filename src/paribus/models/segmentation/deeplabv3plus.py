"""DeepLabv3+ (Chen et al. 2018, https://arxiv.org/abs/1802.02611) on any backbone, each part of it a choice, and
with them DeepLabv3 (Chen et al. 2017, https://arxiv.org/abs/1706.05587) and PSPNet (Zhao et al. 2017,
https://arxiv.org/abs/1612.01105).
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import Backbone, dense, need_borders
from paribus.models.context import ASPP, SPP, atrous
from paribus.models.layers import ConvNormAct, pad_to_multiple
from paribus.models.normalization import Norm
from paribus.models.segmentation.auxiliary import Auxiliary
from paribus.models.upsampling import Upsample, Upsampling, check_unpooling


class DeepLabV3Plus(nn.Module):
    """images [B, C, H, W] -> logits [B, num_classes, H, W], for any H and W: padded inside, cropped back.

    The backbone's last map, `context`, enlarged to its low-level map and joined with it, 3x3 convolutions, a 1x1
    classifier, enlarged to the image. The stride of the last map is backbone.output_stride.

    context: aspp or spp, see there; none, a 1x1 convolution.
    rates: of aspp; None is 6, 12, 18 at stride 16, twice these at 8 (section 3.1 of DeepLabv3), half at 32.
    image_pooling: of aspp.
    bins: of spp.
    context_channels: that come out of the context.
    decoder: false, nothing is joined: the 3x3 convolutions see the context at the last map's stride.
    low_level_channels: to which a 1x1 convolution brings the low-level map, the first of stride 4, or the coarsest
        of those that are finer.
    decoder_channels: of each 3x3 convolution before the classifier, possibly none. [256, 256] in DeepLabv3+; with
        decoder=false, [256] is torchvision's DeepLabv3, [] PSPNet.
    separable: of every 3x3 after the backbone.
    upsampling: see Upsample; in the paper bilinear. The logits, after which nothing fills holes, are enlarged
        bilinearly with bed_of_nails and max_unpool; transposed starts bilinear there.
    auxiliary: in training mode the answer is (logits, those of the auxiliary head).
    dropout: of the context's channels.
    norm, activation: of all after the backbone; None is batch, relu.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        context: Literal["none", "spp", "aspp"] = "aspp",
        rates: list[int] | None = None,
        image_pooling: bool = True,
        bins: list[int] | None = None,
        context_channels: int = 256,
        decoder: bool = True,
        low_level_channels: int = 48,
        decoder_channels: list[int] | None = None,
        separable: bool = False,
        upsampling: Upsampling = "bilinear",
        auxiliary: bool = False,
        dropout: float = 0.0,
        norm: Norm | None = None,
        activation: Activation | None = None,
    ):
        super().__init__()
        need_borders(backbone, "DeepLab")
        holes = upsampling in ("bed_of_nails", "max_unpool")
        if holes and not decoder:
            raise ValueError(
                f"model.upsampling={upsampling}: without model.decoder nothing fills the holes that it leaves; one "
                "of nearest, transposed, bilinear, or model.decoder=true"
            )
        for key, value in (
            ("context_channels", context_channels),
            ("low_level_channels", low_level_channels),
        ):
            if value < 1:
                raise ValueError(f"model.{key}={value}: 1 or more")
        check_unpooling(upsampling, backbone.strides)
        chosen: dict[str, Any] = {"norm": norm or "batch", "activation": activation or "relu"}
        self.backbone = dense(backbone)
        channels, strides = backbone.channels, backbone.strides
        self.context = _context(
            context,
            channels[-1],
            context_channels,
            rates=[max(1, 96 * k // strides[-1]) for k in (1, 2, 3)] if rates is None else rates,
            image_pooling=image_pooling,
            bins=[1, 2, 3, 6] if bins is None else bins,
            separable=separable,
            dropout=dropout,
            **chosen,
        )
        width, stride = context_channels, strides[-1]
        self.place: int | None = None
        if decoder:
            self.place = _low_level(backbone)
            low, stride = channels[self.place], strides[self.place]
            factor = strides[-1] // stride
            self.up = Upsample(upsampling, width, fine_channels=low if factor > 1 else 0, factor=factor)
            self.low = ConvNormAct(low, low_level_channels, kernel=1, **chosen)
            width = self.up.out_channels + low_level_channels
        convolutions: list[nn.Module] = []
        for out in [256, 256] if decoder_channels is None else decoder_channels:
            convolutions.append(atrous(width, out, separable=separable, **chosen))
            width = out
        self.convolutions = nn.Sequential(*convolutions)
        self.head = nn.Conv2d(width, num_classes, 1)
        last: Upsampling = "bilinear" if holes else upsampling
        self.last = Upsample(
            last, num_classes, factor=stride, kernel=2 * stride, bias=False, start="bilinear"
        )
        self.auxiliary: Auxiliary | None = None
        if auxiliary:
            self.auxiliary = Auxiliary(backbone=backbone, num_classes=num_classes, **chosen)

    def forward(self, images: Tensor) -> Any:
        height, width = images.shape[-2:]
        images = pad_to_multiple(images, max(self.backbone.strides))
        size = (images.shape[-2], images.shape[-1])
        maps = self.backbone(images)
        x = self.context(maps[-1])
        if self.place is not None:
            fine = maps[self.place]
            x = torch.cat([self.up(x, (fine.shape[-2], fine.shape[-1]), fine), self.low(fine)], dim=1)
        logits = self.last(self.head(self.convolutions(x)), size)[..., :height, :width]
        if self.auxiliary is None or not self.training:
            return logits
        return logits, self.auxiliary(maps, size)[..., :height, :width]


def _context(
    kind: str,
    in_channels: int,
    channels: int,
    *,
    rates: list[int],
    image_pooling: bool,
    bins: list[int],
    separable: bool,
    dropout: float,
    **chosen: Any,
) -> nn.Module:
    if kind == "aspp":
        chosen |= {"rates": rates, "image_pooling": image_pooling, "separable": separable}
        return ASPP(in_channels, channels, dropout=dropout, **chosen)
    if kind == "spp":
        return SPP(in_channels, channels, bins=bins, separable=separable, dropout=dropout, **chosen)
    if kind == "none":
        return nn.Sequential(ConvNormAct(in_channels, channels, kernel=1, **chosen), nn.Dropout(dropout))
    raise ValueError(f"model.context={kind}: one of none, spp, aspp")


def _low_level(backbone: Backbone) -> int:
    """The place of the first map of stride 4, or of the coarsest finer one; of a backbone without such the first."""
    strides = backbone.strides[:-1]
    if not strides:
        raise ValueError(
            f"model.decoder: {type(backbone).__name__} has a single map, and the decoder joins a finer one: "
            "model.decoder=false"
        )
    fine = [stride for stride in strides if stride <= 4]
    return strides.index(max(fine)) if fine else 0
