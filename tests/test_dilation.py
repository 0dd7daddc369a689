"""Dilation of networks that are built: the strides asked for, and the features that the weights made before."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from paribus.models.backbones.alexnet import AlexNet
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.densenet import DenseNet
from paribus.models.backbones.googlenet import GoogLeNet
from paribus.models.backbones.mobilenet import MobileNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.backbones.timm import Timm
from paribus.models.backbones.vgg import VGG
from paribus.models.dilation import AveragePool, dilate

OURS = {
    "vgg": lambda **k: VGG(configuration="A", width=8, hidden=[8], **k),
    "vgg_normed": lambda **k: VGG(configuration="A", width=8, hidden=[8], norm="batch", **k),
    "alexnet": lambda **k: AlexNet(remove=["fc6", "fc7"], **k),
    "googlenet": lambda **k: GoogLeNet(last_pool=3, kernel=5, **k),
    "densenet": lambda **k: DenseNet(depth=121, growth=4, **k),
    "cifar_densenet": lambda **k: DenseNet(depth=22, family="cifar", **k),
    "mobilenet": lambda **k: MobileNet(width=0.25, **k),
    "mobilenet_full": lambda **k: MobileNet(width=0.25, separable=False, **k),
    "convnet": lambda **k: ConvNet(channels=[8, 8, 8, 8], kernel=5, stacked=True, **k),
    "convnet_max": lambda **k: ConvNet(channels=[8, 8, 8], downsample="max", **k),
    "convnet_average": lambda **k: ConvNet(channels=[8, 8, 8], downsample="average", **k),
}
# Without squeeze-and-excitation. Poolings of 2 and 3, TensorFlow's padding, convolutions of 2, averaged shortcuts.
TIMMS = ["vgg11_bn", "densenet121", "mobilenetv2_035", "tf_efficientnet_lite0", "test_convnext", "resnet26d"]


def drawn(network):
    """Every norm's statistics and weights as if trained, so that no error can hide behind zeros and ones."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
    return network.eval()


def pair(make, stride):
    """A network, and the same with an output stride."""
    plain = drawn(make())
    dilated = make(output_stride=stride).eval()
    dilated.load_state_dict(plain.state_dict())  # the names of the weights are the same
    return plain, dilated


def check_features(plain, dilated, size=(96, 128)):
    """The cells that were there keep their values, those at the border too."""
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        before, after = plain(x), dilated(x)
    for old, new, stride, now in zip(before, after, plain.strides, dilated.strides, strict=True):
        there = new[..., :: stride // now, :: stride // now][..., : old.shape[-2], : old.shape[-1]]
        assert there.shape == old.shape
        assert (there - old).abs().max() < 1e-4 * old.std()


def check_strides(backbone, size=(96, 128)):
    with torch.no_grad():
        sizes = [m.shape[-2:] for m in backbone(torch.randn(1, 3, *size))]
    assert [(size[0] // h, size[1] // w) for h, w in sizes] == [(s, s) for s in backbone.strides]


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("vgg", 4),
        ("vgg", 8),
        ("vgg_normed", 16),
        ("googlenet", 8),
        ("densenet", 16),
        ("mobilenet", 8),
        ("mobilenet_full", 16),
    ],
)
def test_our_networks_keep_their_features(name, stride):
    plain, dilated = pair(OURS[name], stride)
    assert dilated.strides == [min(s, stride) for s in plain.strides]
    check_strides(dilated)
    check_features(plain, dilated)


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("cifar_densenet", 2),
        ("cifar_densenet", 1),
        ("convnet", 4),
        ("convnet_max", 2),
        ("convnet_average", 2),
    ],
)
def test_networks_for_small_images_keep_their_features(name, stride):
    plain, dilated = pair(OURS[name], stride)
    assert max(dilated.strides) == stride
    check_strides(dilated, (32, 48))
    check_features(plain, dilated, (32, 48))


@pytest.mark.parametrize("stride", [8, 16])
def test_alexnet_keeps_its_features_and_what_its_unpadded_poolings_lose(stride):
    plain, dilated = pair(OURS["alexnet"], stride)
    check_features(plain, dilated, (227, 227))
    with torch.no_grad():
        sizes = [m.shape[-1] for m in dilated(torch.randn(1, 3, 227, 227))]
    assert sizes == ([55, 27, 25, 21] if stride == 8 else [55, 27, 13, 11])


