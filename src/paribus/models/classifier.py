"""Image classification, single-label and multi-label alike: a backbone, a head, a linear layer."""

from typing import Any, Literal

from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import Backbone, dense
from paribus.models.layers import ConvNormAct, FullyConnected, Grid, global_average
from paribus.models.normalization import Norm


class Classifier(nn.Module):
    """images [B, C, H, W] -> logits [B, num_classes].

    head: what is between the last map and the linear layer.
        own: what the network's paper has there (VGG its fully connected layers, ViT its norm), so that with a
        timm backbone this is timm's network, logit for logit; where there is nothing, average.
        average: global average pooling (Lin et al. 2014, Network in Network, section 3.2).
        fully_connected: layers of `hidden` features on the map averaged to grid x grid cells.
    dropout: the probability of dropping a feature before the linear layer, and after each of `hidden`
        (Srivastava et al. 2014).
    auxiliary: classifiers on inner maps while it trains (Szegedy et al. 2015, Going deeper, section 5), for a
        backbone that says on which (GoogLeNet). Then the answer in training mode is (logits, those of the
        first, of the second); `task.auxiliary_weight` weighs their losses.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        head: Literal["own", "average", "fully_connected"] = "own",
        hidden: list[int] | None = None,
        grid: int = 7,
        activation: Activation = "relu",
        dropout: float = 0.0,
        auxiliary: bool = False,
    ):
        super().__init__()
        any_backbone: Any = backbone
        self.own = head == "own" and hasattr(backbone, "embed")
        self.backbone = any_backbone if self.own else dense(backbone)
        self.fully_connected: FullyConnected | None = None
        if self.own:
            width = any_backbone.embedding
        elif head == "fully_connected":
            sizes = hidden or [4096, 4096]
            self.fully_connected = FullyConnected(
                backbone.channels[-1], sizes, grid=grid, activation=activation, dropout=dropout
            )
            width = sizes[-1]
        else:
            width = backbone.channels[-1]
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)
        if auxiliary and not hasattr(backbone, "with_auxiliary"):
            raise ValueError(
                f"model.auxiliary: {type(backbone).__name__} has no places for auxiliary classifiers; "
                "backbone=googlenet has, for any other model.auxiliary=false"
            )
        places = any_backbone.auxiliary_channels if auxiliary else []
        self.auxiliary = nn.ModuleList(
            AuxiliaryHead(channels, num_classes, norm=any_backbone.norm) for channels in places
        )

    def forward(self, images: Tensor) -> Any:
        if self.auxiliary and self.training:
            found, inner = self.backbone.with_auxiliary(images)
            features = self.backbone.pooled(found[-1]) if self.own else self._pooled(found[-1])
            logits = self.head(self.dropout(features))
            return logits, *(head(m) for head, m in zip(self.auxiliary, inner, strict=True))
        features = self.backbone.embed(images) if self.own else self._pooled(self.backbone(images)[-1])
        return self.head(self.dropout(features))

    def _pooled(self, x: Tensor) -> Tensor:
        return global_average(x) if self.fully_connected is None else self.fully_connected(x)


class AuxiliaryHead(nn.Module):
    """An inner map [B, channels, H, W] -> logits: averaged to 4 x 4 cells, a 1x1 convolution, a hidden layer of
    1024, dropout of 0.7 (Szegedy et al. 2015, section 5; its 5x5 pooling of stride 3 is that at 14 x 14 cells).
    """

    def __init__(self, channels: int, num_classes: int, *, norm: Norm):
        super().__init__()
        self.grid = Grid(4)
        self.conv = ConvNormAct(channels, 128, kernel=1, norm="none" if norm == "local_response" else norm)
        self.hidden = FullyConnected(128, [1024], grid=4, dropout=0.7)
        self.head = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        # Averaged first, as the convolution costs less then.
        return self.head(self.hidden(self.conv(self.grid(x))))
