"""Activations: what replaces what, and that nothing else changes."""

from typing import get_args

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from paribus.models.activation import Activation, make_activation, replace_activation

FUNCTIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.01),
    "prelu": lambda x: torch.where(x > 0, x, 0.25 * x),
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": lambda x: x * torch.sigmoid(x),
}


@pytest.mark.parametrize("activation", get_args(Activation))
def test_each_is_its_function(activation):
    x = torch.linspace(-3, 3, 30)
    torch.testing.assert_close(make_activation(activation)(x), FUNCTIONS[activation](x))


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "test_convnext", "test_vit", "test_byobnet", "seresnet18"]
)
@pytest.mark.parametrize("activation", ["elu", "gelu"])
def test_every_activation_of_a_network_of_timms_is_replaced(name, activation):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=3).eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    gates = sum(isinstance(m, nn.Sigmoid) for m in network.modules())
    replace_activation(network, activation)
    left = [
        type(m).__name__ for m in network.modules() if isinstance(m, nn.ReLU | nn.SiLU | nn.GELU | nn.ELU)
    ]
    assert left
    assert set(left) == {{"elu": "ELU", "gelu": "GELU"}[activation]}
    assert sum(isinstance(m, nn.Sigmoid) for m in network.modules()) == gates
    assert network.state_dict().keys() == before.keys()
    assert network(torch.randn(1, 3, *network.pretrained_cfg["input_size"][1:])).isfinite().all()


def test_a_replaced_activation_is_the_one_that_timm_builds():
    torch.manual_seed(0)
    ours = timm.create_model("resnet18", num_classes=3).eval()
    theirs = timm.create_model("resnet18", num_classes=3, act_layer=nn.SiLU).eval()
    theirs.load_state_dict(ours.state_dict())
    replace_activation(ours, "silu")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_a_network_without_any_is_refused():
    with pytest.raises(ValueError, match=r"no activation to replace: leave `backbone.activation`"):
        replace_activation(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid()), "relu")


def test_an_unknown_one_is_named_with_all_there_are():
    with pytest.raises(ValueError, match=r"no activation 'swish'; there are: sigmoid, tanh, relu"):
        make_activation("swish")
