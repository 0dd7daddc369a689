"""A finer output stride for a network that is built, by dilation: no weight changes, nor any name.

Where a map was to become coarser it stays as it is, and every window that reads it afterwards has its cells as
far apart, in pixels, as they were (Chen et al. 2018, DeepLab, https://arxiv.org/abs/1606.00915, section 3.1; Yu
and Koltun 2016, https://arxiv.org/abs/1511.07122). timm's `output_stride` does so while it builds 19 of its
families, and not for VGG, DenseNet and most others.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from paribus.models.meta import on_meta

# Pixels a side of the image that tells where strides are. On the meta device a large one costs nothing, and the
# cells that unpadded convolutions lose at the border do not blur the ratios.
_SIDE = 512


class _CannotError(Exception):
    """Why a network cannot be dilated."""


def dilate(backbone: Any, output_stride: int, *, name: str | None = None) -> None:
    """Makes `output_stride` the coarsest of a backbone's maps, in place, and sets its `strides`; nothing to do
    where it is no finer than the coarsest there is. name: of the network, in errors.

    The cells that the network had before, every n-th of the finer map, keep their values, up to the border, and
    those between are new. That is exact where all that mixes cells is convolutions and poolings (a window of 2
    too stays, at stride 1) and the old stride divides the image. What averages over a whole map averages over
    the new cells as well: squeeze-and-excitation and its kind, and group, layer and instance norm.

    Raises ValueError, and leaves the backbone as it is, where its maps are not stages of strided convolutions
    and poolings: with attention, with paths of several strides side by side.
    """
    windows = check_dilation(backbone, output_stride, name=name)
    for window, read in windows.items():
        _respace(backbone, window, read, output_stride)
    backbone.strides = [min(stride, output_stride) for stride in backbone.strides]


def check_dilation(backbone: Any, output_stride: int, *, name: str | None = None) -> dict[str, int]:
    """Tries dilate() on a copy without values. Its convolutions and poolings by name, each with the stride of the
    map it reads; none if there is nothing to do.
    """
    strides = list(backbone.strides)
    if output_stride >= max(strides):
        return {}
    possible = f"backbone.output_stride={output_stride}: {name or type(backbone).__name__} can have"
    trial: Any = on_meta(backbone).eval()
    stem = next(m for m in trial.modules() if isinstance(m, nn.Conv2d))
    image = torch.zeros(1, stem.in_channels, _SIDE, _SIDE, device="meta")
    try:
        windows, maps = _windows(trial, image)
        if maps != strides or strides != sorted(set(strides)):
            raise _CannotError("they do not grow coarser one by one")
        if output_stride not in strides:
            raise ValueError(f"{possible} {', '.join(map(str, strides))}")
        for window, read in windows.items():
            _respace(trial, window, read, output_stride)
        if [_stride(m) for m in trial(image)] != [min(stride, output_stride) for stride in strides]:
            raise _CannotError("something strides that is neither convolution nor pooling")
    except (_CannotError, RuntimeError, AssertionError, NotImplementedError) as error:
        reason = f" ({error})" if isinstance(error, _CannotError) else ""
        raise ValueError(f"{possible} {max(strides)}: its maps are not strided stages{reason}") from error
    return windows


def _windows(network: nn.Module, image: Tensor) -> tuple[dict[str, int], list[int]]:
    """The convolutions and poolings that run, by name, each with the stride of the map it reads, and the strides of
    the maps found.
    """
    read: dict[str, int] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):

            def note(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                stride = _stride(inputs[0])
                if read.setdefault(name, stride) != stride:
                    raise _CannotError(f"{name} serves several strides")

            hooks.append(module.register_forward_pre_hook(note))
    with _Attention():
        maps = [_stride(m) for m in network(image)]
    for hook in hooks:
        hook.remove()
    return read, maps


class _Attention(TorchDispatchMode):
    """Refuses products of one map with another: they mix cells by what is in them, at any distance."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__.startswith(("bmm", "baddbmm", "_scaled_dot_product")):
            raise _CannotError("it has attention")
        return func(*args, **(kwargs or {}))


