"""The contracting path of U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597), figure 1."""

from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import finish, maps
from paribus.models.layers import ConvNormAct
from paribus.models.normalization import UNNORMALIZED, Norm


class UNetEncoder(nn.Module):
    """Maps of strides 1, 2, 4, 8, 16: two 3x3 convolutions each, after a 2x2 max pooling of the one before.

    width: channels of the first map; each further has twice as many.
    depth: number of maps.
    padded: false as in the paper, where each convolution makes the map two cells smaller each way; true keeps
        the size. Of segmenters only `model=unet` and `model=unet_2015` take maps without their borders.
    norm: between each convolution and its activation; none as in the paper. With none the convolutions have biases.
    activation, init, weights: see finish(). The default initialization is the paper's, He's.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        depth: int = 5,
        padded: bool = False,
        norm: Norm = "none",
        activation: Activation = "relu",
        init: str = "default",
        weights: str | None = None,
        in_channels: int = 3,
    ):
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"backbone.width={width}, depth={depth}: 1 or more")
        plain = norm in UNNORMALIZED
        self.padded = padded
        self.channels = [width * 2**i for i in range(depth)]
        self.strides = [2**i for i in range(depth)]
        self.stages = nn.ModuleList()
        for channels in self.channels:
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if len(self.stages) else []
            for _ in range(2):
                layers.append(
                    ConvNormAct(in_channels, channels, padding=int(padded), norm=norm if plain else "batch")
                )
                in_channels = channels
            self.stages.append(nn.Sequential(*layers))
        coarsest = self.strides[-1]
        # Unpadded, a side of n comes from n + 4 before two convolutions, and that from twice as much.
        self.least = coarsest if padded else coarsest + 4 * (2 * coarsest - 1)
        finish(self, norm=None if plain else norm, activation=activation, init=init, weights=weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Raises ValueError for images of which the coarsest map would have no cell."""
        if min(x.shape[-2:]) < self.least:
            raise ValueError(
                f"backbone=unet with depth={len(self.strides)}, padded={str(self.padded).lower()} takes images of "
                f"{self.least} pixels or more (`data.size`), not {tuple(x.shape[-2:])}"
            )
        return maps(self.stages, x)
