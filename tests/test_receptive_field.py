"""Receptive fields, by hand and as published, through modules, functions and branches."""

import math

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.timm import Timm
from paribus.models.classifier import Classifier
from paribus.models.segmentation.unet import UNet
from paribus.profile.complexity import KINDS, layers


def fields(model, size, in_channels=3):
    """(rows, columns) by layer."""
    return {x.name: x.field for x in layers(model, size, in_channels) if x.kind in KINDS}


class Function(nn.Module):
    """A network of one function of a 3x3 convolution's map, and a 3x3 after it."""

    def __init__(self, function, channels=2):
        super().__init__()
        self.first, self.function = nn.Conv2d(3, 2, 3, padding=1), function
        self.last = nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, x):
        return self.last(self.function(self.first(x)))


# Araujo et al. 2019: AlexNet 195, VGG-16 212, and ResNet-50 483 with the stride in the 1x1, which torchvision
# has in the 3x3.
@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        ("alexnet", "features.12", 195),
        ("vgg16", "features.28", 196),
        ("vgg16", "features.30", 212),
        ("resnet18", "layer1.0.conv2", 27),
        ("resnet18", "layer4.1.conv2", 435),
        ("resnet50", "layer4.2.conv3", 427),
    ],
)
def test_published_fields(name, layer, expected):
    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
    assert fields(model, (224, 224))[layer] == (expected, expected)


def test_branches_meet_in_the_largest():
    with torch.device("meta"):
        model = torchvision.models.googlenet(init_weights=False)
    found = fields(model, (224, 224))
    assert found["maxpool2"] == (27, 27)
    assert [
        found[f"inception3a.{b}.conv"][0] for b in ("branch1", "branch2.1", "branch3.1", "branch4.1")
    ] == [
        27,
        27 + 2 * 8,
        27 + 2 * 8,
        27 + 2 * 8,
    ]
    assert found["inception3b.branch1.conv"] == (43, 43)  # a 1x1 on what they made together
    assert found["avgpool"] == (math.inf, math.inf)


# After the first 3x3: what the function makes of (3, jump 1), and then two more cells.
FUNCTIONS = {
    "cat with what was there": (lambda x: torch.cat([x, F.max_pool2d(x, 5, 1, 2)], 1), 7 + 2, 4),
    "sum with what was there": (lambda x: x + F.avg_pool2d(x, 3, 1, 1), 5 + 2, 2),
    "stride by slices": (lambda x: x[:, :, ::2, ::2], 3 + 2 * 2, 2),
    "nearest neighbours": (lambda x: F.interpolate(x, scale_factor=2), 3 + 2 * 0.5, 2),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 3 + 1 + 2 * 0.5, 2),
    "to an odd size": (lambda x: F.interpolate(x[:, :, ::2, ::2], size=(15, 15)), 3 + 2 * 1, 2),
    "flattened and back": (lambda x: x.flatten(2).relu().unflatten(2, (16, 16)), 3 + 2, 2),
    "channels last": (lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (2,)).permute(0, 3, 1, 2), 3 + 2, 2),
    "a gate of pooled values": (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), 3 + 2, 2),
    "pooled values joined": (
        lambda x: torch.cat([x, x.mean((2, 3), keepdim=True).expand_as(x)], 1),
        math.inf,
        4,
    ),
    "all cells mixed": (lambda x: (x.flatten(2) @ x.flatten(2).mT @ x.flatten(2)).view_as(x), math.inf, 2),
    "pooled to 4 x 4": (lambda x: F.adaptive_avg_pool2d(x, 4), 3 + 3 + 2 * 4, 2),
    "transposed": (
        lambda x: F.conv_transpose2d(x, torch.ones(2, 2, 4, 4, device="meta"), stride=2),
        3 + 1 + 2 * 0.5,
        2,
    ),
    "dilated": (lambda x: F.conv2d(x, torch.ones(2, 2, 3, 3, device="meta"), dilation=3), 3 + 2 * 3 + 2, 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_followed(name):
    function, expected, channels = FUNCTIONS[name]
    assert fields(Function(function, channels), (16, 16))["last"] == (expected, expected)


def test_a_linear_layer_on_every_cell_sees_what_the_cell_saw():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 2, 3), nn.Linear(2, 5)

        def forward(self, x):
            return self.linear(self.conv(x).permute(0, 2, 3, 1))

    assert fields(Last(), (16, 16))["linear"] == (3, 3)


def test_rows_and_columns_apart():
    model = nn.Sequential(nn.Conv2d(3, 2, (1, 7), stride=(1, 2)), nn.Conv2d(2, 2, (7, 1)), nn.Conv2d(2, 2, 3))
    assert list(fields(model, (32, 32)).values()) == [(1, 7), (7, 7), (9, 11)]


def test_a_linear_layer_on_the_whole_map_sees_it_all():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 14 * 14, 5))
    assert list(fields(model, (16, 16)).values()) == [(3, 3), (math.inf, math.inf)]


def test_a_unet_returns_to_the_images_grid():
    model = UNet(backbone=ConvNet(channels=[4, 4], blocks=1), num_classes=2, decoder_channels=[4, 4])
    found = {x.name: x for x in layers(model, (30, 30))}
    # 3, 7 on the way down; two 3x3 at jump 2 and two at jump 1 on the way up.
    assert found["head"].field == (7 + 2 * 4 + 2 * 2, 7 + 2 * 4 + 2 * 2)
    assert found["head"].jump == (1, 1)


def test_attention_sees_all_and_patches_themselves():
    with torch.device("meta"):
        model = Classifier(backbone=Timm(name="vit_tiny_patch16_224"), num_classes=2)
    found = [x for x in layers(model, (224, 224)) if x.kind in KINDS]
    assert found[0].field == found[0].jump == (16, 16)
    attention = next(x for x in found if x.kind == "attention")
    assert attention.field == (math.inf, math.inf)
    assert attention.jump is None