def _respace(network: nn.Module, name: str, read: int, output_stride: int) -> None:
    """Sets one window, that read a map of stride `read`, on the map as it is with `output_stride`."""
    module: Any = network.get_submodule(name)
    kernel, stride, dilation = _geometry(module)
    if read * max(stride) <= output_stride or max(*kernel, *stride) == 1:
        return
    if read < output_stride or stride[0] != stride[1]:
        raise _CannotError(f"{name} strides from {read} to {read * max(stride)}")
    times = read // output_stride
    dilation = [d * times for d in dilation]
    before, after = ([p * times for p in side] for side in _padding(module))
    pads = (before[1], after[1], before[0], after[0])
    if isinstance(module, nn.MaxPool2d):
        network.set_submodule(name, MaxPool(kernel, dilation, pads))
    elif isinstance(module, nn.AvgPool2d):
        counted = before if module.count_include_pad else [0, 0]
        network.set_submodule(name, AveragePool(kernel, dilation, pads, counted))
    elif module.padding_mode != "zeros":
        raise _CannotError(f"{name} pads with {module.padding_mode}")
    else:
        _respace_convolution(module, dilation, before, after, pads)


def _respace_convolution(module: Any, dilation: Any, before: Any, after: Any, pads: Any) -> None:
    # timm's of TensorFlow pad by themselves, as much as the stride asks for.
    if type(module).__name__ == "Conv2dSame":
        module.__class__ = nn.Conv2d
    if hasattr(module, "same_pad"):
        module.same_pad = False
    module.stride, module.dilation, module.padding = (1, 1), tuple(dilation), tuple(before)
    if before != after:
        module.padding = (0, 0)
        module.register_forward_pre_hook(Pad(pads))


class Pad:
    """A forward pre-hook, for a convolution padded by more on one side than on the other: (left, right, top, bottom).
    As a layer before it, it would change the names of the weights.
    """

    def __init__(self, pads: tuple[int, ...]):
        self.pads = pads

    def __call__(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return F.pad(inputs[0], self.pads)


class MaxPool(nn.Module):
    """The maximum over kernel cells, `dilation` apart, at every cell, padded by (left, right, top, bottom)."""

    def __init__(self, kernel: list[int], dilation: list[int], pads: tuple[int, ...]):
        super().__init__()
        self.kernel, self.dilation, self.pads = kernel, dilation, pads

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, self.pads, value=-math.inf), self.kernel, 1, 0, self.dilation)


class AveragePool(MaxPool):
    """The mean, which torch has not with cells apart. counted: rows and columns of the padding that count as zeros;
    any further are left out of the mean.
    """

    def __init__(self, kernel: list[int], dilation: list[int], pads: tuple[int, ...], counted: list[int]):
        super().__init__(kernel, dilation, pads)
        rows, columns = counted
        self.counted = (columns, columns, rows, rows)

    def forward(self, x: Tensor) -> Tensor:
        cells = F.pad(x.new_ones(1, 1, *x.shape[-2:]), self.counted, value=1.0)
        rest = [p - c for p, c in zip(self.pads, self.counted, strict=True)]
        return self._sum(F.pad(x, self.pads)) / self._sum(F.pad(cells, rest))

    def _sum(self, x: Tensor) -> Tensor:
        for axis, k, d in zip((2, 3), self.kernel, self.dilation, strict=True):
            size = x.shape[axis] - (k - 1) * d
            x = torch.stack([x.narrow(axis, i * d, size) for i in range(k)]).sum(0)
        return x


def _geometry(module: Any) -> tuple[list[int], list[int], list[int]]:
    """Kernel, stride and dilation, each of rows and columns."""
    kernel, stride, dilation = (
        _pair(getattr(module, key, 1)) for key in ("kernel_size", "stride", "dilation")
    )
    return kernel, stride, dilation


def _same(module: Any) -> bool:
    """Whether it keeps the size at stride 1, by its own account or as TensorFlow does."""
    own = getattr(module, "padding", 0) == "same"
    return own or getattr(module, "same_pad", False) or type(module).__name__.endswith("2dSame")


def _padding(module: Any) -> tuple[list[int], list[int]]:
    """Cells before and after, of rows and of columns, with which it makes at stride 1 as many as its stride leaves
    times that stride. Unpadded windows lose some: one cell of stride 2 is two of stride 1.
    """
    before, after = [], []
    given = [0, 0] if module.padding in ("same", "valid") else _pair(module.padding)
    for kernel, stride, dilation, padding in zip(*_geometry(module), given, strict=True):
        reach = (kernel - 1) * dilation
        missing = reach + 1 - 2 * padding
        if _same(module):
            padding, lost = max(reach + 1 - stride, 0) // 2, 0
        else:
            rounded = missing // stride if getattr(module, "ceil_mode", False) else -(-missing // stride)
            lost = rounded - 1
        before.append(padding)
        after.append(reach - padding - stride * lost)
    return before, after


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _stride(x: Tensor) -> int:
    """Of a map of the image: the next power of two, since maps may lack a few cells."""
    return 2 ** round(math.log2(_SIDE / x.shape[-1]))
