"""VGG (Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556), table 1."""

from typing import Literal

from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import finish, maps
from paribus.models.dilation import dilate
from paribus.models.layers import ConvNormAct, FullyConnected, SqueezeExcite
from paribus.models.normalization import UNNORMALIZED, LocalResponseNorm, Norm

# Kernels of the convolutions, stage by stage; the depth counts them and three fully connected layers.
_KERNELS = {
    "A": [[3], [3], [3, 3], [3, 3], [3, 3]],
    "B": [[3, 3], [3, 3], [3, 3], [3, 3], [3, 3]],
    "C": [[3, 3], [3, 3], [3, 3, 1], [3, 3, 1], [3, 3, 1]],
    "D": [[3, 3], [3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "E": [[3, 3], [3, 3], [3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 3, 3]],
}
_DEPTHS = {"A": 11, "B": 13, "D": 16, "E": 19}


class VGG(nn.Module):
    """Maps of strides 1, 2, 4, 8, 16, each before its pooling, and 32, the last one pooled; `embed` goes on to
    the last of `hidden`, whose first layer sees 7 x 7 cells, to which larger maps are averaged.

    configuration: of table 1, A (11 layers), B (13), C and D (16, C with 1x1 convolutions), E (19). A-LRN is A
        with norm=local_response.
    width: channels of the first stage, 64 in the paper; the others have 2, 4, 8, 8 times as many.
    hidden: features of the fully connected layers; the paper's if None, [4096, 4096].
    se_reduction: of squeeze-and-excitation after the activation of every convolution (Hu et al. 2018, section
        3.2); None is without.
    output_stride: the coarsest at most; the stages beyond are dilated instead, see dilate().
    dropout: after each of `hidden`.
    norm: between each convolution, which keeps its bias, and its activation, as in torchvision; local_response
        as in the paper, after the first convolution and its activation.
    activation, init, pretrained, weights: see finish(). The default initialization is torchvision's, that of
        the paper normal(0.01). pretrained takes torchvision's weights of A, B, D and E, with batch norm if
        `norm` asks for one.
    """

    def __init__(
        self,
        *,
        configuration: Literal["A", "A-LRN", "B", "C", "D", "E"] = "D",
        width: int = 64,
        hidden: list[int] | None = None,
        se_reduction: int | None = None,
        output_stride: int = 32,
        dropout: float = 0.5,
        norm: Norm = "none",
        activation: Activation = "relu",
        init: str = "default",
        pretrained: bool = False,
        weights: str | None = None,
        in_channels: int = 3,
    ):
        super().__init__()
        if configuration == "A-LRN":
            if norm not in UNNORMALIZED:
                raise ValueError(
                    f"backbone.norm={norm}: A-LRN has local response norm; take backbone.configuration=A"
                )
            configuration, norm = "A", "local_response"
        if configuration not in _KERNELS:
            raise ValueError(f"backbone.configuration={configuration}: one of A, A-LRN, B, C, D, E")
        if width < 1:
            raise ValueError(f"backbone.width={width}: 1 or more")
        plain = norm in UNNORMALIZED
        published = None
        if pretrained:
            if configuration not in _DEPTHS or width != 64 or se_reduction or norm == "local_response":
                raise ValueError(
                    "backbone.pretrained: nobody publishes weights of this network; torchvision does of A, B, D, "
                    "E of width 64, without se_reduction and local_response"
                )
            published = f"torchvision/vgg{_DEPTHS[configuration]}{'' if plain else '_bn'}"

        self.channels = [width * n for n in (1, 2, 4, 8, 8, 8)]
        self.strides = [1, 2, 4, 8, 16, 32]
        stages: list[nn.Sequential] = []
        for kernels, channels in zip(_KERNELS[configuration], self.channels, strict=False):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if stages else []
            for kernel in kernels:
                layers.append(
                    ConvNormAct(
                        in_channels, channels, kernel=kernel, bias=True, norm="none" if plain else "batch"
                    )
                )
                in_channels = channels
                if se_reduction:
                    layers.append(SqueezeExcite(channels, se_reduction))
            stages.append(nn.Sequential(*layers))
        if norm == "local_response":
            stages[0].insert(1, LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2.0))
        self.stages = nn.ModuleList([*stages, nn.MaxPool2d(2)])
        self.fc = FullyConnected(
            in_channels, [4096, 4096] if hidden is None else hidden, grid=7, dropout=dropout
        )
        self.embedding = self.fc.width
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
        finish(
            self,
            norm=None if plain else norm,
            activation=activation,
            init=init,
            weights=weights,
            published=published,
        )
        dilate(self, output_stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Raises ValueError for images of less than 32 pixels."""
        if min(x.shape[-2:]) < 32:
            raise ValueError(
                f"VGG takes images of 32 pixels or more (`data.size`), not {tuple(x.shape[-2:])}"
            )
        return maps(self.stages, x)

    def embed(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, embedding]: what the last layer, fc8, sees."""
        return self.fc(self.forward(x)[-1])

    def dense(self) -> "VGG":
        """Itself, without the fully connected layers."""
        del self.fc
        return self
