"""VGG: its published numbers, torchvision's logits, the paper's configurations, and its knobs."""

import pytest
import torch
import torchvision
from torch import nn

from composing import composed
from paribus.checks import ConfigError, check
from paribus.models.backbones import dense
from paribus.models.backbones.vgg import VGG
from paribus.models.classifier import Classifier
from paribus.models.weights import in_order
from paribus.profile.complexity import count


def on_meta(**keys):
    with torch.device("meta"):
        return Classifier(backbone=VGG(**keys), num_classes=1000)


def shapes(**keys):
    return {name: tuple(value.shape) for name, value in on_meta(**keys).state_dict().items()}


def kinds(**keys):
    return [type(m).__name__ for m in on_meta(**keys).backbone.modules() if not list(m.children())]


@pytest.mark.parametrize(
    ("configuration", "plain", "normalized", "gmacs"),
    [
        ("A", 132_863_336, 132_868_840, 7.609),
        ("B", 133_047_848, 133_053_736, 11.308),
        ("D", 138_357_544, 138_365_992, 15.470),
        ("E", 143_667_240, 143_678_248, 19.632),
    ],
)
def test_parameters_and_multiply_adds_are_the_published_ones(configuration, plain, normalized, gmacs):
    for norm, parameters in (("none", plain), ("batch", normalized)):
        counted, macs = count(on_meta(configuration=configuration, norm=norm), (224, 224))
        assert counted == parameters
        assert round(macs / 1e9, 3) == gmacs


def test_configuration_c_has_three_convolutions_of_1x1():
    convolutions = [m for m in on_meta(configuration="C").modules() if isinstance(m, nn.Conv2d)]
    assert [c.kernel_size[0] for c in convolutions] == [3] * 6 + [1, 3, 3, 1, 3, 3, 1]
    # Each has 8 of 9 weights less than in D.
    less = 8 * (256 * 256 + 2 * 512 * 512)
    assert count(on_meta(configuration="C"), (224, 224))[0] == 138_357_544 - less


def test_a_lrn_is_a_with_the_papers_norm_after_the_first_convolution():
    plain = kinds(configuration="A")
    assert kinds(configuration="A-LRN") == [*plain[:2], "LocalResponseNorm", *plain[2:]]
    assert kinds(configuration="A", norm="local_response") == kinds(configuration="A-LRN")
    norm = on_meta(configuration="A-LRN").backbone.stages[0][1]
    assert (norm.size, norm.alpha, norm.beta, norm.k) == (5, 1e-4, 0.75, 2.0)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("vgg11", {"configuration": "A"}),
        ("vgg11_bn", {"configuration": "A", "norm": "batch"}),
        ("vgg16", {"configuration": "D"}),
    ],
)
def test_logits_equal_torchvisions(name, keys):
    torch.manual_seed(0)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name).eval()
    theirs.to_empty(device="cpu")
    for key, value in theirs.state_dict().items():  # torchvision would draw these 140 M twice
        if value.ndim > 1:
            value.normal_(std=(2 / value[0].numel()) ** 0.5)
        elif not key.endswith("num_batches_tracked"):
            value.uniform_(0.5, 1.5) if "running_var" in key else value.normal_(std=0.5)
    ours = on_meta(**keys).eval()
    ours.load_state_dict(in_order(ours, theirs.state_dict()), strict=False, assign=True)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs(x)
        assert torch.allclose(ours(x), expected, atol=1e-5)
    assert 0.1 < expected.std() < 100


