"""The plain convolutional network: receptive fields, costs by hand, and its knobs. (Norms: test_backbones.py)"""

import pytest
import torch
from torch import nn

from composing import composed
from paribus.checks import ConfigError, check
from paribus.models.backbones.convnet import ConvNet
from paribus.models.classifier import Classifier


def convnet(**keys):
    return ConvNet(**{"channels": [4, 6], "norm": "none"} | keys)


def kinds(**keys):
    return [[type(m).__name__ for m in s.modules() if not list(m.children())] for s in convnet(**keys).stages]


def receptive_field(**keys):
    """Pixels each way that one value of the last map depends on, found by its gradient."""
    backbone = convnet(channels=[1, 1], in_channels=1, **keys)
    for parameter in backbone.parameters():
        nn.init.constant_(parameter, float(parameter.ndim > 1))
    x = torch.ones(1, 1, 96, 96, requires_grad=True)
    backbone(x)[-1][0, 0, 12, 12].backward()
    seen = x.grad[0, 0].nonzero()
    assert (seen.amax(0) - seen.amin(0)).unique().numel() == 1
    return int((seen.amax(0) - seen.amin(0))[0]) + 1


@pytest.mark.parametrize("downsample", ["stride", "average"])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("kernel", [5, 7])
def test_stacked_filters_see_the_same_pixels(kernel, blocks, downsample):
    keys = {"blocks": blocks, "downsample": downsample}
    assert receptive_field(kernel=kernel, **keys) == receptive_field(kernel=kernel, stacked=True, **keys)
    assert receptive_field(kernel=kernel, **keys) > receptive_field(kernel=3, **keys)


def test_one_7x7_against_three_3x3():
    def weights(**keys):
        backbone = convnet(channels=[8], in_channels=8, blocks=1, **keys)
        return sum(p.numel() for p in backbone.parameters() if p.ndim > 1)

    assert weights(kernel=7) == 49 * 8 * 8
    assert weights(kernel=7, stacked=True) == 27 * 8 * 8
    assert weights(kernel=5) == 25 * 8 * 8
    assert weights(kernel=5, stacked=True) == 18 * 8 * 8
    assert weights(kernel=3) == weights(kernel=3, stacked=True) == 9 * 8 * 8


@pytest.mark.parametrize("size", [(64, 64), (70, 90), (33, 35)])
@pytest.mark.parametrize("downsample", ["stride", "max", "average"])
@pytest.mark.parametrize(("kernel", "stacked"), [(3, False), (7, False), (7, True)])
def test_maps_have_their_channels_and_strides(downsample, kernel, stacked, size):
    backbone = convnet(downsample=downsample, kernel=kernel, stacked=stacked, channels=[4, 6, 8])
    found = backbone(torch.randn(1, 3, *size))
    assert [m.shape[1] for m in found] == backbone.channels == [4, 6, 8]
    assert [tuple(m.shape[2:]) for m in found] == [
        (-(-size[0] // s), -(-size[1] // s)) for s in backbone.strides
    ]


def test_each_key_changes_what_it_says():
    block = ["Conv2d", "ReLU"]
    assert kinds() == [block * 2, block * 2]
    assert kinds(blocks=3) == [block * 3, block * 3]
    assert kinds(kernel=7) == kinds() != kinds(kernel=7, stacked=True) == [block * 6, block * 6]
    assert kinds(downsample="max") == [[*block * 2, "MaxPool2d"]] * 2
    assert kinds(downsample="average") == [[*block * 2, "AvgPool2d"]] * 2
    assert kinds(dropout=0.2) == [[*block * 2, "Dropout"]] * 2
    assert kinds(norm="batch") == [["Conv2d", "BatchNorm2d", "ReLU"] * 2] * 2
    assert kinds(norm="local_response") == [["Conv2d", "LocalResponseNorm", "ReLU"] * 2] * 2
    assert kinds(activation="silu", norm="layer") == [["Conv2d", "GroupNorm", "SiLU"] * 2] * 2
    convolutions = [m for m in convnet(kernel=5).modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size for m in convolutions] == [(5, 5)] * 4
    assert [m.stride for m in convolutions] == [(2, 2), (1, 1)] * 2
    assert all(m.bias is not None for m in convolutions)
    assert not any(
        m.stride == (2, 2) for m in convnet(downsample="max").modules() if isinstance(m, nn.Conv2d)
    )
    assert [m.p for m in convnet(dropout=0.2).modules() if isinstance(m, nn.Dropout)] == [0.2, 0.2]
    torch.manual_seed(0)
    weight = convnet(channels=[64], init="normal(0.01)").stages[0][1][0].weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize(
    "keys",
    [
        {"downsample": "max", "kernel": 5, "activation": "prelu"},
        {"stacked": True, "kernel": 7, "norm": "batch"},
    ],
)
def test_every_parameter_has_a_gradient(keys):
    torch.manual_seed(0)
    model = Classifier(backbone=convnet(**keys), num_classes=4)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_weights_of_a_file_are_loaded_and_their_statistics_kept(tmp_path):
    torch.manual_seed(0)
    first = convnet(norm="batch")
    first(torch.randn(8, 3, 16, 16))
    torch.save(first.state_dict(), tmp_path / "w.pth")
    x = torch.randn(2, 3, 16, 16)
    for norm in ("batch", "sync_batch"):
        again = convnet(norm=norm, weights=str(tmp_path / "w.pth")).eval()
        assert torch.allclose(again(x)[-1], first.eval()(x)[-1], atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"channels": []}, r"backbone\.channels=\[\], blocks=2: a stage and a convolution at least"),
        ({"blocks": 0}, r"blocks=0"),
        ({"kernel": 4}, r"backbone\.kernel=4: 3, 5 or 7"),
        ({"downsample": "sum"}, r"backbone\.downsample=sum: one of stride, max, average"),
    ],
)
def test_what_it_cannot_do_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        convnet(**keys)


def test_the_config_knows_the_kernels():
    keys = ["backbone.kernel=7", "backbone.stacked=true", "backbone.downsample=max"]
    assert check(composed("backbone=convnet4", *keys)).backbone["kernel"] == 7
    with pytest.raises(ConfigError, match=r"backbone\.kernel=4.*3, 5 or 7"):
        check(composed("backbone.kernel=4"))
