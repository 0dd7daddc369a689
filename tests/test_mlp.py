"""The linear classifier and the MLP: their layers by hand, their knobs, and what they refuse."""

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from composing import composed
from paribus.models.backbones import dense
from paribus.models.backbones.mlp import MLP
from paribus.models.classifier import Classifier
from paribus.models.detection.retinanet import RetinaNet
from paribus.models.segmentation.unet import UNet
from paribus.profile.complexity import count


def kinds(**keys):
    backbone = MLP(size=(6, 5), width=64, **keys)
    return [type(m).__name__ for m in backbone.modules() if not list(m.children())]


def test_without_hidden_layers_it_is_a_linear_classifier():
    model = Classifier(backbone=MLP(size=(6, 5), depth=0), num_classes=4)
    x = torch.randn(2, 3, 6, 5)
    assert torch.equal(model(x), model.head(x.flatten(1)))
    assert [name for name, _ in model.named_parameters()] == ["head.weight", "head.bias"]
    assert count(model, (6, 5)) == (90 * 4 + 4, 90 * 4)


def test_the_layers_are_those_of_a_perceptron():
    torch.manual_seed(0)
    model = Classifier(backbone=MLP(size=(6, 5), width=7, in_channels=1), num_classes=4)
    assert count(model, (6, 5), 1) == (30 * 7 + 7 + 7 * 7 + 7 + 7 * 4 + 4, 30 * 7 + 7 * 7 + 7 * 4)
    x = torch.randn(2, 1, 6, 5)
    first, second, last = (m for m in model.modules() if isinstance(m, nn.Linear))
    assert torch.allclose(model(x), last(second(first(x.flatten(1)).relu()).relu()))


@pytest.mark.parametrize("norm", ["none", "batch", "group", "layer", "local_response"])
def test_every_parameter_has_a_gradient(norm):
    torch.manual_seed(0)
    backbone = MLP(size=(6, 5), width=64, depth=3, norm=norm, activation="prelu")
    model = Classifier(backbone=backbone, num_classes=4)
    model(torch.randn(8, 3, 6, 5)).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_layer_norm_is_over_the_units_of_an_image():
    torch.manual_seed(0)
    backbone = MLP(size=(6, 5), width=64, depth=1, norm="layer")
    x = torch.randn(8, 3, 6, 5)
    sums = backbone.stages[0][0](x.flatten(1))
    assert torch.allclose(backbone.embed(x), nn.functional.layer_norm(sums, (64,)).relu(), atol=1e-5)


def test_each_key_changes_what_it_says():
    layer = ["Linear", "ReLU", "Dropout"]
    normed = ["Linear", "Unflatten", "GroupNorm", "Flatten", "ReLU", "Dropout"]
    assert kinds() == layer * 2
    assert kinds(depth=5) == layer * 5
    assert kinds(activation="elu") == [k.replace("ReLU", "ELU") for k in layer * 2]
    assert kinds(norm="group") == normed * 2
    assert kinds(dropout=0.3) == kinds(init="xavier") == layer * 2
    assert [m.p for m in MLP(size=(6, 5), dropout=0.3).modules() if isinstance(m, nn.Dropout)] == [0.3, 0.3]
    linear = [m for m in MLP(size=(6, 5), in_channels=2, width=9).modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(60, 9), (9, 9)]
    torch.manual_seed(0)
    weight = MLP(size=(30, 30), init="normal(0.01)").stages[0][0].weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.01)


def test_weights_of_a_file_are_loaded(tmp_path):
    backbone = MLP(size=(6, 5), norm="batch")
    torch.save(backbone.state_dict(), tmp_path / "w.pth")
    loaded = MLP(size=(6, 5), norm="batch", weights=str(tmp_path / "w.pth")).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"norm": "instance"}, r"backbone\.norm=instance: .* constant .*; batch, layer or group"),
        ({"width": 0}, r"backbone\.width=0, depth=2: 1 or more, and 0 or more"),
        ({"depth": -1}, r"depth=-1"),
        ({"depth": 0, "norm": "batch"}, r"backbone\.depth=0 is a linear classifier.*backbone=mlp"),
        ({"depth": 0, "dropout": 0.5}, r"without a hidden layer for backbone\.dropout"),
        ({"depth": 0, "activation": "tanh"}, r"activation"),
        ({"depth": 0, "init": "he"}, r"init or weights: leave them"),
    ],
)
def test_what_it_cannot_do_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        MLP(size=(6, 5), **keys)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"images of \(6, 5\) \(`backbone\.size`\), not \(5, 6\)"):
        MLP(size=(6, 5)).embed(torch.randn(1, 3, 5, 6))


def test_models_that_need_maps_are_refused():
    message = r"no maps, .*model\.head=own.*backbone=convnet"
    with pytest.raises(ValueError, match=message):
        MLP(size=(6, 5))(torch.randn(1, 3, 6, 5))
    with pytest.raises(ValueError, match=message):
        dense(MLP(size=(6, 5)))
    with pytest.raises(ValueError, match=message):
        UNet(backbone=MLP(size=(6, 5)), num_classes=2, decoder_channels=[4])
    with pytest.raises(ValueError, match=message):
        RetinaNet(backbone=MLP(size=(6, 5)), num_classes=2)
    with pytest.raises(ValueError, match=message):
        Classifier(backbone=MLP(size=(6, 5)), num_classes=2, head="average")


def test_the_options_know_the_size_of_the_images():
    for option, embedding in (("linear", 3 * 20 * 24), ("mlp", 512)):
        backbone = instantiate(composed(f"backbone={option}", "data.size=[20,24]").backbone)
        assert backbone.embed(torch.randn(2, 3, 20, 24)).shape == (2, embedding) == (2, backbone.embedding)