def test_it_starts_as_torchvisions_does():
    torch.manual_seed(0)
    backbone = VGG(configuration="A", hidden=[512])
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            expected = (2 / (layer.out_channels * 9)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
            assert not layer.bias.any()
    assert backbone.fc[2].weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert VGG(hidden=[], init="normal(0.01)").stages[3][1][0].weight.std().item() == pytest.approx(
        0.01, rel=0.01
    )


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (70, 90)])
def test_maps_have_their_channels_and_strides(size):
    with torch.device("meta"):
        backbone = VGG(configuration="A")
        x = torch.zeros(2, 3, *size)
        found = backbone(x)
        assert backbone.embed(x).shape == (2, backbone.embedding)
    assert [m.shape[1] for m in found] == backbone.channels
    assert [tuple(m.shape[2:]) for m in found] == [(size[0] // s, size[1] // s) for s in backbone.strides]


def test_without_the_fully_connected_layers_the_maps_are_the_same():
    torch.manual_seed(0)
    backbone = VGG(configuration="A", hidden=[4]).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before, after = backbone(x), dense(backbone)(x)
    assert not [name for name, _ in backbone.named_parameters() if name.startswith("fc")]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "keys",
    [{"configuration": "A-LRN"}, {"configuration": "C", "norm": "batch", "se_reduction": 16}],
    ids=["A-LRN", "C-BN-SE"],
)
def test_every_parameter_has_a_gradient(keys):
    torch.manual_seed(0)
    model = Classifier(backbone=VGG(hidden=[16, 8], in_channels=1, init="he", **keys), num_classes=4)
    model(torch.randn(2, 1, 64, 32)).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_each_key_changes_what_it_says():
    plain = kinds()
    assert plain.count("Conv2d") == 13
    assert plain[-8:] == [
        "Grid",
        "Flatten",
        *["Linear", "ReLU", "Dropout"] * 2,
    ]
    assert kinds(activation="gelu") == [k.replace("ReLU", "GELU") for k in plain]
    assert kinds(dropout=0.1) == kinds(init="he") == plain
    assert [m.p for m in on_meta(dropout=0.1).backbone.modules() if isinstance(m, nn.Dropout)] == [0.1, 0.1]
    assert kinds(hidden=[]) == plain[:-6]
    assert on_meta(hidden=[]).head.in_features == 25088
    assert on_meta(width=16, hidden=[]).head.in_features == 25088 // 4
    assert on_meta(width=16).backbone.channels == [16, 32, 64, 128, 128, 128]
    for norm, kind in (("batch", "BatchNorm2d"), ("group", "GroupNorm"), ("instance", "InstanceNorm")):
        without = [k for k in kinds(norm=norm) if k != kind]
        assert without == plain
        assert kinds(norm=norm).count(kind) == 13
        # The convolutions keep their biases, as in torchvision.
        assert shapes(norm=norm).items() >= {k: s for k, s in shapes().items() if ".0.bias" in k}.items()


def test_squeeze_and_excitation_follows_every_activation():
    backbone = on_meta(configuration="A", se_reduction=8).backbone
    kind = [type(block).__name__ for stage in backbone.stages[:5] for block in stage]
    pairs, pool = ["ConvNormAct", "SqueezeExcite"], ["MaxPool2d"]
    assert kind == [*pairs, *pool, *pairs, *(pool + pairs * 2) * 3]
    assert backbone.stages[4][2].squeeze.out_channels == 512 // 8


def test_weights_of_another_library_are_taken_in_order_and_their_norm_replaced(tmp_path):
    torch.manual_seed(0)
    first = VGG(configuration="A", hidden=[], norm="batch")
    first.stages[0][0][1].running_var.fill_(4.0)
    torch.save({f"features.{k}": v for k, v in first.state_dict().items()}, tmp_path / "w.pth")
    again = VGG(configuration="A", hidden=[], norm="group", weights=str(tmp_path / "w.pth"))
    assert torch.equal(again.stages[4][1][0].weight, first.stages[4][1][0].weight)
    assert isinstance(again.stages[0][0][1], nn.GroupNorm)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"configuration": "F"}, r"backbone\.configuration=F: one of A, A-LRN, B, C, D, E"),
        ({"configuration": "A-LRN", "norm": "batch"}, r"backbone\.norm=batch: .*backbone\.configuration=A"),
        ({"configuration": "C", "pretrained": True}, r"backbone\.pretrained: .* of A, B, D, E"),
        ({"se_reduction": 16, "pretrained": True}, r"without se_reduction"),
        ({"configuration": "A-LRN", "pretrained": True}, r"without .*local_response"),
        ({"width": 32, "pretrained": True}, r"torchvision does of .* of width 64"),
        ({"width": 0}, r"backbone\.width=0: 1 or more"),
        ({"se_reduction": 128}, r"backbone\.se_reduction=128: from 1 to the 64 channels"),
    ],
)
def test_what_it_cannot_do_is_refused(keys, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        VGG(**keys)


def test_small_images_are_refused():
    with pytest.raises(ValueError, match=r"images of 32 pixels or more .*, not \(31, 64\)"):
        on_meta().backbone(torch.zeros(1, 3, 31, 64, device="meta"))


@pytest.mark.parametrize(("option", "configuration"), [(11, "A"), (13, "B"), (16, "D"), (19, "E")])
def test_the_options_are_the_configurations(option, configuration):
    checked = check(composed(f"backbone=vgg{option}"))
    assert (checked.backbone["configuration"], checked.backbone["norm"]) == (configuration, "none")


def test_the_config_knows_the_configurations():
    with pytest.raises(ConfigError, match=r"backbone\.configuration=F.*'A-LRN'"):
        check(composed("backbone=vgg", "backbone.configuration=F"))
