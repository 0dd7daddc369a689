"""A plain convolutional network in VGG's manner (Simonyan & Zisserman 2015), strided where VGG pools."""

import torch
from torch import Tensor, nn

from paribus.models.layers import ConvNormAct
from paribus.models.normalization import Norm


class ConvNet(nn.Module):
    """Stages of `blocks` 3x3 convolutions without shortcuts; each stage halves the map: strides 2, 4, 8, ...

    Small images, a CPU, demonstrations, and questions about what a plain network needs.

    `embed` averages each quarter of the last map and joins them: instance norm leaves no map's mean, so that
    global pooling would see next to nothing.

    channels: of each stage.
    """

    def __init__(self, *, channels: list[int], norm: Norm = "batch", in_channels: int = 3, blocks: int = 2):
        super().__init__()
        if not channels or blocks < 1:
            raise ValueError(f"ConvNet needs a stage and a block, not channels={channels}, blocks={blocks}")
        self.channels = list(channels)
        self.strides = [2 ** (i + 1) for i in range(len(channels))]
        self.stages = nn.ModuleList()
        for width in channels:
            layers = [ConvNormAct(in_channels, width, stride=2, norm=norm)]
            layers += [ConvNormAct(width, width, norm=norm) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(*layers))
            in_channels = width
        self.embedding = 4 * channels[-1]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

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
