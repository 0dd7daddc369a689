"""Enlarging a map, in each of the ways that segmenters go back up: one word chooses it."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Upsampling = Literal["nearest", "bed_of_nails", "max_unpool", "transposed", "bilinear"]


class Upsample(nn.Module):
    """x [B, channels, h, w], size (H, W) -> [B, out_channels, H, W]: `factor` times as large, cut or completed to
    `size`, which may be odd.

    kind:
        nearest: each value fills its factor x factor cells.
        bed_of_nails: each value in the first of them, zeros in the others.
        max_unpool: each value where `fine`, a map of `size`, has the largest of the cells (Zeiler & Fergus 2014,
            section 2.1; Badrinarayanan et al. 2017, SegNet), zeros in the others; nearest for a step without such
            a map (fine_channels=0).
        transposed: a convolution transposed, learned.
        bilinear: corners not aligned. Alone of all it repeats exactly on CUDA only where torch is told to
            (use_deterministic_algorithms).
    out_channels: None is `channels`, and with max_unpool fine_channels. Where they differ from `channels`, a 1x1
        convolution comes before; transposed changes them itself.
    factor: how many times larger; 1 leaves the map as large as it is, and learns nothing but the 1x1.
    kernel: of transposed; None is `factor`, which overlaps nowhere (Ronneberger et al. 2015).
    bias: of transposed.
    start: of transposed. random keeps the variance; bilinear makes it that enlarging (Long et al. 2015, section
        3.3), for a kernel of 2 * factor and as many channels out as in.
    """

    def __init__(
        self,
        kind: Upsampling,
        channels: int,
        *,
        out_channels: int | None = None,
        fine_channels: int = 0,
        factor: int = 2,
        kernel: int | None = None,
        bias: bool = True,
        start: Literal["random", "bilinear"] = "random",
    ):
        super().__init__()
        if kind not in get_args(Upsampling):
            raise ValueError(f"model.upsampling={kind}: one of {', '.join(get_args(Upsampling))}")
        unpools = kind == "max_unpool" and fine_channels > 0
        self.kind = "nearest" if kind == "max_unpool" and not unpools else kind
        self.factor = factor
        self.out_channels = fine_channels if unpools else out_channels or channels
        self.change: nn.Module = nn.Identity()
        if kind == "transposed" and factor > 1:
            kernel = kernel or factor
            if kernel < factor or (kernel - factor) % 2:
                raise ValueError(f"a kernel of {kernel} does not enlarge {factor} times: {factor} + 2n")
            self.change = nn.ConvTranspose2d(
                channels, self.out_channels, kernel, factor, padding=(kernel - factor) // 2, bias=bias
            )
            _start(self.change, start)
        elif self.out_channels != channels:
            self.change = nn.Conv2d(channels, self.out_channels, 1)

    def forward(self, x: Tensor, size: tuple[int, int], fine: Tensor | None = None) -> Tensor:
        x = self.change(x)
        if self.factor > 1:
            if self.kind == "bed_of_nails":
                return _fitted(_in_cells(x, self.factor) * _first(x, self.factor), size)
            if self.kind == "max_unpool":
                assert fine is not None
                return _fitted(_in_cells(x, self.factor) * _largest(x, fine, self.factor), size)
            if self.kind == "transposed":
                x = x[..., : size[0], : size[1]]
            elif self.kind == "bilinear" and x.shape[-2:] != torch.Size(size):
                return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return nearest(x, size)


def nearest(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """[B, C, h, w] -> [B, C, *size]. Its backward is deterministic on CUDA."""
    return x if x.shape[-2:] == torch.Size(size) else F.interpolate(x, size=size, mode="nearest")


def check_unpooling(kind: Upsampling, strides: list[int]) -> None:
    """Raises ValueError where max_unpool is asked of a backbone without a finer map to take the places from."""
    if kind == "max_unpool" and len(set(strides)) == 1:
        raise ValueError(
            f"model.upsampling=max_unpool: the maps of this backbone all have stride {strides[0]}, none has maxima "
            "to go back to; take model.upsampling=nearest, or a backbone whose maps double"
        )


def _in_cells(x: Tensor, factor: int) -> Tensor:
    return nearest(x, (x.shape[-2] * factor, x.shape[-1] * factor))


def _first(x: Tensor, factor: int) -> Tensor:
    """[H, W], true in the first of the cells of each value of x."""
    rows, columns = (torch.arange(n * factor, device=x.device) % factor == 0 for n in x.shape[-2:])
    return rows[:, None] & columns


def _largest(x: Tensor, fine: Tensor, factor: int) -> Tensor:
    """[B, C, H, W], true where `fine` has the largest of the cells of each value of x; of equals the first.

    torch's MaxUnpool2d writes to the indices of the maxima, for which CUDA has no deterministic form.
    """
    height, width = x.shape[-2:]
    whole = _fitted(fine.detach(), (height * factor, width * factor), value=-torch.inf)
    index = F.max_pool2d(whole, factor, return_indices=True)[1]
    place = torch.arange(whole.shape[-2] * whole.shape[-1], device=x.device)
    cells = index[..., :, None, :, None] == place.view(height, factor, width, factor)
    return cells.reshape(whole.shape)


def _fitted(x: Tensor, size: tuple[int, int], value: float = 0.0) -> Tensor:
    """Cut, or completed with `value`, at the bottom and at the right."""
    if x.shape[-2:] == torch.Size(size):
        return x  # F.pad would copy it
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]), value=value)


@torch.no_grad()
def _start(layer: nn.ConvTranspose2d, start: str) -> None:
    channels, factor, kernel = layer.in_channels, layer.stride[0], layer.kernel_size[0]
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    if start == "random":  # each new cell is a sum of this many products
        nn.init.normal_(layer.weight, std=(channels * (kernel / factor) ** 2) ** -0.5)
        return
    if kernel != 2 * factor or layer.out_channels != channels:
        raise ValueError("a bilinear start needs a kernel of 2 * factor, and as many channels out as in")
    distance = (torch.arange(kernel) - (kernel - 1) / 2).abs()
    triangle = 1 - distance / factor
    nn.init.zeros_(layer.weight)
    layer.weight[range(channels), range(channels)] = (triangle[:, None] * triangle).to(layer.weight)
