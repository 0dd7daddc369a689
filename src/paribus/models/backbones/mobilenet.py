"""MobileNetV1 (Howard et al. 2017, MobileNets, https://arxiv.org/abs/1704.04861)."""

from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import finish, maps
from paribus.models.dilation import dilate
from paribus.models.initialization import initialize
from paribus.models.layers import Rescale
from paribus.models.normalization import Norm

# Output channels of each block, table 1 of the paper; the first of each stage but the first strides.
_STAGES = [[64], [128, 128], [256, 256], [512] * 6, [1024, 1024]]


class MobileNet(nn.Module):
    """Maps of strides 2, 4, 8, 16, 32.

    timm's cannot be built with full convolutions, nor narrower.

    width: of every layer, the paper's alpha; 8 channels are the least.
    separable: true, each block is a 3x3 convolution of each channel alone, and then a 1x1 of all; false, one full
        3x3 convolution, the paper's comparison (table 4).
    rescale: see GoogLeNet; timm's weights expect it too.
    output_stride: the coarsest at most; the stages beyond are dilated instead, see dilate().
    dropout: after each block.
    activation: None is ReLU6, as in timm's weights and the authors' code. The paper says ReLU.
    norm, init, pretrained, weights: see finish(). pretrained takes timm's weights, of width 1 and 1.25.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        separable: bool = True,
        rescale: bool = False,
        output_stride: int = 32,
        dropout: float = 0.0,
        norm: Norm = "batch",
        activation: Activation | None = None,
        init: str = "default",
        pretrained: bool = False,
        weights: str | None = None,
        in_channels: int = 3,
    ):
        super().__init__()
        if width <= 0:
            raise ValueError(f"backbone.width={width}: above 0")
        if rescale and in_channels != 3:
            raise ValueError(
                f"backbone.rescale is of three channels, not {in_channels}: backbone.rescale=false"
            )
        self.rescale = Rescale() if rescale else nn.Identity()
        channels = _scaled(32, width)
        layers: list[nn.Module] = _conv_norm(in_channels, channels, stride=2)
        self.channels, self.strides = [], [2, 4, 8, 16, 32]
        stages: list[nn.Module] = []
        for i, stage in enumerate(_STAGES):
            for j, size in enumerate(stage):
                stride, size = 2 if i and j == 0 else 1, _scaled(size, width)
                if separable:
                    block = [
                        *_conv_norm(channels, channels, stride=stride, groups=channels),
                        *_conv_norm(channels, size, kernel=1),
                    ]
                else:
                    block = _conv_norm(channels, size, stride=stride)
                layers.append(nn.Sequential(*block, *([nn.Dropout(dropout)] if dropout else [])))
                channels = size
            stages.append(nn.Sequential(*layers))
            self.channels.append(channels)
            layers = []
        self.stages = nn.ModuleList(stages)
        initialize(self, "he")
        finish(
            self,
            norm=norm,
            activation=activation,
            init=init,
            weights=weights,
            published=_published(width, separable) if pretrained else None,
            calibrated=(in_channels, (64, 64)),
        )
        dilate(self, output_stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        return maps(self.stages, self.rescale(x))


def _scaled(channels: int, width: float) -> int:
    return max(8, int(channels * width))


def _conv_norm(
    in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True)]


def _published(width: float, separable: bool) -> str:
    if not separable or width not in (1.0, 1.25):
        raise ValueError(
            "backbone.pretrained: nobody publishes weights of this network; set backbone.width=1.0 "
            "backbone.separable=true, or backbone.pretrained=false backbone.weights=<file>"
        )
    return f"timm/mobilenetv1_{'100' if width == 1 else '125'}"
