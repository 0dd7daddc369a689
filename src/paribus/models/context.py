"""What surrounds each cell, at several scales: pyramids of dilated convolutions and of poolings."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from paribus.models.activation import Activation
from paribus.models.layers import ConvNormAct
from paribus.models.normalization import Norm


class ASPP(nn.Module):
    """[B, in_channels, H, W] -> [B, channels, H, W]: atrous spatial pyramid pooling (Chen et al. 2017,
    https://arxiv.org/abs/1706.05587, section 3.3). A 1x1 convolution, a 3x3 for each of `rates`, and the mean of
    the whole map through a 1x1, side by side; joined, and projected by a 1x1.

    rates: the dilation of each 3x3.
    image_pooling: false is without the mean, as at first (Chen et al. 2018, DeepLab, section 3.2).
    separable: see atrous().
    dropout: of what comes out.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        rates: list[int],
        image_pooling: bool = True,
        separable: bool = False,
        dropout: float = 0.0,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ):
        super().__init__()
        if not rates or min(rates) < 1:
            raise ValueError(f"model.rates={rates}: one or more, each 1 or more; null: by the output stride")
        chosen: dict[str, Any] = {"norm": norm, "activation": activation}
        self.branches = nn.ModuleList([ConvNormAct(in_channels, channels, kernel=1, **chosen)])
        for rate in rates:
            self.branches.append(atrous(in_channels, channels, rate=rate, separable=separable, **chosen))
        if image_pooling:
            self.branches.append(Pooled(in_channels, channels, bins=1, **chosen))
        self.project = ConvNormAct(channels * len(self.branches), channels, kernel=1, **chosen)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.project(torch.cat([branch(x) for branch in self.branches], dim=1)))


class SPP(nn.Module):
    """[B, in_channels, H, W] -> [B, channels, H, W]: pyramid pooling (Zhao et al. 2017, Pyramid scene parsing
    network, https://arxiv.org/abs/1612.01105, section 3.2). The means of bins x bins parts of the map, for each of
    `bins`, through a 1x1 to in_channels / len(bins), enlarged and joined to the map, and projected by a 3x3.

    separable: of the 3x3, see atrous().
    dropout: of what comes out; 0.1 in the authors' code.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        bins: list[int],
        separable: bool = False,
        dropout: float = 0.0,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ):
        super().__init__()
        if not bins or min(bins) < 1:
            raise ValueError(f"model.bins={bins}: one or more, each 1 or more; in the paper [1, 2, 3, 6]")
        chosen: dict[str, Any] = {"norm": norm, "activation": activation}
        width = max(1, in_channels // len(bins))
        self.branches = nn.ModuleList(Pooled(in_channels, width, bins=n, **chosen) for n in bins)
        self.project = atrous(in_channels + width * len(bins), channels, separable=separable, **chosen)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.project(torch.cat([x, *(branch(x) for branch in self.branches)], dim=1)))


class Pooled(nn.Module):
    """[B, in_channels, H, W] -> [B, channels, H, W]: bins x bins means, a 1x1 convolution, norm and activation,
    enlarged again bilinearly, which of a single cell is a copy.

    Batch statistics of one value do not exist: a single cell of a single image is normalized by the running
    statistics while it trains, too, which it leaves alone; so the branch learns its weight and bias, and
    evaluation does what training did. Instance norm, which would make zeros of single cells, is left out there.
    """

    def __init__(self, in_channels: int, channels: int, *, bins: int, norm: Norm, activation: Activation):
        super().__init__()
        self.bins = bins
        alone = bins == 1 and norm == "instance"
        self.layers = ConvNormAct(
            in_channels, channels, kernel=1, norm="none" if alone else norm, activation=activation
        )

    def forward(self, x: Tensor) -> Tensor:
        found = means(x, self.bins)
        for layer in self.layers:
            found = _running(layer, found) if _lacks_statistics(layer, found) else layer(found)
        if self.bins == 1:
            return found.expand(-1, -1, *x.shape[-2:])
        return F.interpolate(found, size=x.shape[-2:], mode="bilinear", align_corners=False)


def atrous(
    in_channels: int,
    channels: int,
    *,
    rate: int = 1,
    separable: bool = False,
    norm: Norm = "batch",
    activation: Activation = "relu",
) -> nn.Sequential:
    """A 3x3 convolution whose cells are `rate` apart, norm, activation; if separable, one of each channel alone and
    then a 1x1 of all (Chen et al. 2018, https://arxiv.org/abs/1802.02611, figure 3), nothing between them: the
    authors' code has a norm and an activation there, segmentation_models.pytorch has not.
    """
    if not separable:
        block = ConvNormAct(in_channels, channels, padding=rate, norm=norm, activation=activation)
        convolution: Any = block[0]
        convolution.dilation = (rate, rate)
        return block
    depthwise = nn.Conv2d(
        in_channels, in_channels, 3, padding=rate, dilation=rate, groups=in_channels, bias=False
    )
    nn.init.kaiming_normal_(depthwise.weight, nonlinearity="linear")
    return nn.Sequential(
        depthwise, ConvNormAct(in_channels, channels, kernel=1, norm=norm, activation=activation)
    )


def means(x: Tensor, bins: int) -> Tensor:
    """[B, C, H, W] -> [B, C, bins, bins]: adaptive average pooling, whose backward on CUDA is not deterministic."""
    for axis in (2, 3):
        size = x.shape[axis]
        places = [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]
        x = torch.cat([x.narrow(axis, a, b - a).mean(axis, keepdim=True) for a, b in places], dim=axis)
    return x


def _lacks_statistics(layer: nn.Module, x: Tensor) -> bool:
    """Whether it is a batch norm that would have to compute them, of one value a channel."""
    if not isinstance(layer, nn.modules.batchnorm._BatchNorm) or not layer.training or x.numel() > x.shape[1]:
        return False
    shared = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    return not (shared and isinstance(layer, nn.SyncBatchNorm))


def _running(layer: Any, x: Tensor) -> Tensor:
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
