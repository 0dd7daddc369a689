"""GoogLeNet (Szegedy et al. 2015, Going deeper with convolutions, https://arxiv.org/abs/1409.4842), as of 2014 and
with batch norm.
"""

from typing import Literal, cast

import torch
from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import finish, maps
from paribus.models.dilation import dilate
from paribus.models.layers import ConvNormAct, Rescale, SqueezeExcite, global_average
from paribus.models.normalization import UNNORMALIZED, LocalResponseNorm, Norm

# Channels, table 1 of the paper: 1x1; 1x1 and then 3x3; 1x1 and then 5x5; 1x1 after the pooling.
_MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class GoogLeNet(nn.Module):
    """Maps of strides 2 (conv1), 4 (conv3), 8 (3b), 16 (4e), 32 (5b). `with_auxiliary` gives those of 4a and 4d
    too, where the paper has classifiers that help training.

    torchvision's has no norm but batch, and its "5x5" is 3x3.

    kernel: of the third branch, 5 in the paper, 3 in torchvision's and TensorFlow's.
    last_pool: of the pooling before 5a, 3 in the paper, 2 in torchvision's and TensorFlow's.
    se_reduction: of squeeze-and-excitation on every module's output (Hu et al. 2018, figure 2); None is without.
    rescale: takes images normalized by ImageNet's mean and deviation to those of 0.5 and 0.5, which
        torchvision's weights expect; so true with these, unless `data.mean` and `data.std` are 0.5.
    output_stride: the coarsest at most; the stages beyond are dilated instead, see dilate().
    dropout: of the averaged last map, which the classifier sees with its own head; no map is touched.
    norm: none and local_response are the network of 2014, whose convolutions have biases; local_response has
        that norm, with Caffe's constants, after pool1 and conv3 as in figure 3, and none elsewhere. The others
        have torchvision's eps of 0.001.
    activation, init, pretrained, weights: see finish(). pretrained takes torchvision's weights.
    """

    auxiliary_channels = [512, 528]

    def __init__(
        self,
        *,
        kernel: Literal[3, 5] = 3,
        last_pool: Literal[2, 3] = 2,
        se_reduction: int | None = None,
        rescale: bool = False,
        output_stride: int = 32,
        dropout: float = 0.4,
        norm: Norm = "batch",
        activation: Activation = "relu",
        init: str = "default",
        pretrained: bool = False,
        weights: str | None = None,
        in_channels: int = 3,
    ):
        super().__init__()
        if rescale and in_channels != 3:
            raise ValueError(
                f"backbone.rescale is of three channels, not {in_channels}: backbone.rescale=false"
            )
        built: Norm = "none" if norm in UNNORMALIZED else "batch"
        self.norm = norm
        self.channels, self.strides = [64, 192, 480, 832, 1024], [2, 4, 8, 16, 32]
        self.embedding = 1024

        def inception(channels: int, name: str) -> nn.Module:
            return Inception(channels, _MODULES[name], kernel=kernel, se_reduction=se_reduction, norm=built)

        def local() -> list[nn.Module]:
            return [LocalResponseNorm()] if norm == "local_response" else []

        def pool(size: int = 3) -> nn.Module:
            return nn.MaxPool2d(size, 2, ceil_mode=True)

        conv2 = ConvNormAct(64, 64, kernel=1, norm=built)
        conv3 = ConvNormAct(64, 192, norm=built)
        self.rescale = Rescale() if rescale else nn.Identity()
        self.stages = nn.ModuleList(
            [
                ConvNormAct(in_channels, 64, kernel=7, stride=2, norm=built),
                nn.Sequential(pool(), *local(), conv2, conv3, *local()),
                nn.Sequential(pool(), inception(192, "3a"), inception(256, "3b")),
                nn.Sequential(
                    pool(),
                    inception(480, "4a"),
                    inception(512, "4b"),
                    inception(512, "4c"),
                    inception(512, "4d"),
                    inception(528, "4e"),
                ),
                nn.Sequential(pool(last_pool), inception(832, "5a"), inception(832, "5b")),
            ]
        )
        self.dropout = nn.Dropout(dropout)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = 1e-3
        finish(
            self,
            norm=norm if built == "batch" else None,
            activation=activation,
            init=init,
            weights=weights,
            published="torchvision/googlenet" if pretrained else None,
        )
        dilate(self, output_stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        return maps(self.stages, self.rescale(x))

    def with_auxiliary(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The maps, and those inner ones that auxiliary classifiers see, of `auxiliary_channels`."""
        *first, fourth, fifth = self.stages
        found = maps(first, self.rescale(x))
        _, a, _, _, d, e = maps(cast(nn.Sequential, fourth), found[-1])
        return [*found, e, fifth(e)], [a, d]

    def pooled(self, x: Tensor) -> Tensor:
        """The last map [B, C, H, W] -> [B, embedding]."""
        return self.dropout(global_average(x))

    def embed(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, embedding]."""
        return self.pooled(self.forward(x)[-1])


class Inception(nn.Module):
    """Four views of one map, joined: figure 2b. [B, in_channels, H, W] -> [B, sum of their channels, H, W]."""

    def __init__(
        self,
        in_channels: int,
        channels: tuple[int, int, int, int, int, int],
        *,
        kernel: int,
        se_reduction: int | None,
        norm: Norm,
    ):
        super().__init__()
        one, reduce3, three, reduce5, five, pooled = channels
        self.branches = nn.ModuleList(
            [
                ConvNormAct(in_channels, one, kernel=1, norm=norm),
                nn.Sequential(
                    ConvNormAct(in_channels, reduce3, kernel=1, norm=norm),
                    ConvNormAct(reduce3, three, norm=norm),
                ),
                nn.Sequential(
                    ConvNormAct(in_channels, reduce5, kernel=1, norm=norm),
                    ConvNormAct(reduce5, five, kernel=kernel, norm=norm),
                ),
                nn.Sequential(
                    nn.MaxPool2d(3, 1, padding=1), ConvNormAct(in_channels, pooled, kernel=1, norm=norm)
                ),
            ]
        )
        width = one + three + five + pooled
        self.excite = SqueezeExcite(width, se_reduction) if se_reduction else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.excite(torch.cat([branch(x) for branch in self.branches], dim=1))
