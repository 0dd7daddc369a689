"""Parameters and multiply-adds equal the published ones, to the last digit; layer by layer the lectures' tables."""

import math

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.timm import Timm
from paribus.models.classifier import Classifier
from paribus.models.detection.faster_rcnn import FasterRCNN
from paribus.models.detection.retinanet import RetinaNet
from paribus.models.segmentation.unet import UNet
from paribus.profile.complexity import KINDS, Layer, count, layers


def classifier(name):
    with torch.device("meta"):
        return Classifier(backbone=Timm(name=name), num_classes=1000)


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [
        ("resnet18", 11_689_512, 1.814),
        ("resnet50", 25_557_032, 4.089),
        ("vgg16_bn", 138_365_992, 15.470),
        ("densenet121", 7_978_856, 2.834),
        ("resnext50_32x4d", 25_028_904, 4.230),
        ("mobilenetv1_100", 4_231_976, 0.5687),
        ("mobilenetv2_100", 3_504_872, 0.3008),
        ("efficientnet_b0", 5_288_548, 0.3858),
        ("convnext_tiny", 28_589_128, 4.456),
        ("vit_base_patch16_224", 86_567_656, 17.564),
        ("swin_tiny_patch4_window7_224", 28_288_354, 4.491),
    ],
)
def test_published_numbers(name, parameters, gmacs):
    counted, macs = count(classifier(name), (224, 224))
    assert counted == parameters
    assert macs / 1e9 == pytest.approx(gmacs, rel=5e-4)


# torchvision publishes the detectors without their frozen batch norms' 53,120 weights.
def test_retinanet_equals_torchvisions():
    with torch.device("meta"):
        model = RetinaNet(backbone=Timm(name="resnet50"), num_classes=91, norm=None)
    parameters, macs = count(model, (800, 800))
    assert parameters == 34_014_999 + 53_120
    assert macs / 1e9 == pytest.approx(151.54, abs=0.005)


def test_faster_rcnn_equals_torchvisions():
    with torch.device("meta"):
        model = FasterRCNN(backbone=Timm(name="resnet50"), num_classes=90, num_proposals=1000)
    parameters, macs = count(model, (800, 800))
    assert parameters == 41_755_286 + 53_120
    assert macs / 1e9 == pytest.approx(134.38, abs=0.005)


def test_a_segmenter_by_hand():
    model = UNet(backbone=ConvNet(channels=[2], blocks=1), num_classes=3, decoder_channels=[4])
    # 16 x 16 cells of 3x3x3 -> 2; then 32 x 32 of 3x3x2 -> 4, 3x3x4 -> 4 and 4 -> 3.
    assert count(model, (32, 32))[1] == 256 * 27 * 2 + 1024 * (18 * 4 + 36 * 4 + 4 * 3)
    assert count(model, (31, 31))[1] == count(model, (32, 32))[1]


def test_the_model_is_left_as_it_was():
    model = Classifier(backbone=ConvNet(channels=[4], in_channels=1), num_classes=2).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count(model, (16, 16), in_channels=1)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert next(model.parameters()).device.type == "cpu"


