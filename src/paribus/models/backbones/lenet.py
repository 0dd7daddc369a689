"""LeNet-5 (LeCun et al. 1998, Gradient-based learning applied to document recognition, section II.B)."""

from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import finish, maps
from paribus.models.layers import ConvNormAct, FullyConnected
from paribus.models.normalization import UNNORMALIZED, Norm


class LeNet(nn.Module):
    """Maps of strides 2 (6 channels) and 4 (16), each of an unpadded 5x5 convolution, an activation and average
    pooling; `embed` goes on to F6. Made for 32 x 32; larger maps are averaged to the 5 x 5 cells that F5 sees.

    As it is built today: C3 sees every map of S2, subsampling learns nothing, tanh is unscaled, and a linear
    layer classifies in place of radial basis functions.

    padding: of the first convolution; 2 for images of 28 x 28.
    dropout: after F5 and F6.
    norm: after each convolution.
    activation, init, weights: see finish(). The default initialization is He's: the paper's, uniform up to 2.4
        / fan-in, goes with its scaled tanh and learned subsampling, and without them starts slowly.
    """

    def __init__(
        self,
        *,
        padding: int = 0,
        dropout: float = 0.0,
        norm: Norm = "none",
        activation: Activation = "tanh",
        init: str = "default",
        weights: str | None = None,
        in_channels: int = 3,
    ):
        super().__init__()
        if padding < 0:
            raise ValueError(f"backbone.padding={padding}: 0, or 2 for images of 28 x 28")
        plain = norm in UNNORMALIZED
        self.padding = padding
        self.channels, self.strides = [6, 16], [2, 4]
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(before, width, kernel=5, padding=pad, norm=norm if plain else "batch"),
                nn.AvgPool2d(2),
            )
            for before, width, pad in ((in_channels, 6, padding), (6, 16, 0))
        )
        self.fc = FullyConnected(16, [120, 84], grid=5, dropout=dropout)
        self.embedding = self.fc.width
        finish(self, norm=None if plain else norm, activation=activation, init=init, weights=weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Raises ValueError for images whose last map is less than 5 x 5 cells."""
        least = 32 - 2 * self.padding
        if min(x.shape[-2:]) < least:
            raise ValueError(
                f"LeNet takes images of {least} pixels or more (`data.size`), not {tuple(x.shape[-2:])}; with "
                "backbone.padding=2 of 28"
            )
        return maps(self.stages, x)

    def embed(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 84]: F6."""
        return self.fc(self.forward(x)[-1])

    def dense(self) -> "LeNet":
        """Itself, without F5 and F6."""
        del self.fc
        return self
