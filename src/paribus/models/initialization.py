"""The first weights as a factor: one word chooses the distribution, on any network that is built."""

import re

import torch
from torch import nn


@torch.no_grad()
def initialize(module: nn.Module, init: str) -> None:
    """Draws the weights of every convolution and linear layer anew, in place; their biases become 0. Norms,
    tokens and position embeddings stay.

    default: nothing is drawn, the network keeps what its paper or its library gave it.
    he: normal, variance 2 / fan-in (He et al. 2015, Delving Deep into Rectifiers, equation 10).
    xavier: uniform, variance 2 / (fan-in + fan-out) (Glorot & Bengio 2010, equation 16).
    normal(0.01): normal of this standard deviation, as of AlexNet (Krizhevsky et al. 2012, section 5).
    """
    if init == "default":
        return
    normal = re.fullmatch(r"normal\((\d*\.?\d+(?:[eE][+-]?\d+)?)\)", init)
    if init not in ("he", "xavier") and not normal:
        raise ValueError(f"backbone.init={init}: default, he, xavier or normal(<standard deviation>)")
    for layer in module.modules():
        if not isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
            continue
        if normal:
            nn.init.normal_(layer.weight, std=float(normal[1]))
        elif init == "he":
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        else:
            nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
