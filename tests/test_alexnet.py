"""AlexNet: its published numbers, torchvision's logits, the paper's layers, and its knobs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import alexnet

from composing import composed
from paribus.checks import ConfigError, check
from paribus.models.backbones import dense
from paribus.models.backbones.alexnet import AlexNet
from paribus.models.classifier import Classifier
from paribus.models.weights import in_order
from paribus.profile.complexity import count


def on_meta(**keys):
    with torch.device("meta"):
        return Classifier(backbone=AlexNet(**keys), num_classes=1000)


def shapes(**keys):
    return {name: tuple(value.shape) for name, value in on_meta(**keys).state_dict().items()}


@pytest.mark.parametrize(
    ("columns", "size", "parameters", "gmacs"),
    [(2, 227, 60_965_224, 0.7244), (1, 224, 61_100_840, 0.7142)],
)
def test_parameters_and_multiply_adds_are_the_published_ones(columns, size, parameters, gmacs):
    counted, macs = count(on_meta(columns=columns), (size, size))
    assert counted == parameters
    assert round(macs / 1e9, 4) == gmacs


def test_the_lectures_table_of_a_single_column_at_227():
    model, rows = on_meta(columns=1).eval(), []

    def row(layer, inputs, out):
        weight = getattr(layer, "weight", torch.empty(0))
        cells = out[0, 0].numel() if out.ndim == 4 else 1
        kb = out.numel() * 4 / 1024
        parameters = sum(p.numel() for p in layer.parameters())
        rows.append((tuple(out.shape[1:3]), round(kb), parameters, weight.numel() * cells))

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.Linear):
            layer.register_forward_hook(row)
    model(torch.zeros(1, 3, 227, 227, device="meta"))
    assert [(shape, kb) for shape, kb, _, _ in rows] == [
        ((64, 56), 784),
        ((64, 27), 182),
        ((192, 27), 547),
        ((192, 13), 127),
        ((384, 13), 254),
        ((256, 13), 169),
        ((256, 13), 169),
        ((256, 6), 36),
        ((4096,), 16),
        ((4096,), 16),
        ((1000,), 4),
    ]
    assert rows[0][2:] == (23_296, 72_855_552)
    convolutions = [r for r in rows[1:8] if r[2]]
    assert [round(r[2] / 1e3) for r in convolutions] == [307, 664, 885, 590]
    assert [round(r[3] / 1e6, 1) for r in convolutions] == [223.9, 112.1, 149.5, 99.7]
    assert [r[3] for r in rows[8:]] == [37_748_736, 16_777_216, 4_096_000]


def test_a_single_column_equals_torchvisions():
    torch.manual_seed(0)
    theirs, ours = alexnet().eval(), on_meta(columns=1).eval()
    ours.load_state_dict(in_order(ours, theirs.state_dict()), assign=True)
    for size in ((224, 224), (70, 90)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_two_columns_are_the_papers_layers():
    kinds = [
        type(layer).__name__
        for layer in on_meta().backbone.modules()
        if not list(layer.children()) and type(layer) is not nn.Dropout
    ]
    norm, conv = ["LocalResponseNorm", "MaxPool2d"], ["Conv2d", "ReLU"]
    assert kinds == [
        *conv,
        *norm,
        *conv,
        *norm,
        *conv * 3,
        "MaxPool2d",
        "Grid",
        "Flatten",
        *["Linear", "ReLU"] * 2,
    ]
    convolutions = [m for m in on_meta().modules() if isinstance(m, nn.Conv2d)]
    assert [c.groups for c in convolutions] == [1, 2, 1, 2, 2]
    assert [c.out_channels for c in convolutions] == [96, 256, 384, 384, 256]


def test_the_norm_has_the_papers_constants():
    norm = AlexNet(remove=["fc6", "fc7"]).stages[0][1]
    x = torch.randn(2, 7, 3, 3) * 100
    assert torch.allclose(norm(x), F.local_response_norm(x, 5, alpha=5 * 1e-4, beta=0.75, k=2.0), rtol=1e-5)


def test_two_columns_start_as_in_the_paper():
    torch.manual_seed(0)
    backbone = AlexNet(remove=["conv3"])
    layers = [m for m in backbone.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [set(m.bias.tolist()) for m in layers] == [{0.0}, {1.0}, {1.0}, {1.0}, {1.0}, {1.0}]
    assert all(m.weight.std().item() == pytest.approx(0.01, rel=0.02) for m in layers)
    he = [m for m in AlexNet(init="he").modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert he[2].weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert not any(m.bias.any() for m in he)


@pytest.mark.parametrize(
    ("remove", "less"),
    [
        (["conv3"], 192 * 384 * 9 + 384 + (384 - 192) * 256 * 9),  # conv4 sees 192 maps, not 384
        (["conv4"], 384 * 256 * 9 + 256 - (384 - 256) * 256 * 9),
        (["fc7"], 4096 * 4096 + 4096),
        (["fc6"], 4096 * 4096 + 4096),
        (["fc6", "fc7"], 9216 * 4096 + 4096 * 4096 + 2 * 4096 - (9216 - 4096) * 1000),
    ],
)
def test_removed_layers_leave_the_others(remove, less):
    whole = sum(p.numel() for p in on_meta(columns=1).parameters())
    assert whole - sum(p.numel() for p in on_meta(columns=1, remove=remove).parameters()) == less


@pytest.mark.parametrize("columns", [1, 2])
def test_without_all_four_three_convolutions_and_a_linear_layer_are_left(columns):
    model = on_meta(columns=columns, remove=["conv3", "conv4", "fc6", "fc7"])
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [
        *([64, 192, 256] if columns == 1 else [96, 256, 256])
    ]
    assert [m.in_features for m in model.modules() if isinstance(m, nn.Linear)] == [9216]
    assert model(torch.zeros(1, 3, 227, 227, device="meta")).shape == (1, 1000)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("size", [(67, 67), (70, 90), (224, 227)])
def test_maps_have_their_channels_and_strides(columns, size):
    with torch.device("meta"):
        backbone = AlexNet(columns=columns)
        found = backbone(torch.zeros(2, 3, *size))
    assert [m.shape[1] for m in found] == backbone.channels
    for m, stride in zip(found, backbone.strides, strict=True):
        assert all(0 < side / stride - cells < 3.1 for side, cells in zip(size, m.shape[2:], strict=True))


def test_without_the_fully_connected_layers_the_maps_are_the_same():
    torch.manual_seed(0)
    backbone = AlexNet(remove=["fc7"]).eval()
    x = torch.randn(1, 3, 67, 67)
    with torch.no_grad():
        before = backbone(x)
        assert backbone.embed(x).shape == (1, backbone.embedding)
        after = dense(backbone)(x)
    assert not [name for name, _ in backbone.named_parameters() if name.startswith("fc")]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("keys", [{"columns": 2}, {"columns": 1, "remove": ["fc7"], "norm": "group"}])
def test_every_parameter_has_a_gradient(keys):
    torch.manual_seed(0)
    model = Classifier(backbone=AlexNet(in_channels=1, **keys), num_classes=4)
    model(torch.randn(2, 1, 70, 67)).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_each_norm_is_where_the_docstring_says():
    def norms(**keys):
        kinds = [type(m).__name__ for m in on_meta(**keys).modules()]
        return {k: kinds.count(k) for k in ("LocalResponseNorm", "BatchNorm2d", "GroupNorm") if k in kinds}

    assert norms() == norms(columns=1, norm="local_response") == {"LocalResponseNorm": 2}
    assert norms(columns=1) == norms(norm="none") == {}
    assert norms(norm="batch") == {"BatchNorm2d": 5}
    assert norms(norm="group") == {"GroupNorm": 5}
    # An affine takes the place of each bias.
    assert shapes(norm="group").keys() - shapes().keys() == {
        f"backbone.stages.{place}.1.{kind}"
        for place in ("0.0", "1.1", "2.1", "2.2", "2.3")
        for kind in ("weight", "bias")
    }


def test_activation_dropout_and_columns_change_what_they_say():
    assert shapes(activation="gelu") == shapes(dropout=0.0) == shapes(init="he") == shapes()
    for name in ("GELU", "ReLU"):
        kinds = [type(m).__name__ for m in on_meta(activation=name.lower()).modules()]
        assert kinds.count(name) == 7
        assert not {"GELU", "ReLU"} - {name} & set(kinds)
    assert [m.p for m in on_meta(dropout=0.25).backbone.modules() if isinstance(m, nn.Dropout)] == [
        0.25,
        0.25,
    ]
    one, two = shapes(columns=1), shapes()
    assert one.keys() == two.keys()
    assert {k for k in one if one[k] == two[k]} >= {k for k in one if ".fc." in k or "head" in k}
    assert next(c.padding for c in on_meta().modules() if isinstance(c, nn.Conv2d)) == (0, 0)


def test_weights_of_a_file_are_loaded(tmp_path):
    backbone = AlexNet(remove=["fc6", "fc7"])
    torch.save(backbone.state_dict(), tmp_path / "w.pth")
    loaded = AlexNet(remove=["fc6", "fc7"], weights=str(tmp_path / "w.pth")).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"columns": 3}, r"backbone\.columns=3: 2, the network of 2012, or 1"),
        ({"remove": ["conv2"]}, r"conv2 stays; of conv3, conv4, fc6, fc7"),
        ({"pretrained": True}, r"backbone\.pretrained: .*backbone\.columns=1 backbone\.norm=none"),
        ({"columns": 1, "remove": ["fc7"], "pretrained": True}, r"backbone\.remove=\[\]"),
        ({"columns": 1, "norm": "batch", "pretrained": True}, r"backbone\.norm=none"),
    ],
)
def test_what_it_cannot_do_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        AlexNet(**keys)


@pytest.mark.parametrize(("columns", "least"), [(2, 67), (1, 63)])
def test_small_images_are_refused(columns, least):
    backbone = on_meta(columns=columns).backbone
    backbone(torch.zeros(1, 3, least, least, device="meta"))
    with pytest.raises(ValueError, match=rf"images of {least} pixels or more .*, not \(100, {least - 1}\)"):
        backbone(torch.zeros(1, 3, 100, least - 1, device="meta"))


def test_the_config_knows_the_removable_layers():
    assert check(composed("backbone=alexnet_single", "backbone.remove=[conv3,fc6]")).backbone["columns"] == 1
    with pytest.raises(ConfigError, match=r"backbone\.remove=\['conv2'\].*'conv3'"):
        check(composed("backbone=alexnet", "backbone.remove=[conv2]"))
