"""GoogLeNet: torchvision's logit for logit, the paper's by its numbers, and every key changes what it says."""

import warnings
from typing import get_args

import pytest
import torch
import torchvision

from composing import composed
from paribus.models.backbones.googlenet import GoogLeNet
from paribus.models.classifier import Classifier
from paribus.models.normalization import LocalResponseNorm, Norm
from paribus.models.weights import in_order
from paribus.profile.complexity import count, layers

PAPER = {"kernel": 5, "last_pool": 3}


def counted(auxiliary=False, **keys):
    with torch.device("meta"):
        model = Classifier(backbone=GoogLeNet(**keys), num_classes=1000, auxiliary=auxiliary)
    return count(model, (224, 224))


def torchvisions(auxiliary=False, **keys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torchvision.models.googlenet(
            weights=None, init_weights=False, num_classes=7, aux_logits=auxiliary, **keys
        )
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, std=0.2)
            layer.momentum = 1.0
    with torch.no_grad():
        network(torch.randn(8, 3, 64, 64))  # for statistics that are not 0 and 1
    return network.eval()


def test_torchvisions_numbers():
    parameters, macs = counted()
    assert parameters == 6_624_904
    assert round(macs / 1e9, 3) == 1.498


def test_auxiliary_classifiers_have_torchvisions_parameters_and_cost_nothing_in_evaluation():
    parameters, macs = counted(auxiliary=True)
    heads = sum(c * 128 + 2 * 128 + (2048 + 1) * 1024 + (1024 + 1) * 1000 for c in (512, 528))
    assert parameters == 13_004_888 == 6_624_904 + heads
    assert macs == counted()[1]


@pytest.mark.parametrize("norm", ["none", "local_response"])
def test_the_network_of_2014(norm):
    parameters, macs = counted(**PAPER, norm=norm)
    assert parameters == 6_998_552
    # To torchvision's, from 3x3 to 5x5 in the third branch: 16 more places a filter.
    fives = [(28, 16, 32), (28, 32, 96), (14, 16, 48), (14, 24, 64), (14, 24, 64), (14, 32, 64)]
    fives += [(14, 32, 128), (7, 32, 128), (7, 48, 128)]
    assert macs == 1_498_376_192 + sum(16 * cells**2 * a * b for cells, a, b in fives)


def test_the_stem_of_the_lecture():
    with torch.device("meta"):
        network = GoogLeNet(norm="none")
    found = layers(network, (224, 224))
    stem = found[: [row.output for row in found].index((192, 28, 28)) + 1]
    assert round(sum(row.memory for row in stem) / 2**20, 1) == 7.5
    assert sum(row.parameters for row in stem) == 124_416
    # 7x7 of 3, 1x1 of 64 and 3x3 of 64 channels. The lecture's 418 M are a slip: its own rows give 478.
    assert sum(row.macs for row in stem) == 112**2 * 147 * 64 + 56**2 * (64 * 64 + 576 * 192) == 477_675_520


def test_logits_equal_torchvisions():
    torch.manual_seed(0)
    theirs = torchvisions()
    ours = Classifier(backbone=GoogLeNet(), num_classes=7).eval()
    ours.load_state_dict(in_order(ours, theirs.state_dict()), strict=False)
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
        assert (theirs(x)[0] - theirs(x)[1]).abs().max() > 0.01


def test_auxiliary_logits_equal_torchvisions():
    torch.manual_seed(0)
    theirs = torchvisions(auxiliary=True, dropout=0.0, dropout_aux=0.0)
    ours = Classifier(backbone=GoogLeNet(dropout=0.0), num_classes=7, auxiliary=True).eval()
    content = theirs.state_dict()
    last = {name: content.pop(name) for name in list(content) if name.startswith("aux")}
    ours.load_state_dict(in_order(ours, content | last), strict=False)
    for layer in ours.auxiliary.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eps = 1e-3
    x = torch.randn(2, 3, 96, 64)
    ours.training = theirs.training = True  # they answer, and every layer keeps its running statistics
    with torch.no_grad():
        found, expected = ours(x), theirs(x)
    expected = (expected.logits, expected.aux_logits1, expected.aux_logits2)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_pretrained_takes_torchvisions_weights_and_what_they_expect_of_the_images(monkeypatch):
    torch.manual_seed(0)
    theirs = torchvisions(transform_input=True)
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: theirs)
    ours = GoogLeNet(pretrained=True, rescale=True).eval()
    x = torch.randn(2, 3, 64, 64)
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.allclose(ours.embed(x), theirs(x), atol=1e-5)
        assert not torch.allclose(GoogLeNet(pretrained=True).eval().embed(x), theirs(x), atol=1e-2)
    with pytest.raises(ValueError, match="torchvision's weights of googlenet do not fit this network"):
        GoogLeNet(pretrained=True, kernel=5)


