"""What operations mean as layers, from the arguments that torch hands on."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paribus.profile.complexity import layers


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


WEIGHT = torch.ones(6, 3, 5, 3, device="meta")
CASES = {
    "conv": (
        lambda x: F.conv2d(x, WEIGHT, stride=(2, 1), padding=(2, 1), dilation=(1, 2)),
        ("conv", (5, 3), (2, 1), (2, 1), (1, 2)),
    ),
    "transposed": (
        lambda x: F.conv_transpose2d(x, torch.ones(3, 2, 4, 4, device="meta"), stride=2, padding=1),
        ("transposed conv", (4, 4), (2, 2), (1, 1), (1, 1)),
    ),
    "a pooling's stride is its kernel": (lambda x: F.max_pool2d(x, 2), ("pool", (2, 2), (2, 2), (0, 0), ())),
    "average pooling": (lambda x: F.avg_pool2d(x, 3, 1, 1), ("pool", (3, 3), (1, 1), (1, 1), ())),
    "pooling to a size": (lambda x: F.adaptive_avg_pool2d(x, (4, 8)), ("pool", (4, 2), (4, 2), (), ())),
    "pooling to a size that does not divide": (
        lambda x: F.adaptive_max_pool2d(x, 5),
        ("pool", (4, 4), (3, 3), (), ()),
    ),
    "the mean of a map": (lambda x: x.mean((2, 3)), ("pool", (16, 16), (), (), ())),
    "its largest": (lambda x: x.amax((-1, -2)), ("pool", (16, 16), (), (), ())),
    "the mean of the channels": (lambda x: x.mean(1), ("mean", (), (), (), ())),
    "enlarging": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), ("upsample", (), (), (), ())),
    "pixel shuffle": (lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2), ("upsample", (), (), (), ())),
    "a sum": (lambda x: x + 1, ("add", (), (), (), ())),
}


@pytest.mark.parametrize("name", CASES)
def test_kinds_and_windows(name):
    function, expected = CASES[name]
    found = layers(Function(function), (16, 16))[-1]
    assert (found.kind, found.kernel, found.stride, found.padding, found.dilation) == expected


def test_two_maps_multiplied_are_attention_and_a_weight_is_linear():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(16, 4))

        def forward(self, x):
            x = x @ self.weight
            return x @ x.mT

    assert [(x.kind, x.macs) for x in layers(Both(), (8, 16))] == [
        ("linear", 24 * 16 * 4),
        ("attention", 3 * 8 * 8 * 4),
    ]
