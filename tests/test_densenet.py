"""DenseNet: the libraries' networks logit for logit, the paper's by their numbers, every key what it says."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from paribus.models.backbones.densenet import DenseNet
from paribus.models.classifier import Classifier
from paribus.models.weights import in_order
from paribus.profile.complexity import count


def counted(num_classes=1000, size=224, **keys):
    with torch.device("meta"):
        model = Classifier(backbone=DenseNet(**keys), num_classes=num_classes)
    return count(model, (size, size))


@pytest.mark.parametrize(
    ("depth", "parameters", "gmacs"),
    [
        (121, 7_978_856, 2.834),
        (161, 28_681_000, 7.728),
        (169, 14_149_480, 3.360),
        (201, 20_013_928, 4.291),
    ],
)
def test_the_libraries_numbers(depth, parameters, gmacs):
    counted_parameters, macs = counted(depth=depth)
    assert counted_parameters == parameters
    assert round(macs / 1e9, 3) == gmacs


def by_hand(n, k, bottleneck, compression):
    """Parameters of three blocks of n layers, for ten classes: each convolution and the norm before it."""
    channels = 2 * k if bottleneck and compression < 1 else 16
    total = 27 * channels
    for block in range(3):
        if block:
            kept = int(channels * compression)
            total, channels = total + 2 * channels + channels * kept, kept
        for _ in range(n):
            if bottleneck:
                total += 2 * channels + channels * 4 * k + 8 * k + 9 * 4 * k * k
            else:
                total += 2 * channels + 9 * channels * k
            channels += k
    return total + 2 * channels + 10 * channels + 10


@pytest.mark.parametrize(
    ("keys", "parameters", "paper"),
    [
        ({"depth": 40, "bottleneck": False, "compression": 1.0}, 1_019_722, 1.0),
        ({"depth": 100, "bottleneck": False, "compression": 1.0}, 6_979_642, 7.0),
        ({"depth": 100, "growth": 24, "bottleneck": False, "compression": 1.0}, 27_249_082, 27.2),
        ({"depth": 100}, 769_162, 0.8),
        ({"depth": 250, "growth": 24}, 15_324_406, 15.3),
        ({"depth": 190, "growth": 40}, 25_624_430, 25.6),
    ],
)
def test_the_papers_networks_for_cifar(keys, parameters, paper):
    found, _ = counted(family="cifar", num_classes=10, size=32, **keys)
    bottleneck, compression = keys.get("bottleneck", True), keys.get("compression", 0.5)
    n = (keys["depth"] - 4) // (6 if bottleneck else 3)
    assert found == parameters == by_hand(n, keys.get("growth", 12), bottleneck, compression)
    assert round(found / 1e6, 1) == paper


@pytest.mark.parametrize(
    "library", [torchvision.models.densenet121, lambda: timm.create_model("densenet121")], ids=["tv", "timm"]
)
def test_logits_equal_the_libraries(library):
    torch.manual_seed(0)
    theirs = library()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            layer.momentum = 1.0
    x = torch.randn(4, 3, 64, 64)
    ours = Classifier(backbone=DenseNet(depth=121), num_classes=1000).eval()
    with torch.no_grad():
        theirs(x)  # for statistics that are not 0 and 1
        ours.load_state_dict(in_order(ours, theirs.state_dict()), strict=False)
        expected = theirs.eval()(x)
        assert torch.allclose(ours(x), expected, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 0.01


def test_pretrained_takes_timms_weights(monkeypatch):
    theirs = timm.create_model("densenet121")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: {"densenet121": theirs}[name])
    ours = DenseNet(depth=121, pretrained=True)
    assert torch.equal(ours.stages[4][-2].running_var, theirs.features.norm5.running_var)
    assert torch.equal(ours.stages[0][0].weight, theirs.features.conv0.weight)
    with pytest.raises(ValueError, match="timm's weights of densenet121 do not fit this network"):
        DenseNet(depth=121, growth=12, pretrained=True)


@pytest.mark.parametrize(
    "keys",
    [
        {"depth": 121, "growth": 4},
        {"family": "cifar", "depth": 10, "growth": 4},
        {"family": "cifar", "depth": 10, "bottleneck": False, "compression": 0.7, "in_channels": 1},
    ],
)
def test_maps_are_those_promised(keys):
    network = DenseNet(**keys).eval()
    with torch.no_grad():
        found = network(torch.randn(1, keys.get("in_channels", 3), 64, 96))
    assert [m.shape[1] for m in found] == network.channels
    assert [(64 // m.shape[2], 96 // m.shape[3]) for m in found] == [(s, s) for s in network.strides]
    assert found[-1].min() == 0  # behind the last norm and its ReLU
    assert found[-2].min() < 0


def test_a_layer_keeps_what_it_was_given():
    network = DenseNet(family="cifar", depth=10, growth=4).eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        first = network.stages[0][0](x)
        assert torch.equal(network(x)[0][:, : first.shape[1]], first)


def widths(**keys):
    with torch.device("meta"):
        return [
            (m.in_channels, m.out_channels) for m in DenseNet(**keys).modules() if isinstance(m, nn.Conv2d)
        ]


def test_every_key_changes_what_it_says_and_nothing_else():
    cifar = {"family": "cifar", "depth": 10}
    assert widths(**cifar, growth=4, bottleneck=False, compression=1.0) == [
        *[(3, 16), (16, 4), (20, 4), (24, 24), (24, 4), (28, 4), (32, 32), (32, 4), (36, 4)]
    ]
    assert widths(**cifar, growth=4, bottleneck=False, compression=0.5) == [
        *[(3, 16), (16, 4), (20, 4), (24, 12), (12, 4), (16, 4), (20, 10), (10, 4), (14, 4)]
    ]
    assert widths(**cifar, growth=4, compression=1.0) == [
        *[(3, 16), (16, 16), (16, 4), (20, 20), (20, 16), (16, 4), (24, 24), (24, 16), (16, 4)]
    ]
    assert widths(**cifar, growth=4)[0] == (3, 8)
    assert widths(**cifar) == widths(**cifar, growth=12)
    assert widths(depth=161) == widths(depth=161, growth=48) != widths(depth=161, growth=32)


def test_dropout_is_after_every_convolution_but_the_first():
    network = DenseNet(family="cifar", depth=10, dropout=0.2)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Dropout)]
    assert [type(m).__name__ for m in layers] == ["Conv2d"] + ["Conv2d", "Dropout"] * 8
    assert {m.p for m in layers if isinstance(m, nn.Dropout)} == {0.2}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"depth": 122}, "backbone.depth=122: one of 121, 161, 169, 201, or 3n"),
        ({"depth": 12, "family": "cifar"}, r"depth=12: with bottleneck=true 6n \+ 4, such as 40, 100"),
        ({"depth": 4, "family": "cifar"}, r"depth=4: with bottleneck=true 6n \+ 4"),
        (
            {"depth": 12, "family": "cifar", "bottleneck": False},
            r"depth=12: with bottleneck=false 3n \+ 4",
        ),
        (
            {"depth": 121, "bottleneck": False},
            "family=imagenet count bottlenecks; without, take backbone=cifar",
        ),
        ({"depth": 121, "growth": 0}, "backbone.growth=0: 1 or more"),
        ({"depth": 121, "compression": 0.0}, "backbone.compression=0.0: above 0, to 1"),
        ({"depth": 121, "compression": 1.5}, "backbone.compression=1.5: above 0, to 1"),
        ({"depth": 40, "family": "cifar", "pretrained": True}, "nobody publishes weights of this network"),
        ({"depth": 121, "pretrained": True, "weights": "x"}, "choose one"),
    ],
)
def test_refusals(keys, message):
    with pytest.raises(ValueError, match=message):
        DenseNet(**keys)
