"""Norms: what replaces what, with which values, and that nothing else changes."""

from typing import get_args

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from paribus.models.normalization import Affine, Norm, calibrate, groups, make_norm, replace_norm

NORMS = get_args(Norm)


def network(name="test_efficientnet", seed=0):
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=5)


@pytest.mark.parametrize("norm", NORMS)
def test_each_norm_keeps_the_shape_and_has_weight_and_bias(norm):
    layer = make_norm(norm, 24)
    x = torch.randn(2, 24, 5, 5, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    assert y.shape == x.shape
    assert layer.weight.shape == layer.bias.shape == (24,)
    assert layer.weight.grad.isfinite().all()
    assert layer.bias.grad.isfinite().all()


def test_what_each_norm_normalizes():
    x = 3 + 2 * torch.randn(4, 64, 6, 6)
    over = {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}
    for norm, dims in over.items():
        y = make_norm(norm, 64)(x)
        assert torch.allclose(y.mean(dims), torch.zeros(()), atol=1e-5)
        assert torch.allclose(y.std(dims, correction=0), torch.ones(()), atol=1e-4)
    grouped = make_norm("group", 64)(x).reshape(4, 32, 2, 6, 6)
    assert torch.allclose(grouped.mean((2, 3, 4)), torch.zeros(()), atol=1e-5)
    assert torch.equal(make_norm("none", 64)(x), x)


def test_local_response_norm_is_the_papers_formula():
    x = 30 * torch.randn(1, 7, 2, 2)
    y = make_norm("local_response", 7)(x)
    for c in range(7):
        window = x[:, max(0, c - 2) : c + 3].square().sum(1)
        assert torch.allclose(y[:, c], x[:, c] / (1 + 1e-4 / 5 * window) ** 0.75, rtol=1e-5)


@pytest.mark.parametrize(
    ("channels", "number"), [(64, 32), (256, 32), (32, 16), (16, 8), (24, 12), (17, 1), (96, 32)]
)
def test_number_of_groups(channels, number):
    assert groups(channels) == number


def test_instance_norm_refuses_a_map_of_one_cell():
    with pytest.raises(ValueError, match=r"backbone.norm=group"):
        make_norm("instance", 8)(torch.randn(2, 8, 1, 1))


@pytest.mark.parametrize("norm", NORMS)
def test_replacing_copies_the_affine_and_keeps_activations(norm):
    before = network()
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    affine = {n: p.clone() for n, p in before.named_parameters() if ".bn" in n or n.startswith("bn")}
    activations = sum(isinstance(m, nn.SiLU | nn.ReLU) for m in before.modules())
    after = replace_norm(before, norm)
    assert sum(isinstance(m, nn.SiLU | nn.ReLU) for m in after.modules()) == activations
    copied = {
        n.replace("bn1.0.", "bn1.").replace("bn2.0.", "bn2.").replace("bn3.0.", "bn3."): p
        for n, p in after.named_parameters()
    }
    assert affine
    for name, value in affine.items():
        assert torch.allclose(copied[name], value, rtol=1e-4), name
    if norm not in ("batch", "sync_batch"):
        assert not any(isinstance(m, nn.BatchNorm2d) for m in after.modules())
    assert after(torch.randn(2, 3, 64, 64)).isfinite().all()


def test_zero_initialized_gammas_stay_zero():
    zeros = [
        n
        for n, p in network("test_resnet").named_parameters()
        if p.ndim == 1 and "weight" in n and not p.any()
    ]
    assert zeros
    for norm in ("group", "none"):
        parameters = dict(replace_norm(network("test_resnet"), norm).named_parameters())
        assert not any(parameters[name].any() for name in zeros)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_sync_batch_computes_what_batch_does(name):
    x = torch.randn(4, 3, 64, 64)
    expected = network(name)(x)
    assert torch.allclose(replace_norm(network(name), "sync_batch")(x), expected, atol=1e-6)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in replace_norm(network(name), "sync_batch").modules())


def test_a_trained_network_without_its_norm_still_computes_the_same():
    trained = network().train()
    for _ in range(3):
        trained(2 + torch.randn(4, 3, 64, 64))
    trained.eval()
    x = torch.randn(2, 3, 64, 64)
    expected = trained(x).detach()
    assert torch.allclose(replace_norm(trained, "none")(x), expected, atol=1e-4)


def test_replacing_draws_no_random_numbers():
    model = network()
    state = torch.get_rng_state()
    calibrate(replace_norm(model, "none"), (64, 64), 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_calibration_keeps_maps_of_unit_size_through_a_deep_network():
    torch.manual_seed(0)
    layers = [
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), Affine(8), nn.ReLU()) for _ in range(20)
    ]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *layers)
    x = torch.randn(4, 3, 32, 32)
    assert model(x).abs().max() < 1e-3
    calibrate(model, (32, 32), 3)
    assert 0.1 < model(x).square().mean() < 10
    assert model.training


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_a_network_without_batch_norm_is_refused(name):
    with pytest.raises(ValueError, match="no batch norm to replace"):
        replace_norm(network(name), "group")


def test_batch_norm_of_vectors_is_refused_and_the_network_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match="normalizes vectors"):
        replace_norm(model, "group")
    assert isinstance(model[1], nn.BatchNorm2d)


def test_an_unknown_norm_is_named_with_those_that_exist():
    for call in (lambda: make_norm("bath", 4), lambda: replace_norm(network(), "bath")):
        with pytest.raises(ValueError, match=r"no norm 'bath'.*batch, sync_batch, group"):
            call()


def test_the_networks_under_test_hold_activations_inside_their_norms():
    assert any(isinstance(m, BatchNormAct2d) for m in network().modules())
