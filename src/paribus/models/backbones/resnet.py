"""ResNet (He et al. 2016, https://arxiv.org/abs/1512.03385) with every part of it a choice, and what grew out of
it: ResNeXt (Xie et al. 2017, https://arxiv.org/abs/1611.05431), SE-ResNet (Hu et al. 2018,
https://arxiv.org/abs/1709.01507).
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from paribus.models.activation import Activation
from paribus.models.backbones import finish, maps
from paribus.models.layers import SqueezeExcite
from paribus.models.normalization import Norm

Shortcut = Literal["none", "A", "B", "C"]

_BLOCKS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}


class ResNet(nn.Module):
    """Maps of strides 2 (the stem's), 4, 8, 16, 32; with the stem of small images 1, 2, 4 and so on.

    family, depth: imagenet has 18, 34, 50, 101, 152 (from 50 on bottlenecks); cifar has 6n + 2, three stages of
        n basic blocks of 16, 32, 64 channels (section 4.2 of the paper).
    shortcut: none, the plain network; A, the input itself, padded with zero channels where it grows; B, a
        projection where it grows; C, a projection always (section 4.1).
    stride_at: the convolution of a bottleneck that strides, "1x1" in the paper, "3x3" in every library since.
    stem: imagenet, 7x7 and then a pooling; cifar, one 3x3, for small images; None is the family's.
    cardinality, base_width: groups of a bottleneck's 3x3, and channels a group at stage 1; ResNeXt-50 32x4d has
        32 and 4.
    se_reduction: of squeeze-and-excitation in every block; None is without.
    output_stride: coarsest stride at most; the stages beyond are dilated instead, as in timm.
    dropout: between the convolutions of a block (Zagoruyko & Komodakis 2016, Wide Residual Networks).
    drop_path: the last block's rate of stochastic depth, those before it less in proportion (Huang et al. 2016).
    norm, activation, init, pretrained, weights: see finish(). pretrained takes timm's weights.
    """

    def __init__(
        self,
        *,
        depth: int,
        family: Literal["imagenet", "cifar"] = "imagenet",
        shortcut: Shortcut = "B",
        stride_at: Literal["1x1", "3x3"] = "3x3",
        stem: Literal["imagenet", "cifar"] | None = None,
        cardinality: int = 1,
        base_width: int = 64,
        se_reduction: int | None = None,
        output_stride: int = 32,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        norm: Norm = "batch",
        activation: Activation = "relu",
        init: str = "default",
        pretrained: bool = False,
        weights: str | None = None,
        in_channels: int = 3,
    ):
        super().__init__()
        bottleneck = family == "imagenet" and depth >= 50
        if family == "imagenet":
            if depth not in _BLOCKS:
                raise ValueError(
                    f"backbone.depth={depth}: one of {', '.join(map(str, _BLOCKS))}, or 6n + 2 with "
                    "backbone=cifar_resnet"
                )
            blocks, widths = _BLOCKS[depth], [64, 128, 256, 512]
        else:
            if depth < 8 or (depth - 2) % 6:
                raise ValueError(f"backbone.depth={depth}: 6n + 2, such as 20, 32, 44, 56, 110")
            blocks, widths = [(depth - 2) // 6] * 3, [16, 32, 64]
        if not bottleneck and (cardinality, base_width, stride_at) != (1, 64, "3x3"):
            raise ValueError(
                "backbone.cardinality, base_width and stride_at are of bottlenecks: take backbone.depth=50 or more"
            )
        if shortcut == "none" and drop_path:
            raise ValueError(
                "backbone.drop_path drops blocks, and a plain network (shortcut=none) needs each: 0"
            )

        stem = stem or family
        channels, stride = widths[0], 4 if stem == "imagenet" else 1
        kernel, step = (7, 2) if stem == "imagenet" else (3, 1)
        layers: list[nn.Module] = [*_conv_norm(in_channels, channels, kernel, step), nn.ReLU(inplace=True)]
        stages: list[nn.Module] = []
        self.channels, self.strides = [], []
        if stem == "imagenet":
            stages, layers = [nn.Sequential(*layers)], [nn.MaxPool2d(3, 2, padding=1)]
            self.channels, self.strides = [channels], [2]
        dilation, done = 1, 0
        for i, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            step, first_dilation = (1 if i == 0 else 2), dilation
            if stride * step > output_stride:
                dilation, step = dilation * step, 1
            stride *= step
            for j in range(count):
                block = Block(
                    channels,
                    width,
                    bottleneck=bottleneck,
                    stride=step if j == 0 else 1,
                    dilation=(first_dilation if j == 0 else dilation, dilation),
                    shortcut=shortcut,
                    stride_at=stride_at,
                    cardinality=cardinality,
                    inner=int(width * base_width / 64) * cardinality,
                    se_reduction=se_reduction,
                    dropout=dropout,
                    drop_path=drop_path * done / (sum(blocks) - 1),
                )
                layers.append(block)
                channels, done = block.channels, done + 1
            stages.append(nn.Sequential(*layers))
            self.channels.append(channels)
            self.strides.append(stride)
            layers = []
        if self.strides[-1] > output_stride:
            raise ValueError(
                f"backbone.output_stride={output_stride}: at least {4 if stem == 'imagenet' else 1}"
            )
        self.stages = nn.ModuleList(stages)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        finish(
            self,
            norm=norm,
            activation=activation,
            init=init,
            weights=weights,
            published=_published(depth, family, cardinality, base_width, se_reduction)
            if pretrained
            else None,
            calibrated=(in_channels, (64, 64)),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return maps(self.stages, x)


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 to four times the width (bottleneck), and what goes around them."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        bottleneck: bool,
        stride: int,
        dilation: tuple[int, int],
        shortcut: Shortcut,
        stride_at: Literal["1x1", "3x3"],
        cardinality: int,
        inner: int,
        se_reduction: int | None,
        dropout: float,
        drop_path: float,
    ):
        super().__init__()
        relu, drop = nn.ReLU(inplace=True), [nn.Dropout(dropout)] if dropout else []
        if bottleneck:
            self.channels = 4 * width
            strides = (stride, 1) if stride_at == "1x1" else (1, stride)
            layers: list[nn.Module] = [
                *_conv_norm(in_channels, inner, 1, strides[0]),
                nn.ReLU(inplace=True),
                *_conv_norm(inner, inner, 3, strides[1], dilation[0], cardinality),
                relu,
                *drop,
                *_conv_norm(inner, self.channels, 1),
            ]
        else:
            self.channels = width
            layers = [
                *_conv_norm(in_channels, width, 3, stride, dilation[0]),
                relu,
                *drop,
                *_conv_norm(width, width, 3, 1, dilation[1]),
            ]
        if se_reduction:
            layers.append(SqueezeExcite(self.channels, se_reduction))
        self.residual = nn.Sequential(*layers)
        self.drop_path = StochasticDepth(drop_path, "row") if drop_path else nn.Identity()
        grows = stride > 1 or in_channels != self.channels
        self.shortcut: nn.Module | None = None
        if shortcut == "C" or (shortcut == "B" and grows):
            self.shortcut = nn.Sequential(*_conv_norm(in_channels, self.channels, 1, stride))
        elif shortcut != "none":
            self.shortcut = ZeroPad(stride, self.channels - in_channels) if grows else nn.Identity()
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        found = self.drop_path(self.residual(x))
        return self.activation(found if self.shortcut is None else found + self.shortcut(x))


class ZeroPad(nn.Module):
    """Shortcut A: every `stride`-th cell, and `more` channels of zeros."""

    def __init__(self, stride: int, more: int):
        super().__init__()
        self.stride, self.more = stride, more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


def _conv_norm(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


def _published(depth: int, family: str, cardinality: int, base_width: int, se_reduction: int | None) -> str:
    names = {(1, 64): f"resnet{depth}", (32, 4): f"resnext{depth}_32x4d", (32, 8): f"resnext{depth}_32x8d"}
    name = names.get((cardinality, base_width)) if family == "imagenet" else None
    if name is None:
        raise ValueError(
            "backbone.pretrained: nobody publishes weights of this network; set backbone.pretrained=false "
            "backbone.weights=<file>"
        )
    return f"timm/{'se' if se_reduction else ''}{name}"
