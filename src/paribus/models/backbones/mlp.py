"""The baselines below convolution: a linear classifier, and the multilayer perceptron (Rumelhart et al. 1986)."""

from collections.abc import Sequence
from typing import NoReturn

from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import finish
from paribus.models.normalization import Norm


class MLP(nn.Module):
    """The image as one vector, through `depth` linear layers of `width`, each with norm, activation, dropout.
    It has no maps: `embed` alone, which a classifier takes.

    size: (H, W) of the images, all of them.
    depth: 0 is a linear classifier, whose one layer is the classifier's.
    norm: between a layer and its activation, with its units as channels of 1 x 1 maps; all but instance.
    activation, init, weights: see finish().
    """

    def __init__(
        self,
        *,
        size: Sequence[int],
        width: int = 512,
        depth: int = 2,
        dropout: float = 0.0,
        norm: Norm = "none",
        activation: Activation = "relu",
        init: str = "default",
        weights: str | None = None,
        in_channels: int = 3,
    ):
        super().__init__()
        if width < 1 or depth < 0:
            raise ValueError(f"backbone.width={width}, depth={depth}: 1 or more, and 0 or more")
        if norm == "instance":
            raise ValueError(
                "backbone.norm=instance: it would make a constant of each unit's one value; batch, layer or group"
            )
        if depth == 0 and (dropout, norm, activation, init, weights) != (0, "none", "relu", "default", None):
            raise ValueError(
                "backbone.depth=0 is a linear classifier, without a hidden layer for backbone.dropout, norm, "
                "activation, init or weights: leave them as they are, or take backbone=mlp"
            )
        self.size = tuple(size)
        self.stages = nn.ModuleList()
        features = in_channels * size[0] * size[1]
        for _ in range(depth):
            linear = nn.Linear(features, width, bias=norm == "none")
            nn.init.kaiming_normal_(linear.weight, mode="fan_in", nonlinearity="relu")
            layers: list[nn.Module] = [linear]
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
            else:
                layers += [nn.Unflatten(1, (width, 1, 1)), nn.BatchNorm2d(width), nn.Flatten()]
            self.stages.append(nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Dropout(dropout)))
            features = width
        self.embedding = features
        if depth:
            finish(
                self,
                norm=None if norm == "none" else norm,
                activation=activation,
                init=init,
                weights=weights,
            )

    def embed(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, embedding]; ValueError for images of another size."""
        if tuple(x.shape[-2:]) != self.size:
            raise ValueError(
                f"the MLP has weights for images of {self.size} (`backbone.size`), not {tuple(x.shape[-2:])}"
            )
        x = x.flatten(1)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward(self, x: Tensor) -> list[Tensor]:
        """Raises ValueError, as all that asks for maps."""
        return self.dense()

    @property
    def channels(self) -> list[int]:
        return self.dense()

    @property
    def strides(self) -> list[int]:
        return self.dense()

    def dense(self) -> NoReturn:
        """Raises ValueError: without the linear layers there is nothing."""
        raise ValueError(
            "an MLP has no maps, it sees the image as one vector, so only model=classifier with model.head=own "
            "takes it: backbone=convnet has maps"
        )
