"""ResNets: the published numbers, the libraries' logits, and each key changes what it says."""

import pytest
import timm
import torch
import torchvision

from paribus.models.backbones.resnet import Block, ResNet, ZeroPad
from paribus.models.classifier import Classifier
from paribus.models.weights import in_order
from paribus.profile.complexity import count


def meta(classes=1000, **keys):
    with torch.device("meta"):
        return Classifier(backbone=ResNet(**keys), num_classes=classes)


@pytest.mark.parametrize(
    ("keys", "parameters", "gmacs"),
    [
        ({"depth": 18}, 11_689_512, 1.814),
        ({"depth": 34}, 21_797_672, 3.664),
        ({"depth": 50}, 25_557_032, 4.089),
        ({"depth": 50, "stride_at": "1x1"}, 25_557_032, 3.858),
        ({"depth": 101}, 44_549_160, 7.801),
        ({"depth": 101, "stride_at": "1x1"}, 44_549_160, 7.570),
        ({"depth": 152}, 60_192_808, 11.514),
        ({"depth": 152, "stride_at": "1x1"}, 60_192_808, 11.282),
        ({"depth": 50, "cardinality": 32, "base_width": 4}, 25_028_904, 4.230),
        ({"depth": 101, "cardinality": 32, "base_width": 8}, 88_791_336, 16.414),
        ({"depth": 50, "se_reduction": 16}, 28_088_024, 4.092),
        (
            {"depth": 50, "se_reduction": 16, "stride_at": "1x1"},
            28_088_024,
            3.860,
        ),  # 3.8605: 3.861 in the lists
    ],
)
def test_imagenet_numbers(keys, parameters, gmacs):
    counted, macs = count(meta(**keys), (224, 224))
    assert counted == parameters
    assert round(macs / 1e9, 3) == gmacs


@pytest.mark.parametrize(
    ("depth", "parameters", "mmacs"),
    [
        (20, 269_722, 40.6),
        (32, 464_154, 68.9),
        (44, 658_586, 97.2),
        (56, 853_018, 125.5),
        (110, 1_727_962, 252.9),
    ],
)
@pytest.mark.parametrize("shortcut", ["A", "none"])
def test_cifar_numbers(depth, parameters, mmacs, shortcut):
    model = meta(10, depth=depth, family="cifar", shortcut=shortcut)
    counted, macs = count(model, (32, 32))
    assert counted == parameters
    assert round(macs / 1e6, 1) == mmacs


def put_across(keys, theirs):
    """Ours with the weights of theirs, both with statistics that are not 0 and 1."""
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
    ours = Classifier(backbone=ResNet(**keys), num_classes=theirs.fc.out_features)
    ours.load_state_dict(in_order(ours, theirs.state_dict()), strict=False)
    return ours.eval()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet18", {"depth": 18}),
        ("resnet50", {"depth": 50}),
        ("resnext50_32x4d", {"depth": 50, "cardinality": 32, "base_width": 4}),
    ],
)
def test_logits_equal_torchvisions(name, keys):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=7).eval()
    ours = put_across(keys, theirs)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
        assert theirs(x).std() > 0.01


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_logits_equal_timms_dilated(output_stride):
    torch.manual_seed(0)
    theirs = timm.create_model("seresnet50", num_classes=5, output_stride=output_stride).eval()
    ours = put_across({"depth": 50, "se_reduction": 16, "output_stride": output_stride}, theirs)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
    assert ours.backbone.strides == [min(s, output_stride) for s in (2, 4, 8, 16, 32)]