@pytest.mark.parametrize(("name", "stride"), [*((name, 8) for name in TIMMS), ("densenet121", 16)])
def test_timms_networks_keep_their_features(name, stride):
    plain, dilated = pair(lambda **k: Timm(name=name, **k), stride)
    assert dilated.strides == [min(s, stride) for s in plain.strides]
    check_strides(dilated, (64, 96))
    check_features(plain, dilated, (64, 96))


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035", "efficientnet_b0", "seresnet18"])
def test_every_cell_is_that_of_timms_own_dilation(name, stride):
    ours = drawn(Timm(name=name, output_stride=stride))
    theirs = timm.create_model(name, num_classes=0, output_stride=stride).eval()
    theirs.load_state_dict(ours.network.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(ours(x), theirs.forward_intermediates(x, intermediates_only=True), strict=True):
            assert torch.allclose(a, b, atol=1e-4 * b.std())


@pytest.mark.parametrize("stride", [8, 16])
def test_every_cell_is_that_of_our_resnet_built_dilated(stride):
    built, dilated = drawn(ResNet(depth=18, output_stride=stride)), ResNet(depth=18).eval()
    dilated.load_state_dict(built.state_dict())
    dilate(dilated, stride)
    assert dilated.strides == built.strides
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(dilated(x), built(x), strict=True):
            assert torch.allclose(a, b, atol=1e-4 * b.std())


@pytest.mark.parametrize("keys", [{"se_reduction": 4}, {"norm": "group"}])
def test_what_averages_over_a_map_averages_over_the_new_cells_too(keys):
    """As dilate() says: squeeze-and-excitation and group norm make something near to the old values."""
    plain, dilated = pair(lambda **k: VGG(configuration="A", width=16, hidden=[8], **keys, **k), 8)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before, after = plain(x), dilated(x)
    assert torch.equal(before[3], after[3])
    old, new = before[4], after[4][..., ::2, ::2]
    assert not torch.allclose(old, new, atol=1e-4 * old.std())
    assert (old - new).square().mean() < 0.1 * old.var()


def test_timms_own_dilation_serves_where_ours_cannot():
    backbone = Timm(name="resnetblur18", output_stride=16)  # it strides in a blur that is no pooling
    assert backbone.strides == [2, 4, 8, 16, 16]
    check_strides(backbone.eval())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VGG(output_stride=12, width=4), "output_stride=12: VGG can have 1, 2, 4, 8, 16, 32"),
        (lambda: Timm(name="resnet18", output_stride=12), "=12: resnet18 can have 2, 4, 8, 16, 32"),
        (
            lambda: Timm(name="test_vit", output_stride=8),
            "test_vit can have 16: its maps are not strided stages",
        ),
        (
            lambda: Timm(name="swin_tiny_patch4_window7_224", output_stride=16),
            r"can have 32: its maps are not strided stages \(it has attention\)",
        ),
        (
            lambda: Timm(name="hrnet_w18_small", output_stride=16),
            "hrnet_w18_small can have 32: its maps are not strided stages",
        ),
        (
            lambda: Timm(name="efficientvit_b0", output_stride=8),
            r"efficientvit_b0 can have 32: .*it has attention",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(make, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make()


class Blurred(nn.Module):
    """A network whose second stage strides by a slice, and whose first is padded by reflection."""

    def __init__(self, sliced):
        super().__init__()
        self.strides, self.channels, self.sliced = [2, 4, 8], [3, 3, 3], sliced
        self.convs = nn.ModuleList(
            nn.Conv2d(3, 3, 3, 2, padding=1, padding_mode="zeros" if sliced else "reflect") for _ in range(3)
        )

    def forward(self, x):
        a = self.convs[0](x)
        b = self.convs[1](a)
        c = F.conv2d(b, self.convs[2].weight, padding=1)[..., ::2, ::2] if self.sliced else self.convs[2](b)
        return [a, b, c]


@pytest.mark.parametrize(
    ("sliced", "message"),
    [
        (True, "something strides that is neither convolution nor pooling"),
        (False, r"convs\.2 pads with reflect"),
    ],
)
def test_a_network_that_is_refused_stays_as_it_is(sliced, message):
    network = Blurred(sliced)
    before = str(network)
    with pytest.raises(ValueError, match=message):
        dilate(network, 4)
    assert str(network) == before
    assert network.strides == [2, 4, 8]


def test_a_coarser_output_stride_than_the_networks_changes_nothing():
    assert VGG(width=4, hidden=[4], output_stride=64).strides == [1, 2, 4, 8, 16, 32]
    assert ConvNet(channels=[2] * 7).strides[-1] == 128


@pytest.mark.parametrize("name", ["vgg_normed", "cifar_densenet", "googlenet"])
def test_every_parameter_of_a_dilated_network_and_of_its_copy_has_a_gradient(name):
    backbone = OURS[name](output_stride=2 if name == "cifar_densenet" else 8)
    clone = copy.deepcopy(backbone)
    x = torch.randn(2, 3, 64, 64)
    for network in (backbone, clone):
        sum(m.square().mean() for m in network(x)).backward()
        missing = [n for n, p in network.named_parameters() if p.grad is None and not n.startswith("fc.")]
        assert not missing
    assert torch.equal(backbone.eval()(x)[-1], clone.eval()(x)[-1])


@pytest.mark.parametrize("counted", [True, False])
def test_an_average_of_cells_apart_is_torchs_on_every_second_cell(counted):
    x = torch.randn(2, 3, 12, 10)
    pool = AveragePool([3, 3], [2, 2], (2, 2, 2, 2), [2, 2] if counted else [0, 0])
    found = pool(x)
    assert found.shape == x.shape
    for i in (0, 1):
        for j in (0, 1):
            expected = F.avg_pool2d(x[..., i::2, j::2], 3, 1, padding=1, count_include_pad=counted)
            assert torch.allclose(found[..., i::2, j::2], expected, atol=1e-6)
