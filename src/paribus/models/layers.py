"""Blocks that several models share."""

from torch import Tensor, nn
from torch.nn import functional as F

from paribus.models.normalization import Norm, make_norm


class ConvNormAct(nn.Sequential):
    """Convolution that keeps the size (at stride 1), norm, ReLU; initialized for ReLU (He et al. 2015)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, norm: Norm = "batch"
    ):
        # No bias: every norm has one.
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
        super().__init__(conv, make_norm(norm, out_channels), nn.ReLU(inplace=True))


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pads [..., H, W] with zeros, at the bottom and at the right, until both are multiples of `multiple`."""
    height, width = x.shape[-2:]
    if height % multiple == 0 and width % multiple == 0:
        return x
    return F.pad(x, (0, -width % multiple, 0, -height % multiple))


def global_average(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C]. As a mean: adaptive pooling's backward is not deterministic on CUDA."""
    return x.mean(dim=(2, 3))