def test_a_network_that_needs_values_has_no_count():
    class Needs(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum().item() > 0 else x

    assert count(Needs(4, 4), (4, 4)) == (20, None)


def test_images_that_the_network_does_not_take():
    with pytest.raises(ValueError, match=r"does not take images of 64 x 64 .*backbone\.image_size"):
        count(Classifier(backbone=Timm(name="test_vit_relpos"), num_classes=2), (64, 64))


# --- layer by layer --------------------------------------------------------------------------------


def shown(model: nn.Module, size: int | tuple[int, int], in_channels: int = 3) -> list[Layer]:
    """The layers that a table shows."""
    found = layers(model, (size, size) if isinstance(size, int) else size, in_channels)
    return [layer for layer in found if layer.kind in KINDS]


def torchvisions(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return getattr(torchvision.models, name)(**options)


# The lecture's rows, of 227 x 227 pixels: memory in KB, parameters in thousands, multiply-adds in millions. Its
# fc rows leave the biases out, and of conv4 it says 145 M.
ALEXNET = [
    ("conv", (64, 56, 56), 784, 23_296, 72_855_552, 11),
    ("pool", (64, 27, 27), 182, 0, 0, 19),
    ("conv", (192, 27, 27), 547, 307_392, 223_948_800, 51),
    ("pool", (192, 13, 13), 127, 0, 0, 67),
    ("conv", (384, 13, 13), 254, 663_936, 112_140_288, 99),
    ("conv", (256, 13, 13), 169, 884_992, 149_520_384, 131),
    ("conv", (256, 13, 13), 169, 590_080, 99_680_256, 163),
    ("pool", (256, 6, 6), 36, 0, 0, 195),
    ("linear", (4096,), 16, 37_748_736 + 4096, 37_748_736, math.inf),
    ("linear", (4096,), 16, 16_777_216 + 4096, 16_777_216, math.inf),
    ("linear", (1000,), 4, 4_096_000 + 1000, 4_096_000, math.inf),
]


def test_the_lectures_table_of_alexnet():
    found = shown(torchvisions("alexnet"), 227)
    rows = [(x.kind, x.output, round(x.memory / 1024), x.parameters, x.macs, x.field[0]) for x in found]
    assert rows == [(*row[:2], row[2], *row[3:]) for row in ALEXNET]
    first, pool = found[:2]
    assert (first.kernel, first.stride, first.padding) == ((11, 11), (4, 4), (2, 2))
    assert (pool.kernel, pool.stride, pool.padding) == ((3, 3), (2, 2), (0, 0))
    assert first.memory == 64 * 56 * 56 * 4


def test_stacked_small_filters_see_as_much_as_a_large_one_for_less():
    c = 16
    stack = nn.Sequential(*[nn.Conv2d(c, c, 3, padding=1, bias=False) for _ in range(3)])
    small = layers(stack, (9, 9), c)
    assert [layer.field for layer in small] == [(3, 3), (5, 5), (7, 7)]
    (large,) = layers(nn.Conv2d(c, c, 7, padding=3, bias=False), (9, 9), c) or [None]
    assert large.field == (7, 7)
    assert sum(layer.parameters for layer in small) == 27 * c * c
    assert large.parameters == 49 * c * c


def test_a_separable_convolution_costs_1_n_plus_1_k2():
    m, n, k = 32, 64, 3
    (full,) = shown(nn.Sequential(nn.Conv2d(m, n, k, padding=1, bias=False)), 14, m)
    apart = nn.Sequential(nn.Conv2d(m, m, k, padding=1, groups=m, bias=False), nn.Conv2d(m, n, 1, bias=False))
    depthwise, pointwise = shown(apart, 14, m)
    assert depthwise.groups == m
    for key in ("macs", "parameters"):
        ratio = (getattr(depthwise, key) + getattr(pointwise, key)) / getattr(full, key)
        assert ratio == pytest.approx(1 / n + 1 / k**2, rel=1e-12)


def test_a_1x1_before_a_5x5():
    direct = nn.Sequential(nn.Conv2d(192, 32, 5, padding=2))
    reduced = nn.Sequential(nn.Conv2d(192, 16, 1), nn.Conv2d(16, 32, 5, padding=2))
    assert round(sum(x.macs for x in shown(direct, 28, 192)) / 1e6) == 120
    assert round(sum(x.macs for x in shown(reduced, 28, 192)) / 1e6, 1) == 12.4


def test_the_stem_of_googlenet_against_vgg():
    class Stem(nn.Sequential):
        def __init__(self):
            conv = [nn.Conv2d(3, 64, 7, 2, 3), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 192, 3, padding=1)]
            super().__init__(conv[0], nn.MaxPool2d(3, 2, 1), *conv[1:], nn.MaxPool2d(3, 2, 1))

    stem = shown(Stem(), 224)
    assert stem[-1].output == (192, 28, 28)
    assert round(sum(x.memory for x in stem) / 2**20, 1) == 7.5
    assert sum(x.parameters for x in stem) // 1000 == 124
    assert round(sum(x.macs for x in stem) / 1e6) == 478  # the formula's; the lecture says 418
    # The lecture counts two of VGG-16's three convolutions at 56 x 56, and no pooling.
    vgg = [x for x in shown(torchvisions("vgg16"), 224) if x.kind == "conv"][:6]
    assert round(sum(x.memory for x in vgg) / 2**20, 1) == 42.9
    assert round(sum(x.parameters for x in vgg) / 1e6, 1) == 1.1
    assert round(sum(x.macs for x in vgg) / 1e6) == 7485


def timms(name):
    return pytest.param(lambda: Classifier(backbone=Timm(name=name), num_classes=10), id=name)


@pytest.mark.parametrize(
    "model",
    [
        timms("resnet18"),
        timms("convnext_atto"),
        timms("vit_tiny_patch16_224"),
        timms("swin_tiny_patch4_window7_224"),
        timms("eca_nfnet_l0"),
        pytest.param(lambda: torchvision.models.vit_b_16(), id="functional attention"),
        pytest.param(lambda: torchvision.models.googlenet(init_weights=False), id="unused heads"),
        pytest.param(
            lambda: UNet(backbone=ConvNet(channels=[8, 8]), num_classes=3, decoder_channels=[8, 8]), id="unet"
        ),
        pytest.param(lambda: RetinaNet(backbone=Timm(name="resnet18"), num_classes=9), id="retinanet"),
        pytest.param(lambda: FasterRCNN(backbone=Timm(name="resnet18"), num_classes=9), id="faster_rcnn"),
    ],
)
def test_the_layers_add_up(model):
    with torch.device("meta"):
        model = model()
    counted, macs = count(model, (224, 224))
    table = shown(model, 224)
    assert sum(layer.parameters for layer in table) == counted
    assert sum(layer.macs for layer in table) == macs


def test_parameters_are_named_where_they_are_used():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4, 1, 1))
            self.spare = nn.Linear(2, 2)
            self.first = nn.Conv2d(3, 4, 1)
            self.kernel = nn.Parameter(torch.ones(4, 3, 1, 1))

        def forward(self, x):
            x = F.conv2d(self.first(x) * self.scale, self.kernel.transpose(0, 1))
            return self.first(x)

    assert [(x.name, x.kind, x.parameters) for x in shown(Odd(), 8)] == [
        ("first", "conv", 16),
        ("scale", "parameter", 4),
        ("conv", "conv", 12),  # of no module
        ("first #2", "conv", 0),
        ("spare", "unused", 6),
    ]


