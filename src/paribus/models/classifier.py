"""Image classification, single-label and multi-label alike: a backbone, its pooling, a linear layer."""

from torch import Tensor, nn

from paribus.models.backbones import Backbone
from paribus.models.layers import global_average


class Classifier(nn.Module):
    """images [B, C, H, W] -> logits [B, num_classes].

    The backbone's own embedding where it has one, so that with a timm backbone this is timm's network, logit
    for logit; else global average pooling of the last map (Lin et al. 2014, Network in Network).

    dropout: the probability of dropping a feature before the linear layer (Srivastava et al. 2014).
    """

    def __init__(self, *, backbone: Backbone, num_classes: int, dropout: float = 0.0):
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(getattr(backbone, "embedding", backbone.channels[-1]), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if hasattr(self.backbone, "embed"):
            features = self.backbone.embed(images)
        else:
            features = global_average(self.backbone(images)[-1])
        return self.head(self.dropout(features))
