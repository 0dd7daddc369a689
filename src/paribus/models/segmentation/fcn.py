"""FCN (Long, Shelhamer & Darrell 2015, https://arxiv.org/abs/1411.4038): 32s, 16s and 8s, on any backbone."""

from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paribus.models.activation import Activation, make_activation
from paribus.models.backbones import Backbone, dense, need_borders
from paribus.models.backbones.vgg import VGG
from paribus.models.layers import FullyConnected, pad_to_multiple
from paribus.models.normalization import Norm
from paribus.models.segmentation.auxiliary import Auxiliary
from paribus.models.upsampling import Upsample

_KINDS = ("transposed", "bilinear", "nearest")
_FC_STRIDE = 32  # of the cells that fc6 of VGG and of AlexNet was made for


class FCN(nn.Module):
    """images [B, C, H, W] -> logits [B, num_classes, H, W], for any H and W: padded inside to a multiple of the
    coarsest stride, cropped back. The original pads every image by 100 pixels instead, and crops.

    On VGG the scores are of pool4 and pool3 and of fc7; fc6 and fc7 are those of the backbone's classifier, with
    its weights, as convolutions of 7x7, padded, and 1x1; of a dilated backbone fc6 is dilated too. Any other
    backbone is scored on its maps; AlexNet, which has an fc6 and fc7 as well, on fc7 in place of the last.

    stride: of the finest map that is scored, 32, 16 or 8 in the paper, or any other that the backbone has. From
        the coarsest up, the scores are enlarged to the next finer map and added to its scores, and in the end
        enlarged to the image (figure 3).
    upsampling: transposed, learned, started as bilinear; bilinear; nearest. Nothing after it could fill the holes
        that bed_of_nails and max_unpool leave.
    auxiliary: in training mode the answer is (logits, those of the auxiliary head).
    dropout: after fc6 and fc7, in place of the backbone's; without those, of the coarsest map.
    norm: of the auxiliary head; None is batch. The scores have none.
    activation: after fc6 and fc7, and of the auxiliary head; None is relu.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        stride: int = 8,
        upsampling: Literal["transposed", "bilinear", "nearest"] = "transposed",
        auxiliary: bool = False,
        dropout: float = 0.5,
        norm: Norm | None = None,
        activation: Activation | None = None,
    ):
        super().__init__()
        if upsampling not in _KINDS:
            raise ValueError(
                f"model.upsampling={upsampling}: FCN has no convolution after it to fill the holes; one of "
                f"{', '.join(_KINDS)}"
            )
        need_borders(backbone, "FCN")
        self.pools = isinstance(backbone, VGG)
        # Of several maps with one stride the deepest. VGG's maps are those before their pooling.
        finer = {s * (2 if self.pools else 1): i for i, s in enumerate(backbone.strides[:-1])}
        last = len(backbone.strides) - 1
        places = {s: i for s, i in finer.items() if s < backbone.strides[last]} | {
            backbone.strides[last]: last
        }
        if stride not in places:
            raise ValueError(
                f"model.stride={stride}: the maps of this backbone have strides {', '.join(map(str, places))}"
            )
        strides = sorted((s for s in places if s >= stride), reverse=True)
        self.places = [places[s] for s in strides]
        widths = [backbone.channels[i] for i in self.places]
        fc = getattr(backbone, "fc", None)
        hidden = (
            [layer for layer in fc if isinstance(layer, nn.Linear)] if isinstance(fc, FullyConnected) else []
        )
        self.fc: nn.Module = nn.Dropout(dropout)
        if hidden:
            dilation = _FC_STRIDE // strides[0]
            self.fc = _convolutional(hidden, widths[0], dilation, activation or "relu", dropout)
            widths[0] = hidden[-1].out_features
        self.backbone = dense(backbone)
        self.scores = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in widths)
        self.ups = nn.ModuleList()
        for factor in (coarse // fine for coarse, fine in pairwise([*strides, 1])):
            self.ups.append(
                Upsample(
                    upsampling, num_classes, factor=factor, kernel=2 * factor, bias=False, start="bilinear"
                )
            )
        self.auxiliary: Auxiliary | None = None
        if auxiliary:
            self.auxiliary = Auxiliary(
                backbone=backbone, num_classes=num_classes, norm=norm, activation=activation
            )

    def forward(self, images: Tensor) -> Any:
        height, width = images.shape[-2:]
        images = pad_to_multiple(images, max(self.backbone.strides))
        size = (images.shape[-2], images.shape[-1])
        maps = self.backbone(images)
        first, *finer = self.places
        logits = self.scores[0](self.fc(maps[first]))
        for place, score, up in zip(finer, self.scores[1:], self.ups[:-1], strict=True):
            x = F.max_pool2d(maps[place], 2) if self.pools else maps[place]
            logits = up(logits, tuple(x.shape[-2:])) + score(x)
        logits = self.ups[-1](logits, size)[..., :height, :width]
        if self.auxiliary is None or not self.training:
            return logits
        return logits, self.auxiliary(maps, size)[..., :height, :width]


@torch.no_grad()
def _convolutional(
    layers: list[nn.Linear], channels: int, dilation: int, activation: Activation, dropout: float
) -> nn.Sequential:
    """Fully connected layers as convolutions with the same weights: the first as large as the grid of cells that it
    saw (section 3.1), `dilation` apart, the others 1x1.
    """
    found: list[nn.Module] = []
    for layer in layers:
        grid = round((layer.in_features / channels) ** 0.5)
        # On meta: 100 million weights are not drawn only to be replaced.
        conv = nn.Conv2d(channels, layer.out_features, grid, dilation=dilation, device="meta")
        conv.weight = nn.Parameter(layer.weight.view(conv.weight.shape))
        conv.bias = layer.bias
        channels = layer.out_features
        before, after = (grid - 1) // 2 * dilation, grid // 2 * dilation  # AlexNet's grid is even
        found += [nn.ZeroPad2d((before, after, before, after))] if grid > 1 else []
        found += [conv, make_activation(activation, inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*found)