def test_the_config_rescales_where_it_takes_torchvisions_weights():
    for pretrained in (True, False):
        node = composed("backbone=googlenet", f"backbone.pretrained={pretrained}").backbone
        assert node.rescale is pretrained
    network = GoogLeNet(rescale=True)
    assert network.state_dict().keys() == GoogLeNet().state_dict().keys()


@pytest.mark.parametrize(
    "keys", [{}, {"norm": "local_response"}, {**PAPER, "norm": "none", "se_reduction": 16}]
)
def test_maps_and_inner_maps_are_those_promised(keys):
    network = GoogLeNet(**keys).eval()
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        found, inner = network.with_auxiliary(x)
        assert all(torch.equal(a, b) for a, b in zip(found, network(x), strict=True))
        fourth = network.stages[3]
        assert torch.equal(inner[0], fourth[:2](found[2]))
        assert torch.equal(inner[1], fourth[:5](found[2]))
    assert [m.shape[1] for m in found] == network.channels
    assert [(96 // m.shape[2], 64 // m.shape[3]) for m in found] == [(s, s) for s in network.strides]
    assert [m.shape[1] for m in inner] == network.auxiliary_channels


@pytest.mark.parametrize("norm", get_args(Norm))
def test_every_parameter_learns_from_the_three_classifiers(norm):
    torch.manual_seed(0)
    model = Classifier(backbone=GoogLeNet(norm=norm), num_classes=3, auxiliary=True).train()
    found = model(torch.randn(2, 3, 80, 80))
    torch.stack(found).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    inner = [p for name, p in model.named_parameters() if name.startswith("auxiliary") and p.ndim > 1]
    assert len(inner) == 6
    assert all(p.grad.any() for p in inner)


def test_squeeze_and_excitation_is_on_every_modules_output():
    parameters = counted(se_reduction=16)[0]
    widths = [256, 480, 512, 512, 512, 528, 832, 832, 1024]
    assert parameters - 6_624_904 == sum(2 * w * (w // 16) + w // 16 + w for w in widths)


def test_local_response_norm_is_where_the_paper_has_it():
    network = GoogLeNet(norm="local_response")
    kinds = [type(layer).__name__ for layer in network.stages[1]]
    assert kinds == ["MaxPool2d", "LocalResponseNorm", "ConvNormAct", "ConvNormAct", "LocalResponseNorm"]
    assert sum(isinstance(layer, LocalResponseNorm) for layer in network.modules()) == 2
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())


def shapes(**keys):
    with torch.device("meta"):
        return {name: value.shape for name, value in GoogLeNet(**keys).state_dict().items()}


def test_every_key_changes_what_it_says_and_nothing_else():
    base = shapes()
    changed = {name for name, shape in shapes(kernel=5).items() if base[name] != shape}
    assert len(changed) == 9
    assert all(name.endswith(".branches.2.1.0.weight") for name in changed)
    assert shapes(last_pool=3) == shapes(dropout=0.0) == shapes(rescale=True) == base
    grey = shapes(in_channels=1)
    assert [name for name in base if grey[name] != base[name]] == ["stages.0.0.weight"]
    assert all("excite" in name for name in shapes(se_reduction=16).keys() ^ base.keys())
    with torch.device("meta"):
        assert [GoogLeNet(last_pool=size).stages[4][0].kernel_size for size in (2, 3)] == [2, 3]


def test_dropout_is_the_classifiers_and_leaves_the_maps():
    network = GoogLeNet(norm="group").train()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(x)[-1], network(x)[-1])
        share = (network.pooled(torch.ones(64, 1024, 2, 2)) == 0).float().mean()
        assert share == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"se_reduction": 0.5}, "backbone.se_reduction=0.5: from 1"),
        ({"se_reduction": 1000}, "backbone.se_reduction=1000: from 1 to the 256 channels"),
        ({"rescale": True, "in_channels": 1}, "rescale is of three channels, not 1: backbone.rescale=false"),
        ({"norm": "bath"}, "backbone.norm=bath: there is no norm 'bath'"),
        ({"activation": "rely"}, "backbone.activation=rely: there is no activation 'rely'"),
        ({"init": "zero"}, "backbone.init=zero: default, he"),
        ({"pretrained": True, "weights": "x"}, "choose one"),
    ],
)
def test_refusals(keys, message):
    with pytest.raises(ValueError, match=message):
        GoogLeNet(**keys)
