"""DenseNet (Huang et al. 2017, Densely connected convolutional networks, https://arxiv.org/abs/1608.06993), for
ImageNet and for CIFAR.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import finish, maps
from paribus.models.dilation import dilate
from paribus.models.initialization import initialize
from paribus.models.normalization import Norm

_BLOCKS = {121: [6, 12, 24, 16], 161: [6, 12, 36, 24], 169: [6, 12, 32, 32], 201: [6, 12, 48, 32]}


class DenseNet(nn.Module):
    """Maps of strides 2 (the stem's), 4, 8, 16, 32; of the CIFAR family 1, 2, 4. Each is what a dense block has
    gathered, not yet normalized; the last has its norm and activation, and is what the paper's classifier pools.

    Every convolution has its norm and activation before it.

    family, depth: imagenet has 121, 161, 169, 201; cifar three blocks of (depth - 4) / 3 convolutions, such as 40
        and 100 (section 3 and table 2).
    growth: channels that each layer adds, the paper's k. None is the family's: 32 (161 layers: 48), for cifar 12.
    bottleneck: a 1x1 convolution to 4 * growth channels before each 3x3 (the paper's B); imagenet's always have.
    compression: the share of the channels that a transition keeps; below 1 the paper's C.
    output_stride: the coarsest at most; the stages beyond are dilated instead, see dilate().
    dropout: after each convolution but the stem's.
    norm, activation, init, pretrained, weights: see finish(). pretrained takes timm's weights.
    """

    def __init__(
        self,
        *,
        depth: int,
        family: Literal["imagenet", "cifar"] = "imagenet",
        growth: int | None = None,
        bottleneck: bool = True,
        compression: float = 0.5,
        output_stride: int = 32,
        dropout: float = 0.0,
        norm: Norm = "batch",
        activation: Activation = "relu",
        init: str = "default",
        pretrained: bool = False,
        weights: str | None = None,
        in_channels: int = 3,
    ):
        super().__init__()
        blocks = _blocks(depth, family, bottleneck)
        growth = _growth(depth, family) if growth is None else growth
        if growth < 1:
            raise ValueError(f"backbone.growth={growth}: 1 or more")
        if not 0 < compression <= 1:
            raise ValueError(f"backbone.compression={compression}: above 0, to 1")
        stages: list[nn.Module] = []
        self.channels, self.strides = [], []
        if family == "imagenet":
            channels, stride = 2 * growth, 2
            conv = nn.Conv2d(in_channels, channels, 7, 2, padding=3, bias=False)
            stages.append(nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)))
            self.channels.append(channels)
            self.strides.append(stride)
            layers: list[nn.Module] = [nn.MaxPool2d(3, 2, padding=1)]
            stride = 4
        else:
            channels, stride = 2 * growth if bottleneck and compression < 1 else 16, 1
            layers = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)]
        for i, count in enumerate(blocks):
            if i:
                kept = max(1, int(channels * compression))
                layers = [nn.Sequential(*_norm_conv(channels, kept, 1, dropout), nn.AvgPool2d(2))]
                channels, stride = kept, 2 * stride
            for _ in range(count):
                layers.append(DenseLayer(channels, growth, bottleneck=bottleneck, dropout=dropout))
                channels += growth
            if i == len(blocks) - 1:
                layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            stages.append(nn.Sequential(*layers))
            self.channels.append(channels)
            self.strides.append(stride)
        self.stages = nn.ModuleList(stages)
        initialize(self, "he")
        finish(
            self,
            norm=norm,
            activation=activation,
            init=init,
            weights=weights,
            published=_published(depth, family) if pretrained else None,
            calibrated=(in_channels, (64, 64)),
        )
        dilate(self, output_stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        return maps(self.stages, x)


class DenseLayer(nn.Module):
    """[B, in_channels, H, W] -> [B, in_channels + growth, H, W]: its input, and what it makes of it."""

    def __init__(self, in_channels: int, growth: int, *, bottleneck: bool, dropout: float):
        super().__init__()
        width = 4 * growth if bottleneck else in_channels
        first = _norm_conv(in_channels, width, 1, dropout) if bottleneck else []
        self.layers = nn.Sequential(*first, *_norm_conv(width, growth, 3, dropout))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], dim=1)


def _norm_conv(in_channels: int, out_channels: int, kernel: int, dropout: float) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    drop = [nn.Dropout(dropout)] if dropout else []
    return [nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), conv, *drop]


def _blocks(depth: int, family: str, bottleneck: bool) -> list[int]:
    """The layers of each block."""
    if family == "imagenet":
        if depth not in _BLOCKS:
            raise ValueError(
                f"backbone.depth={depth}: one of {', '.join(map(str, _BLOCKS))}, or 3n + 4 with "
                "backbone=cifar_densenet"
            )
        if not bottleneck:
            raise ValueError(
                "backbone.bottleneck=false: the depths of family=imagenet count bottlenecks; without, take "
                "backbone=cifar_densenet"
            )
        return _BLOCKS[depth]
    step, form = (6, "6n + 4, such as 40, 100, 250") if bottleneck else (3, "3n + 4, such as 40, 100")
    if depth < 4 + step or (depth - 4) % step:
        raise ValueError(f"backbone.depth={depth}: with bottleneck={str(bottleneck).lower()} {form}")
    return [(depth - 4) // step] * 3


def _growth(depth: int, family: str) -> int:
    if family == "cifar":
        return 12
    return 48 if depth == 161 else 32


def _published(depth: int, family: str) -> str:
    if family != "imagenet":
        raise ValueError(
            "backbone.pretrained: nobody publishes weights of this network; set backbone.pretrained=false "
            "backbone.weights=<file>"
        )
    return f"timm/densenet{depth}"
