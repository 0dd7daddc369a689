"""AlexNet (Krizhevsky et al. 2012, ImageNet classification with deep convolutional neural networks), and in a
single column as in torchvision (Krizhevsky 2014, https://arxiv.org/abs/1404.5997).
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import finish, maps
from paribus.models.dilation import dilate
from paribus.models.layers import ConvNormAct, FullyConnected
from paribus.models.normalization import UNNORMALIZED, LocalResponseNorm, Norm

_WIDTHS = {2: [96, 256, 384, 384, 256], 1: [64, 192, 384, 256, 256]}
_KERNELS = [11, 5, 3, 3, 3]
_REMOVABLE = ("conv3", "conv4", "fc6", "fc7")


class AlexNet(nn.Module):
    """Maps of strides 4 (conv1), 8 (conv2), 16 (conv5), 32 (pooled); `embed` goes on to fc7. Pooling is 3x3 of
    stride 2, overlapping and unpadded (section 3.4): maps are one to three cells smaller than their strides say.

    columns: 2, the network of 2012, its conv2, conv4 and conv5 in two groups, made for 227 x 227, at which
        nothing is padded before conv2; 1, torchvision's, for 224 x 224. Both take other sizes too: fc6 sees
        6 x 6 cells, to which larger maps are averaged.
    remove: layers left out, of conv3, conv4, fc6, fc7 (Zeiler & Fergus 2014, Visualizing and understanding
        convolutional networks, table 3). fc6 and fc7 are as wide, so that either makes the same network.
    output_stride: the coarsest at most; the stages beyond are dilated instead, see dilate().
    dropout: after fc6 and fc7.
    norm: None is the network's own. local_response, that of two columns, follows conv1 and conv2 and their
        activations (section 3.3); none is that of a single column. Any other is between each convolution and
        its activation.
    activation, init, pretrained, weights: see finish(). The default initialization of two columns is the
        paper's (section 5), that of a single column He's. pretrained takes torchvision's weights of one column.
    """

    def __init__(
        self,
        *,
        columns: Literal[1, 2] = 2,
        remove: Sequence[Literal["conv3", "conv4", "fc6", "fc7"]] = (),
        output_stride: int = 32,
        dropout: float = 0.5,
        norm: Norm | None = None,
        activation: Activation = "relu",
        init: str = "default",
        pretrained: bool = False,
        weights: str | None = None,
        in_channels: int = 3,
    ):
        super().__init__()
        if columns not in _WIDTHS:
            raise ValueError(f"backbone.columns={columns}: 2, the network of 2012, or 1")
        if unknown := [name for name in remove if name not in _REMOVABLE]:
            raise ValueError(
                f"backbone.remove={list(remove)}: {unknown[0]} stays; of {', '.join(_REMOVABLE)}"
            )
        norm = norm or ("local_response" if columns == 2 else "none")
        plain = norm in UNNORMALIZED
        if pretrained and (columns == 2 or norm != "none" or remove):
            raise ValueError(
                "backbone.pretrained: torchvision's weights are of a whole single column: backbone.columns=1 "
                "backbone.norm=none backbone.remove=[]"
            )
        padding = 0 if columns == 2 else 2
        self.least = 67 - 2 * padding  # the last pooling sees 3 x 3 cells
        stages: list[list[nn.Module]] = [[nn.MaxPool2d(3, 2)] if i else [] for i in range(4)]
        channels = in_channels
        for i, (width, kernel) in enumerate(zip(_WIDTHS[columns], _KERNELS, strict=True), start=1):
            if f"conv{i}" in remove:
                continue
            conv = ConvNormAct(
                channels,
                width,
                kernel=kernel,
                stride=4 if i == 1 else 1,
                padding=padding if i == 1 else None,
                groups=2 if columns == 2 and i in (2, 4, 5) else 1,
                norm="none" if plain else "batch",
            )
            if columns == 2:
                _initialize(conv[0], bias=float(i in (2, 4, 5)))
            stages[min(i, 3) - 1].append(conv)
            if norm == "local_response" and i <= 2:
                stages[i - 1].append(LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2.0))
            channels = width
        self.stages = nn.ModuleList(nn.Sequential(*layers) for layers in stages)
        self.channels = [*_WIDTHS[columns][:2], channels, channels]
        self.strides = [4, 8, 16, 32]
        hidden = [4096 for name in ("fc6", "fc7") if name not in remove]
        self.fc = FullyConnected(channels, hidden, grid=6, dropout=dropout)
        self.embedding = self.fc.width
        if columns == 2:
            for layer in self.fc:
                _initialize(layer, bias=1.0)
        finish(
            self,
            norm=None if plain else norm,
            activation=activation,
            init=init,
            weights=weights,
            published="torchvision/alexnet" if pretrained else None,
        )
        dilate(self, output_stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Raises ValueError for images too small for the last pooling."""
        if min(x.shape[-2:]) < self.least:
            raise ValueError(
                f"AlexNet takes images of {self.least} pixels or more (`data.size`), not {tuple(x.shape[-2:])}"
            )
        return maps(self.stages, x)

    def embed(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, embedding]: what fc8 sees."""
        return self.fc(self.forward(x)[-1])

    def dense(self) -> "AlexNet":
        """Itself, without fc6 and fc7."""
        del self.fc
        return self


def _initialize(layer: nn.Module, bias: float) -> None:
    """Normal of deviation 0.01; biases of 1 give the rectifiers positive inputs at first (section 5)."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, bias)
