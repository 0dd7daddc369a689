"""First weights: each word's distribution, and what it leaves alone."""

import pytest
import torch
from torch import nn

from paribus.models.backbones.resnet import ResNet
from paribus.models.backbones.timm import Timm
from paribus.models.initialization import initialize


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(64, 128, 3, groups=2), nn.BatchNorm2d(128), nn.Linear(400, 300))


@pytest.mark.parametrize(
    ("init", "stds"),
    [
        ("he", ((2 / (32 * 9)) ** 0.5, (2 / 400) ** 0.5)),
        ("xavier", ((2 / (32 * 9 + 128 * 9)) ** 0.5, (2 / 700) ** 0.5)),
        ("normal(0.01)", (0.01, 0.01)),
        ("normal(1e-3)", (1e-3, 1e-3)),
    ],
)
def test_standard_deviations(init, stds):
    module = layers()
    initialize(module, init)
    conv, _, linear = module
    for layer, std in zip((conv, linear), stds, strict=True):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
        assert abs(layer.weight.mean().item()) < std / 20
        assert not layer.bias.any()


def test_default_draws_nothing():
    module, same = layers(), layers()
    state = torch.get_rng_state()
    initialize(module, "default")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), same.parameters(), strict=True))


def test_norms_keep_their_weights():
    network = Timm(name="test_resnet", init="normal(0.5)")
    gammas = [m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert gammas
    assert all(((g == 1) | (g == 0)).all() for g in gammas)
    convs = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.Conv2d)])
    assert convs.std().item() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("init", ["uniform", "normal", "normal(x)", "normal(-1)"])
def test_an_unknown_word_is_refused(init):
    with pytest.raises(
        ValueError, match=r"backbone.init=.*: default, he, xavier or normal\(<standard deviation>\)"
    ):
        ResNet(depth=20, family="cifar", init=init)
