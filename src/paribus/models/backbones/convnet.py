"""A plain convolutional network in VGG's manner (Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556)."""

from typing import Literal

import torch
from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import finish, maps
from paribus.models.dilation import dilate
from paribus.models.layers import ConvNormAct
from paribus.models.normalization import UNNORMALIZED, Norm

_POOLINGS: dict[str, type[nn.MaxPool2d] | type[nn.AvgPool2d] | None] = {
    "stride": None,
    "max": nn.MaxPool2d,
    "average": nn.AvgPool2d,
}


class ConvNet(nn.Module):
    """Stages of `blocks` convolutions without shortcuts; each stage halves the map: strides 2, 4, 8, ...

    Small images, a CPU, demonstrations, and questions about what a plain network needs.

    `embed` averages each quarter of the last map and joins them: instance norm leaves no map's mean, so that
    global pooling would see next to nothing.

    channels: of each stage.
    kernel: of every convolution, 3, 5 or 7.
    stacked: two 3x3 convolutions, each with norm and activation, for each of 5x5, three for each of 7x7, which
        see the same pixels (section 2.3 of the paper). The last of them strides.
    downsample: stride, in the first convolution of a stage; max or average, 2x2 pooling after the last, whose
        maps are as large. Then every convolution sees a map twice as large each way.
    output_stride: the coarsest at most, None whatever it is; the stages beyond are dilated instead, see dilate().
    dropout: of single values, after each stage (Srivastava et al. 2014).
    norm, activation, init, weights: see finish(). With norm=none the convolutions have biases.
    """

    def __init__(
        self,
        *,
        channels: list[int],
        blocks: int = 2,
        kernel: Literal[3, 5, 7] = 3,
        stacked: bool = False,
        downsample: Literal["stride", "max", "average"] = "stride",
        output_stride: int | None = None,
        dropout: float = 0.0,
        norm: Norm = "batch",
        activation: Activation = "relu",
        init: str = "default",
        weights: str | None = None,
        in_channels: int = 3,
    ):
        super().__init__()
        if not channels or blocks < 1:
            raise ValueError(
                f"backbone.channels={channels}, blocks={blocks}: a stage and a convolution at least"
            )
        if kernel not in (3, 5, 7):
            raise ValueError(f"backbone.kernel={kernel}: 3, 5 or 7")
        if downsample not in _POOLINGS:
            raise ValueError(f"backbone.downsample={downsample}: one of {', '.join(_POOLINGS)}")
        pooling = _POOLINGS[downsample]
        plain = norm in UNNORMALIZED
        kernels = [3] * (kernel // 2) if stacked else [kernel]
        self.channels = list(channels)
        self.strides = [2 ** (i + 1) for i in range(len(channels))]
        self.stages = nn.ModuleList()
        for width in channels:
            layers: list[nn.Module] = []
            for i, size in enumerate(kernels * blocks):
                stride = 2 if i == len(kernels) - 1 and not pooling else 1
                layers.append(
                    ConvNormAct(
                        in_channels, width, kernel=size, stride=stride, norm=norm if plain else "batch"
                    )
                )
                in_channels = width
            # With ceil_mode a map of an odd size has the cells that a stride leaves.
            layers += [pooling(2, ceil_mode=True)] if pooling else []
            layers += [nn.Dropout(dropout)] if dropout else []
            self.stages.append(nn.Sequential(*layers))
        self.embedding = 4 * channels[-1]
        finish(self, norm=None if plain else norm, activation=activation, init=init, weights=weights)
        if output_stride:
            dilate(self, output_stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        return maps(self.stages, x)

    def embed(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, embedding]; ValueError for images whose last map is less than 2 x 2 cells."""
        last = self.forward(x)[-1]
        if min(last.shape[-2:]) < 2:
            least = self.strides[-1] + 1
            raise ValueError(
                f"ConvNet takes images of {least} pixels or more (`data.size`), not {tuple(x.shape[-2:])}"
            )
        quarters = [part for row in last.tensor_split(2, dim=2) for part in row.tensor_split(2, dim=3)]
        return torch.cat([quarter.mean(dim=(2, 3)) for quarter in quarters], dim=1)
