"""FCN: the published numbers, a classifier made convolutional, scores added from coarse to fine, on any backbone."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from composing import composed
from paribus.build import build
from paribus.checks import ConfigError, check
from paribus.models.backbones.alexnet import AlexNet
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.backbones.timm import Timm
from paribus.models.backbones.unet import UNetEncoder
from paribus.models.backbones.vgg import VGG
from paribus.models.classifier import Classifier
from paribus.models.segmentation.fcn import FCN
from paribus.profile.complexity import count, layers

KINDS = ["transposed", "bilinear", "nearest"]
CIFAR: dict[str, Any] = {"family": "cifar", "depth": 8}
# And the strides that can be scored.
BACKBONES: dict[str, tuple[Any, list[int]]] = {
    "vgg": (lambda: VGG(configuration="A", width=4, hidden=[24, 16]), [2, 4, 8, 16, 32]),
    "vgg_without_fc": (lambda: VGG(configuration="A", width=4, hidden=[]), [2, 4, 8, 16, 32]),
    "convnet": (lambda: ConvNet(channels=[8, 12, 16]), [2, 4, 8]),
    "cifar_resnet": (lambda: ResNet(**CIFAR), [1, 2, 4]),
    "test_resnet": (lambda: Timm(name="test_resnet"), [2, 4, 8, 16, 32]),
    "test_convnext": (lambda: Timm(name="test_convnext"), [4, 8, 16, 32]),
    "test_vit": (lambda: Timm(name="test_vit"), [16]),
    "dilated": (lambda: Timm(name="test_resnet", output_stride=8), [2, 4, 8]),
    "unet": (lambda: UNetEncoder(width=4, padded=True), [1, 2, 4, 8, 16]),
}


def fcn(backbone="vgg", classes=3, stride=None, **keys):
    torch.manual_seed(0)
    make, strides = BACKBONES[backbone]
    return FCN(backbone=make(), num_classes=classes, stride=stride or strides[-1], **keys)


@pytest.mark.parametrize(
    ("stride", "without", "deconvolutions"),
    [(32, 134_346_581, 1_806_336), (16, 134_357_354, 458_640), (8, 134_362_751, 127_008)],
)
def test_parameters_are_the_published_ones(stride, without, deconvolutions):
    for kind in KINDS:
        with torch.device("meta"):
            model = FCN(backbone=VGG(), num_classes=21, stride=stride, upsampling=kind)
        learned = sum(p.numel() for p in model.ups.parameters())
        assert learned == (deconvolutions if kind == "transposed" else 0)
        assert count(model, (224, 224))[0] == without + learned


def test_a_classifier_made_convolutional_computes_its_own_fc7(tmp_path):
    torch.manual_seed(0)
    classifier = Classifier(backbone=VGG(configuration="A", width=4, hidden=[24, 16]), num_classes=5).eval()
    for parameter in classifier.backbone.fc.parameters():
        nn.init.normal_(parameter, std=0.2)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = classifier.backbone.embed(x)
        backbone = VGG(configuration="A", width=4, hidden=[24, 16], weights=str(tmp_path / "classifier.pth"))
        model = FCN(backbone=backbone, num_classes=21).eval()
        found = model.fc(model.backbone(x)[-1])
        assert found.shape == (2, 16, 7, 7)
        # The cell in the middle sees the 7 x 7 cells that fc6 saw; the others see less, and zeros beside.
        assert torch.allclose(found[..., 3, 3], expected, atol=1e-6)
        larger = torch.zeros(2, 3, 320, 288)
        larger[..., 32:256, 32:256] = x
    assert expected.std() > 0.1
    assert not [name for name, _ in model.backbone.named_parameters() if name.startswith("fc")]
    assert model.fc(model.backbone(larger)[-1]).shape == (2, 16, 10, 9)


def test_on_a_dilated_vgg_fc6_sees_the_pixels_that_it_saw():
    keys: dict[str, Any] = {"configuration": "A", "width": 4, "hidden": [24, 16]}
    plain, dilated = VGG(**keys), VGG(**keys, output_stride=16)
    dilated.load_state_dict(plain.state_dict())
    expected, found = (FCN(backbone=b, num_classes=3, stride=16).eval() for b in (plain, dilated))
    x = torch.randn(1, 3, 224, 160)
    with torch.no_grad():
        wanted = expected.fc(expected.backbone(x)[-1])
        given = found.fc(found.backbone(x)[-1])
        assert torch.allclose(given[..., ::2, ::2], wanted, atol=1e-7)
        assert given.shape == (1, 16, 14, 10)
        assert found(x).shape == (1, 3, 224, 160)
    assert (len(expected.scores), len(found.scores)) == (2, 1)


def test_pool3_and_pool4_are_scored_and_added():
    model = fcn(stride=8, upsampling="bilinear").eval()
    x = torch.randn(1, 3, 64, 96)
    inputs: list[Any] = []
    for score in model.scores:
        score.register_forward_hook(lambda _, given, output: inputs.append((given[0], output)))
    with torch.no_grad():
        found, maps = model(x), model.backbone(x)
    (_, coarse), (pool4, middle), (pool3, fine) = inputs
    assert torch.equal(pool4, F.max_pool2d(maps[3], 2))
    assert torch.equal(pool3, F.max_pool2d(maps[2], 2))
    joined = F.interpolate(F.interpolate(coarse, (4, 6), mode="bilinear") + middle, (8, 12), mode="bilinear")
    assert torch.allclose(found, F.interpolate(joined + fine, (64, 96), mode="bilinear"), atol=1e-6)


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_learned_deconvolutions_start_as_bilinear_enlarging(stride):
    learned, fixed = fcn(stride=stride).eval(), fcn(stride=stride, upsampling="bilinear").eval()
    fixed.load_state_dict(learned.state_dict(), strict=False)
    x = torch.randn(1, 3, 192, 192)
    inner = (..., slice(64, -64), slice(64, -64))
    with torch.no_grad():
        assert torch.allclose(learned(x)[inner], fixed(x)[inner], atol=1e-5)


@pytest.mark.parametrize("upsampling", KINDS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_with_every_stride_and_upsampling(backbone, upsampling):
    for stride in BACKBONES[backbone][1]:
        model = fcn(backbone, stride=stride, upsampling=upsampling)
        logits = model(torch.randn(1, 3, 65, 90))
        assert logits.shape == (1, 3, 65, 90)
        assert len(model.scores) == sum(s >= stride for s in BACKBONES[backbone][1])
        logits.square().mean().backward()
        used = [(name, p) for name, p in model.named_parameters() if not name.startswith("backbone")]
        assert not [name for name, p in used if p.grad is None or not p.grad.isfinite().all()]
        assert not [name for name, p in model.backbone.named_parameters() if p.grad is None]


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (64, 50)])
def test_any_size_in_the_same_size_out(size):
    logits = fcn(stride=8)(torch.randn(1, 3, *size))
    assert logits.shape == (1, 3, *size)
    assert logits.isfinite().all()


def test_alexnet_is_scored_on_its_fc7():
    torch.manual_seed(0)
    model = FCN(backbone=AlexNet(columns=1, remove=["fc6"]), num_classes=3, stride=32)
    assert model.fc[1].kernel_size == (6, 6)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 227, 227)).shape == (1, 3, 227, 227)


def test_the_logits_have_stride_one():
    for kind in KINDS:
        with torch.device("meta"):
            model = fcn(stride=8, upsampling=kind)
        found = [layer for layer in layers(model, (256, 256)) if layer.jump and layer.name.startswith("ups")]
        assert found[-1].jump == (1, 1)


def test_dropout_follows_fc6_and_fc7():
    model = fcn(dropout=0.3)
    assert [type(m).__name__ for m in model.fc] == ["ZeroPad2d", *["Conv2d", "ReLU", "Dropout"] * 2]
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.3}
    assert [type(m).__name__ for m in fcn(activation="gelu").fc].count("GELU") == 2
    x = torch.randn(1, 3, 64, 64)
    for backbone in ("vgg", "test_resnet"):
        model = fcn(backbone, upsampling="nearest")
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))


def test_the_auxiliary_head_answers_while_it_trains():
    model = fcn(auxiliary=True, norm="group", activation="gelu")
    logits, other = model(torch.randn(2, 3, 50, 70))
    assert logits.shape == other.shape == (2, 3, 50, 70)
    assert {"GroupNorm", "GELU"} <= {type(m).__name__ for m in model.auxiliary.modules()}
    assert isinstance(model.eval()(torch.randn(2, 3, 50, 70)), torch.Tensor)


def test_the_config_gives_an_fcn():
    chosen = ["model=fcn", "task=segmentation", "backbone=vgg_light", "backbone.activation=elu"]
    model = build(check(composed(*chosen, "model.stride=16"))).task.model
    assert len(model.scores) == 2
    assert model.fc[1].weight.shape == (512, 128, 7, 7)
    assert isinstance(model.fc[2], nn.ELU)
    with pytest.raises(
        ConfigError, match=r"model\.upsampling=max_unpool.*'transposed', 'bilinear' or 'nearest'"
    ):
        check(composed(*chosen, "model.upsampling=max_unpool"))


def test_what_it_refuses_it_explains():
    with pytest.raises(ValueError, match=r"model\.upsampling=bed_of_nails: FCN has no convolution after it"):
        fcn(upsampling="bed_of_nails")
    with pytest.raises(ValueError, match=r"model\.stride=32: the maps of this backbone have strides 2, 4, 8"):
        fcn("convnet", stride=32)
    with pytest.raises(ValueError, match=r"model\.stride=8: the maps of this backbone have strides 16"):
        fcn("test_vit", stride=8)
    with pytest.raises(ValueError, match=r"backbone\.padded=false: FCN needs maps with their borders"):
        FCN(backbone=UNetEncoder(width=2), num_classes=2)
