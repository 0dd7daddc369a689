"""The activation as a factor: one word chooses it, in our blocks and on any network that is built."""

from collections.abc import Callable
from typing import Literal

from torch import nn

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "prelu", "elu", "gelu", "silu"]

_MAKE: dict[str, Callable[[bool], nn.Module]] = {
    "sigmoid": lambda inplace: nn.Sigmoid(),
    "tanh": lambda inplace: nn.Tanh(),
    "relu": lambda inplace: nn.ReLU(inplace),
    "leaky_relu": lambda inplace: nn.LeakyReLU(0.01, inplace),
    "prelu": lambda inplace: nn.PReLU(),
    "elu": lambda inplace: nn.ELU(inplace=inplace),
    "gelu": lambda inplace: nn.GELU(),
    "silu": lambda inplace: nn.SiLU(inplace),
}
# torch's, and timm's own by other names. Not sigmoid, tanh and their hard forms: in these networks they are
# gates (squeeze-and-excitation), and a gate is no activation.
_REPLACED = {"ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "GELU", "GELUTanh", "QuickGELU", "SiLU", "Swish"}
_REPLACED |= {"SwishMe", "Mish", "MishMe", "Hardswish", "HardSwish", "HardSwishMe", "HardMish", "HardMishMe"}


def make_activation(activation: Activation, inplace: bool = False) -> nn.Module:
    """The module. leaky_relu has the slope 0.01 (Maas et al. 2013), elu alpha 1 (Clevert et al. 2016), prelu
    one learned slope for all channels, 0.25 at first (He et al. 2015).
    """
    if activation not in _MAKE:
        raise ValueError(f"there is no activation {activation!r}; there are: {', '.join(_MAKE)}")
    return _MAKE[activation](inplace)


def replace_activation(module: nn.Module, activation: Activation) -> None:
    """Puts `activation` in the place of every rectifier and its relatives, inside timm's fused norm layers too,
    in place. Gates and the softmax of attention stay. Raises ValueError for a network without any.
    """
    found = [(name, layer) for name, layer in module.named_modules() if type(layer).__name__ in _REPLACED]
    if not found:
        raise ValueError("this network has no activation to replace: leave `backbone.activation` as it is")
    for name, layer in found:
        module.set_submodule(name, make_activation(activation, getattr(layer, "inplace", False)))
