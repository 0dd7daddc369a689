"""SegNet: the published numbers, the encoder's own maxima, on any backbone whose maps double, and it learns."""

from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import squares
from composing import composed
from paribus.build import build
from paribus.checks import check
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.backbones.timm import Timm
from paribus.models.backbones.unet import UNetEncoder
from paribus.models.backbones.vgg import VGG
from paribus.models.layers import ConvNormAct
from paribus.models.normalization import Norm
from paribus.models.segmentation.segnet import SegNet
from paribus.models.upsampling import Upsampling
from paribus.profile.complexity import count, layers

CIFAR: dict[str, Any] = {"family": "cifar", "depth": 8}
BACKBONES: dict[str, Any] = {
    "vgg": lambda: VGG(configuration="A", width=4, hidden=[], norm="batch"),
    "vgg16": lambda: VGG(width=4, hidden=[], norm="batch"),
    "convnet": lambda: ConvNet(channels=[8, 12, 16]),
    "cifar_resnet": lambda: ResNet(**CIFAR),
    "unet": lambda: UNetEncoder(width=4, depth=3, padded=True, norm="batch"),
    "test_resnet": lambda: Timm(name="test_resnet"),
    "test_convnext": lambda: Timm(name="test_convnext"),
    "dilated": lambda: Timm(name="test_resnet", output_stride=8),
}


def segnet(backbone="vgg", classes=3, **keys):
    torch.manual_seed(0)
    return SegNet(backbone=BACKBONES[backbone](), num_classes=classes, **keys)


@pytest.mark.parametrize(
    ("classes", "parameters", "gmacs"), [(11, 29_449_355, 106.29), (12, 29_449_932, 106.39)]
)
def test_parameters_and_multiply_adds_are_the_published_ones(classes, parameters, gmacs):
    with torch.device("meta"):
        model = SegNet(backbone=VGG(norm="batch"), num_classes=classes)
    counted, macs = count(model, (360, 480))
    assert counted == parameters
    assert round(macs / 1e9, 2) == gmacs


def test_the_decoder_is_the_encoder_run_backwards():
    with torch.device("meta"):
        model = SegNet(backbone=VGG(hidden=[], norm="batch"), num_classes=11)
    ours = [m.weight.shape for m in model.backbone.modules() if isinstance(m, nn.Conv2d)]
    decoder = [*model.blocks.modules(), model.head]
    theirs = [m.weight.shape for m in decoder if isinstance(m, nn.Conv2d)]
    assert [(s[1], s[0]) for s in theirs][:-1] == [(s[0], s[1]) for s in reversed(ours)][:-1]
    assert not list(model.ups.parameters())


def test_it_unpools_where_the_encoder_pooled():
    model = segnet("vgg16").eval()
    x, seen, poolings = torch.randn(2, 3, 72, 90), [], []
    for layer in model.backbone.modules():
        if isinstance(layer, nn.MaxPool2d):
            layer.register_forward_hook(lambda _, given, output: poolings.append((given[0], output)))
    for up in model.ups:
        up.register_forward_hook(lambda _, given, output: seen.append((given[0], output)))
    with torch.no_grad():
        assert model(x).shape == (2, 3, 72, 90)
    assert len(seen) == len(poolings) == 5
    for (fine, pooled), (coarse, found) in zip(reversed(poolings), seen, strict=True):
        again, index = F.max_pool2d(fine, 2, return_indices=True)
        assert torch.equal(again, pooled)
        assert torch.equal(found, F.max_unpool2d(coarse, index, 2, output_size=fine.shape))


@pytest.mark.parametrize("upsampling", get_args(Upsampling))
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_with_every_upsampling(backbone, upsampling):
    model = segnet(backbone, upsampling=upsampling)
    logits = model(torch.randn(1, 3, 65, 98))
    assert logits.shape == (1, 3, 65, 98)
    logits.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("size", [(1, 1), (31, 50), (45, 61), (64, 64)])
@pytest.mark.parametrize("backbone", ["vgg", "test_resnet", "test_convnext"])
def test_any_size_in_the_same_size_out(backbone, size):
    model = segnet(backbone).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, *size))
    assert logits.shape == (1, 3, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("norm", get_args(Norm))
def test_every_norm(norm):
    model = segnet("convnet", norm=norm, activation="elu")
    logits = model(torch.randn(2, 3, 48, 48))
    logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert "ELU" in {type(m).__name__ for m in model.blocks.modules()}


def test_the_number_of_convolutions_is_the_encoders_or_what_is_asked_for():
    def counts(*arguments, **keys):
        blocks = segnet(*arguments, **keys).blocks
        return [sum(isinstance(m, ConvNormAct) for m in block) for block in blocks]

    assert counts("vgg16") == [0, 3, 3, 3, 2, 1]  # and the head
    assert counts("vgg") == [0, 2, 2, 2, 1, 0]
    assert counts("vgg", convolutions=3) == [0, 3, 3, 3, 3, 2]
    assert counts("convnet") == [
        2,
        2,
        1,
        1,
    ]  # the last at the image's size, before which the encoder has no map
    assert counts("test_resnet") == [2, 2, 2, 2, 1, 1]
    assert counts("test_resnet", convolutions=1) == [1, 1, 1, 1, 0, 1]


def test_the_logits_have_stride_one_whatever_the_way_up():
    for kind in get_args(Upsampling):
        with torch.device("meta"):
            model = segnet("vgg", upsampling=kind)
        assert layers(model, (96, 64))[-1].jump == (1, 1)


def test_dropout_and_the_auxiliary_head_act_while_it_trains():
    x = torch.randn(2, 3, 64, 70)
    model = segnet(dropout=0.5, auxiliary=True)
    logits, other = model(x)
    assert logits.shape == other.shape == (2, 3, 64, 70)
    assert not torch.equal(model(x)[0], model(x)[0])
    model.eval()
    assert torch.equal(model(x), model(x))


def test_the_config_gives_a_light_segnet():
    chosen = ["model=segnet", "task=segmentation", "backbone=vgg_light"]
    model = build(check(composed(*chosen))).task.model
    parameters, _ = count(model, (96, 128))
    assert 1_800_000 < parameters < 1_900_000  # a sixteenth of the published network's
    assert not list(model.ups.parameters())
    group = build(check(composed(*chosen, "backbone.norm=group", "backbone.activation=gelu"))).task.model
    kinds = {type(m).__name__ for m in group.blocks.modules()}
    assert {"GroupNorm", "GELU"} <= kinds
    assert not kinds & {"BatchNorm2d", "ReLU"}


def test_what_it_refuses_it_explains():
    with pytest.raises(ValueError, match=r"model\.convolutions=0: 1 or more"):
        segnet(convolutions=0)
    with pytest.raises(ValueError, match=r"max_unpool: the maps of this backbone all have stride 16"):
        SegNet(backbone=Timm(name="test_vit"), num_classes=2)
    with pytest.raises(ValueError, match=r"backbone\.padded=false: SegNet needs maps with their borders"):
        SegNet(backbone=UNetEncoder(width=2), num_classes=2)
    with pytest.raises(ValueError, match=r"model\.upsampling=cubic: one of nearest"):
        segnet(upsampling="cubic")


def test_it_learns_to_segment_squares():
    assert squares.learned(segnet("convnet", classes=2), steps=60) > 0.7
