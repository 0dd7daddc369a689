"""A second, simple head on an inner map while a segmenter trains (Zhao et al. 2017, Pyramid scene parsing network,
https://arxiv.org/abs/1612.01105, section 3.3), for any of them.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from paribus.models.activation import Activation
from paribus.models.backbones import Backbone
from paribus.models.layers import ConvNormAct
from paribus.models.normalization import Norm


class Auxiliary(nn.Module):
    """maps of the backbone, size (H, W) -> logits [B, num_classes, H, W], from the last map but one: that of
    stride 16, and of 8 in a backbone dilated to it, as in the paper and in torchvision.

    A 3x3 convolution to a quarter of the channels, norm, activation, dropout, a 1x1 convolution, and bilinear
    enlarging, which repeats exactly on CUDA where torch is told to (use_deterministic_algorithms).

    norm, activation: None is batch, relu.

    Raises ValueError for a backbone of a single map.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        dropout: float = 0.1,
        norm: Norm | None = None,
        activation: Activation | None = None,
    ):
        super().__init__()
        if len(backbone.channels) < 2:
            raise ValueError(
                f"model.auxiliary: {type(backbone).__name__} has a single map, and the auxiliary head needs one "
                "before the last: model.auxiliary=false"
            )
        channels = backbone.channels[-2]
        width = max(1, channels // 4)
        self.conv = ConvNormAct(channels, width, norm=norm or "batch", activation=activation or "relu")
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        logits = self.head(self.dropout(self.conv(maps[-2])))
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