@pytest.mark.parametrize(
    ("keys", "strides"),
    [
        ({}, [2, 4, 8, 16, 32]),
        ({"stem": "cifar"}, [1, 2, 4, 8]),
        ({"family": "cifar", "depth": 14}, [1, 2, 4]),
    ],
)
def test_maps_have_their_channels_and_strides(keys, strides):
    network = ResNet(**{"depth": 18, **keys})
    maps = network(torch.randn(2, 3, 64, 96))
    assert network.strides == strides
    assert [m.shape[1] for m in maps] == network.channels
    assert [(64 // m.shape[2], 96 // m.shape[3]) for m in maps] == [(s, s) for s in strides]


def blocks(**keys):
    network = ResNet(**{"depth": 14, "family": "cifar", **keys})
    return [m for m in network.modules() if isinstance(m, Block)]


def test_shortcuts():
    assert all(b.shortcut is None for b in blocks(shortcut="none"))
    kinds = [type(b.shortcut).__name__ for b in blocks(shortcut="A")]
    assert kinds == ["Identity", "Identity", "ZeroPad", "Identity", "ZeroPad", "Identity"]
    kinds = [type(b.shortcut).__name__ for b in blocks(shortcut="B")]
    assert kinds == ["Identity", "Identity", "Sequential", "Identity", "Sequential", "Identity"]
    assert all(type(b.shortcut).__name__ == "Sequential" for b in blocks(shortcut="C"))


def test_shortcut_a_is_the_input_with_zeros():
    x = torch.randn(1, 2, 5, 4)
    y = ZeroPad(2, 3)(x)
    assert y.shape == (1, 5, 3, 2)
    assert torch.equal(y[:, :2], x[:, :, ::2, ::2])
    assert not y[:, 2:].any()


def test_stochastic_depth_grows_to_the_last_block():
    rates = [getattr(b.drop_path, "p", 0.0) for b in blocks(drop_path=0.5)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_dropout_is_between_the_convolutions():
    for block in blocks(dropout=0.3):
        names = [type(m).__name__ for m in block.residual]
        assert names == ["Conv2d", "BatchNorm2d", "ReLU", "Dropout", "Conv2d", "BatchNorm2d"]


def test_the_seed_draws_the_same_weights_for_every_norm_and_activation():
    """All else equal: a factor's levels start from the same convolutions."""

    def convs(**keys):
        torch.manual_seed(3)
        network = ResNet(depth=8, family="cifar", **keys)
        return torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, torch.nn.Conv2d)])

    plain = convs(shortcut="A")
    for keys in ({"norm": "group"}, {"norm": "none"}, {"activation": "gelu"}, {"shortcut": "none"}):
        keys = {"shortcut": "A", **keys}
        assert torch.equal(plain, convs(**keys)), keys


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"depth": 20},
            r"backbone.depth=20: one of 18, 34, 50, 101, 152, or 6n \+ 2 with backbone=cifar_resnet",
        ),
        ({"depth": 21, "family": "cifar"}, r"backbone.depth=21: 6n \+ 2, such as 20"),
        ({"depth": 18, "cardinality": 32}, r"cardinality.*are of bottlenecks: take backbone.depth=50"),
        ({"depth": 18, "stride_at": "1x1"}, r"stride_at are of bottlenecks"),
        ({"depth": 18, "shortcut": "none", "drop_path": 0.1}, r"backbone.drop_path drops blocks"),
        ({"depth": 18, "output_stride": 2}, r"backbone.output_stride=2: at least 4"),
        ({"depth": 18, "se_reduction": 100}, r"backbone.se_reduction=100: from 1 to the 64 channels"),
        (
            {"depth": 20, "family": "cifar", "pretrained": True},
            r"backbone.pretrained: nobody publishes weights of this network",
        ),
        (
            {"depth": 18, "pretrained": True, "weights": "x"},
            r"backbone.pretrained and backbone.weights: choose",
        ),
    ],
)
def test_refusals(keys, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**keys)


def test_pretrained_weights_that_cannot_be_had(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"timm's weights of resnet18 cannot be had .*backbone.weights=<file>"
    ):
        ResNet(depth=18, pretrained=True)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet18", {"depth": 18}),
        ("seresnet50", {"depth": 50, "se_reduction": 16}),
        ("resnext50_32x4d", {"depth": 50, "cardinality": 32, "base_width": 4}),
    ],
)
def test_pretrained_takes_timms_network_of_the_name(name, keys, monkeypatch):
    make, asked = timm.create_model, []

    def create(name, pretrained):
        asked.append((name, pretrained))
        return make(name)

    monkeypatch.setattr("timm.create_model", create)
    torch.manual_seed(0)
    ours = ResNet(**keys, pretrained=True)
    assert asked == [(name, True)]
    torch.manual_seed(0)
    drawn = ResNet(**keys)
    assert not torch.equal(ours.stages[0][0].weight, drawn.stages[0][0].weight)
    with pytest.raises(ValueError, match=r"timm's weights of .* do not fit this network, whose knobs change"):
        ResNet(**keys, shortcut="A", pretrained=True)


def test_weights_of_another_library_from_a_file(tmp_path):
    theirs = torchvision.models.resnet18(num_classes=3)
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    ours = ResNet(depth=18, weights=str(tmp_path / "resnet18.pth"))
    assert torch.equal(ours.stages[0][0].weight, theirs.conv1.weight)
    assert torch.equal(list(ours.parameters())[-1], theirs.layer4[1].bn2.bias)
    # A norm in the place of the file's takes over its weights; none also the statistics.
    with torch.no_grad():
        theirs.bn1.weight.uniform_(0.5, 2)
        theirs.bn1.running_var.uniform_(0.5, 2)
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    grouped = ResNet(depth=18, norm="group", weights=str(tmp_path / "resnet18.pth"))
    assert torch.equal(grouped.stages[0][1].weight, theirs.bn1.weight)
    x = torch.randn(1, 3, 64, 64)
    folded = ResNet(depth=18, norm="none", weights=str(tmp_path / "resnet18.pth")).eval()
    features = torchvision.models.feature_extraction.create_feature_extractor(theirs.eval(), ["layer4"])
    with torch.no_grad():
        torch.testing.assert_close(folded(x)[-1], features(x)["layer4"], rtol=1e-4, atol=1e-5)
