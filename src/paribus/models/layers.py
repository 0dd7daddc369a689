"""Blocks that several models share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paribus.models.activation import Activation, make_activation
from paribus.models.normalization import UNNORMALIZED, LocalResponseNorm, Norm, make_norm


class ConvNormAct(nn.Sequential):
    """Convolution that keeps the size (at stride 1), norm, activation; initialized for ReLU (He et al. 2015).

    padding: None is that of "same". bias: of the convolution; None is only where no norm brings its own, with
    none and with local_response.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        bias: bool | None = None,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ):
        padding = kernel // 2 if padding is None else padding
        bias = norm in UNNORMALIZED if bias is None else bias
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias)
        nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
        layers: list[nn.Module] = [conv]
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        if norm == "local_response":
            layers.append(LocalResponseNorm())
        elif norm != "none":
            layers.append(make_norm(norm, out_channels))
        super().__init__(*layers, make_activation(activation, inplace=True))


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate that all channels' means decide (Hu et al. 2018, Squeeze-and-Excitation
    Networks, section 3): [B, C, H, W] -> the same.

    torchvision's SqueezeExcitation pools adaptively, whose backward is not deterministic on CUDA.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(
                f"backbone.se_reduction={reduction}: from 1 to the {channels} channels it divides"
            )
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.activation = nn.ReLU(inplace=True)
        self.excite = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(self.activation(self.squeeze(x.mean(dim=(2, 3), keepdim=True))))
        return x * gate.sigmoid()


class FullyConnected(nn.Sequential):
    """[B, C, H, W] -> [B, hidden[-1]]: the map averaged to grid x grid cells and flattened, then linear layers,
    each with activation and dropout, as fc6 and fc7 of AlexNet (Krizhevsky et al. 2012) and VGG.
    """

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int],
        *,
        grid: int = 7,
        activation: Activation = "relu",
        dropout: float = 0.0,
    ):
        layers: list[nn.Module] = [Grid(grid), nn.Flatten()]
        width = channels * grid * grid
        for size in hidden:
            linear = nn.Linear(width, size)
            nn.init.kaiming_normal_(linear.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            layers += [linear, make_activation(activation, inplace=True), nn.Dropout(dropout)]
            width = size
        super().__init__(*layers)
        self.width = width


class Grid(nn.AdaptiveAvgPool2d):
    """Averages a map to grid x grid cells; one that has them already passes, and so, on CUDA, repeats exactly."""

    def __init__(self, grid: int):
        super().__init__(grid)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) == (self.output_size, self.output_size):
            return x
        return global_average(x)[..., None, None] if self.output_size == 1 else super().forward(x)


class Rescale(nn.Module):
    """From pixels less ImageNet's mean, by its deviation, to pixels less 0.5, by 0.5. Into the first convolution
    it cannot be folded: the border that this pads with zeros is grey after, and was the mean before.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        scale, shift = [s / 0.5 for s in std], [(m - 0.5) / 0.5 for m in mean]
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pads [..., H, W] with zeros, at the bottom and at the right, until both are multiples of `multiple`."""
    height, width = x.shape[-2:]
    if height % multiple == 0 and width % multiple == 0:
        return x
    return F.pad(x, (0, -width % multiple, 0, -height % multiple))


def global_average(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C]. As a mean: adaptive pooling's backward is not deterministic on CUDA."""
    return x.mean(dim=(2, 3))
