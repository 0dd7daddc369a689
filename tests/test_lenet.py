"""LeNet-5: its 61,706 parameters, the sizes it takes, and its knobs."""

import pytest
import torch
from torch import nn

from paribus.models.backbones import dense
from paribus.models.backbones.lenet import LeNet
from paribus.models.classifier import Classifier
from paribus.profile.complexity import count


def classifier(**keys):
    return Classifier(backbone=LeNet(**{"in_channels": 1} | keys), num_classes=10)


def kinds(**keys):
    return [type(m).__name__ for m in LeNet(**keys).modules() if not list(m.children())]


def test_parameters_and_multiply_adds_are_the_published_ones():
    parameters, macs = count(classifier(), (32, 32), 1)
    assert parameters == 61_706
    by_hand = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10
    assert macs == by_hand
    assert round(macs / 1e9, 4) == 0.0004


def test_padded_it_does_the_same_with_images_of_28():
    torch.manual_seed(0)
    plain, padded = classifier().eval(), classifier(padding=2).eval()
    padded.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, 28, 28)
    assert torch.allclose(padded(x), plain(nn.functional.pad(x, (2, 2, 2, 2))), atol=1e-6)


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (70, 90)])
def test_maps_have_their_channels_and_strides(padding, size):
    backbone = LeNet(padding=padding)
    x = torch.randn(2, 3, *size)
    found = backbone(x)
    assert [m.shape[1] for m in found] == backbone.channels
    for m, stride in zip(found, backbone.strides, strict=True):
        assert all(0 <= side / stride - cells <= 3.5 for side, cells in zip(size, m.shape[2:], strict=True))
    assert backbone.embed(x).shape == (2, backbone.embedding)


def test_larger_maps_are_averaged():
    torch.manual_seed(0)
    backbone = LeNet().eval()
    x = torch.randn(2, 3, 52, 52)  # 10 x 10 cells
    pooled = nn.functional.avg_pool2d(backbone(x)[-1], 2)
    assert torch.allclose(backbone.embed(x), backbone.fc(pooled), atol=1e-6)


def test_without_the_fully_connected_layers_the_maps_are_the_same():
    backbone = LeNet().eval()
    x = torch.randn(2, 3, 32, 32)
    before, after = backbone(x), dense(backbone)(x)
    assert not [name for name, _ in backbone.named_parameters() if name.startswith("fc")]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("norm", ["none", "batch", "local_response"])
def test_every_parameter_has_a_gradient(norm):
    torch.manual_seed(0)
    model = classifier(norm=norm, activation="prelu")
    model(torch.randn(4, 1, 32, 32)).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_each_key_changes_what_it_says():
    conv, linear = ["Conv2d", "Tanh", "AvgPool2d"], ["Linear", "Tanh", "Dropout"]
    plain = kinds()
    assert plain == [*conv * 2, "Grid", "Flatten", *linear * 2]
    assert kinds(activation="relu") == [k.replace("Tanh", "ReLU") for k in plain]
    assert kinds(norm="group") == [*["Conv2d", "GroupNorm", "Tanh", "AvgPool2d"] * 2, *plain[6:]]
    assert kinds(norm="local_response") == [
        *["Conv2d", "LocalResponseNorm", "Tanh", "AvgPool2d"] * 2,
        *plain[6:],
    ]
    assert kinds(dropout=0.5) == kinds(padding=2) == kinds(init="xavier") == plain
    assert [m.p for m in LeNet(dropout=0.5).modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert LeNet(in_channels=4).stages[0][0][0].in_channels == 4
    torch.manual_seed(0)
    assert LeNet(init="normal(0.01)").fc[2].weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("rename", [str, lambda name: f"their.{name}"])
def test_weights_of_a_file_are_loaded_by_name_or_in_order(tmp_path, rename):
    backbone = LeNet(norm="batch")
    state = {rename(name): value for name, value in backbone.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    loaded = LeNet(norm="batch", weights=str(tmp_path / "w.pth")).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in backbone.state_dict().items())


def test_small_images_are_refused():
    with pytest.raises(ValueError, match=r"images of 32 pixels .*, not \(28, 28\); with backbone\.padding=2"):
        LeNet().embed(torch.randn(1, 3, 28, 28))
    with pytest.raises(ValueError, match=r"images of 28 pixels .*, not \(27, 40\)"):
        LeNet(padding=2)(torch.randn(1, 3, 27, 40))


def test_a_negative_padding_is_refused():
    with pytest.raises(ValueError, match=r"backbone\.padding=-1: 0, or 2"):
        LeNet(padding=-1)
