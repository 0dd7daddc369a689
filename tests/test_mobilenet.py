"""MobileNetV1: timm's logit for logit, the paper's by its numbers, every key what it says."""

import pytest
import timm
import torch
from torch import nn

from composing import composed
from paribus.models.backbones.mobilenet import MobileNet
from paribus.models.classifier import Classifier
from paribus.models.weights import in_order
from paribus.profile.complexity import count


def counted(**keys):
    with torch.device("meta"):
        model = Classifier(backbone=MobileNet(**keys), num_classes=1000)
    return count(model, (224, 224))


def test_timms_numbers():
    parameters, macs = counted()
    assert parameters == 4_231_976
    assert round(macs / 1e9, 4) == 0.5687


@pytest.mark.parametrize(
    ("keys", "millions", "mmacs"),
    [
        ({"width": 1.0}, 4.2, 569),
        ({"width": 0.75}, 2.6, 325),
        ({"width": 0.5}, 1.3, 149),
        ({"width": 0.25}, 0.5, 41),
        ({"separable": False}, 29.3, 4867),  # the paper has 4866
    ],
)
def test_the_papers_numbers(keys, millions, mmacs):
    parameters, macs = counted(**keys)
    assert round(parameters / 1e6, 1) == millions
    assert round(macs / 1e6) == mmacs


def test_a_separable_block_costs_what_the_paper_says():
    """1 / N + 1 / K^2 of a full convolution of N output channels and kernel K (section 3.1)."""

    def cost(separable):
        with torch.device("meta"):
            block = MobileNet(separable=separable).stages[3][1]
            convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        return sum(m.weight.numel() for m in convolutions)

    assert cost(True) / cost(False) == pytest.approx(1 / 512 + 1 / 9)


def timms(name, **keys):
    network = timm.create_model(name, **keys)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            layer.momentum = 1.0
    with torch.no_grad():
        network(2 * torch.randn(8, 3, 64, 64))  # for statistics that are not 0 and 1
    return network.eval()


@pytest.mark.parametrize(("name", "width"), [("mobilenetv1_100", 1.0), ("mobilenetv1_125", 1.25)])
def test_logits_equal_timms(name, width):
    torch.manual_seed(0)
    theirs = timms(name, num_classes=7)
    ours = Classifier(backbone=MobileNet(width=width), num_classes=7).eval()
    ours.load_state_dict(in_order(ours, theirs.state_dict()), strict=False)
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        expected = theirs(x)
        assert torch.allclose(ours(x), expected, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 0.01
    found = []
    for layer in ours.modules():
        if isinstance(layer, nn.ReLU6):
            layer.register_forward_hook(lambda *a: found.append(a[2].max().item()))
    ours(x)
    assert max(found) == 6  # where ReLU would give another answer


def test_pretrained_takes_timms_weights_and_what_they_expect_of_the_images(monkeypatch):
    torch.manual_seed(0)
    theirs = timms("mobilenetv1_100")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: {"mobilenetv1_100": theirs}[name])
    ours = MobileNet(pretrained=True, rescale=True).eval()
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (pixels - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        assert torch.allclose(ours(images)[-1], theirs.forward_features((pixels - 0.5) / 0.5), atol=1e-4)
    own = timm.models.get_pretrained_cfg("mobilenetv1_100")
    assert own.mean == own.std == (0.5, 0.5, 0.5)


def test_the_config_rescales_where_it_takes_timms_weights():
    for pretrained in (True, False):
        assert (
            composed("backbone=mobilenet_v1", f"backbone.pretrained={pretrained}").backbone.rescale
            is pretrained
        )


@pytest.mark.parametrize("keys", [{}, {"width": 0.25, "separable": False, "in_channels": 1}, {"width": 0.01}])
def test_maps_are_those_promised(keys):
    network = MobileNet(**keys).eval()
    with torch.no_grad():
        found = network(torch.randn(1, keys.get("in_channels", 3), 64, 96))
    assert [m.shape[1] for m in found] == network.channels
    assert [(64 // m.shape[2], 96 // m.shape[3]) for m in found] == [(s, s) for s in network.strides]


def convolutions(**keys):
    with torch.device("meta"):
        network = MobileNet(**keys)
    return [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.groups)
        for m in network.modules()
        if isinstance(m, nn.Conv2d)
    ]


def test_every_key_changes_what_it_says_and_nothing_else():
    base, full = convolutions(), convolutions(separable=False)
    pairs = list(zip(base[1::2], base[2::2], strict=True))
    assert full == [base[0]] + [(a[0], b[1], 3, a[3], 1) for a, b in pairs]
    half = [(a if a == 3 else a // 2, b // 2, k, s, g if g == 1 else g // 2) for a, b, k, s, g in base]
    assert convolutions(width=0.5) == half
    assert convolutions(dropout=0.5) == convolutions(rescale=True) == base
    kinds = {type(m).__name__ for m in MobileNet(width=0.25, activation="relu").modules()}
    assert "ReLU" in kinds
    assert "ReLU6" not in kinds


def test_dropout_is_after_each_block():
    network = MobileNet(width=0.25, dropout=0.3)
    assert [type(block[-1]).__name__ for stage in network.stages[1:] for block in stage] == ["Dropout"] * 12
    assert sum(isinstance(m, nn.Dropout) for m in network.modules()) == 13


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"width": 0.0}, "backbone.width=0.0: above 0"),
        ({"rescale": True, "in_channels": 1}, "rescale is of three channels, not 1: backbone.rescale=false"),
        (
            {"width": 0.5, "pretrained": True},
            "nobody publishes weights of this network; set backbone.width=1.0",
        ),
        ({"separable": False, "pretrained": True}, "nobody publishes weights of this network"),
        ({"pretrained": True, "weights": "x"}, "choose one"),
        ({"norm": "bath"}, "backbone.norm=bath: there is no norm 'bath'"),
    ],
)
def test_refusals(keys, message):
    with pytest.raises(ValueError, match=message):
        MobileNet(**keys)