def test_every_layer_and_what_costs_nothing():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Dropout(), nn.Tanh(), nn.AdaptiveAvgPool2d(6)
    )
    found = layers(model, (8, 8))
    assert [(x.kind, x.memory) for x in found] == [
        ("conv", 4 * 4 * 36),
        ("ReLU", 0),  # over its input
        ("Dropout", 0),
        ("Tanh", 4 * 4 * 36),
        ("AdaptiveAvgPool2d", 4 * 4 * 36),  # 6 x 6 cells of 6 x 6
    ]
    assert [x.kind for x in shown(model, 8)] == ["conv"]


def test_a_norm_is_one_layer_whatever_it_is_made_of():
    for norm in (
        nn.LocalResponseNorm(5),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.BatchNorm2d(4),
    ):
        _, found = shown(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm), 8)
        assert (found.kind, found.output, found.field, found.kernel) == ("norm", (4, 8, 8), (3, 3), ())
        assert found.parameters == sum(p.numel() for p in norm.parameters())


def test_layers_that_need_values():
    class Needs(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum().item() > 0 else x

    with pytest.raises(ValueError, match="Needs needs values to run"):
        layers(Needs(4, 4), (4, 4))


def test_images_that_are_too_small():
    with pytest.raises(ValueError, match=r"AlexNet does not take images of 32 x 32 .*`input_size`"):
        layers(torchvisions("alexnet"), (32, 32))
