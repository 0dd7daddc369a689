"""DeepLabv3+: torchvision's and smp's networks, every part on and off, any size, and the fields asked for."""

from itertools import product

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import squares
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.densenet import DenseNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.backbones.timm import Timm
from paribus.models.backbones.vgg import VGG
from paribus.models.context import ASPP
from paribus.models.segmentation.deeplabv3plus import DeepLabV3Plus

BACKBONES = {
    "convnet": lambda: ConvNet(channels=[8, 12, 16]),
    "test_resnet": lambda: Timm(name="test_resnet", output_stride=16),
    "test_convnext": lambda: Timm(name="test_convnext", output_stride=8),
    "test_vit": lambda: Timm(name="test_vit"),
    "vgg": lambda: VGG(configuration="A", width=4, output_stride=8),
    "densenet": lambda: DenseNet(depth=22, family="cifar", growth=4, output_stride=2),
}


def deeplab(backbone="convnet", **keys):
    torch.manual_seed(0)
    keys = {"context_channels": 12, "low_level_channels": 6, "decoder_channels": [10], "rates": [1, 2]} | keys
    made = BACKBONES[backbone]() if isinstance(backbone, str) else backbone
    return DeepLabV3Plus(backbone=made, num_classes=4, **keys)


def deeplabv3(depth):
    """torchvision's, part for part."""
    return DeepLabV3Plus(
        backbone=ResNet(depth=depth, output_stride=8),
        num_classes=21,
        decoder=False,
        decoder_channels=[256],
        auxiliary=True,
        dropout=0.5,
    )


def drawn(network):
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.mark.parametrize(
    ("depth", "parameters", "multiply_adds"),
    [(50, 42_004_074, 178_721_945_088), (101, 60_996_202, 258_743_039_488)],
)
def test_deeplabv3_costs_what_torchvisions_does(depth, parameters, multiply_adds):
    """torchvision counts the auxiliary head, which it runs in evaluation too."""
    with torch.device("meta"):
        model = deeplabv3(depth)
        images = torch.zeros(1, 3, 520, 520)
    assert sum(p.numel() for p in model.parameters()) == parameters
    with torch.no_grad(), FlopCounterMode(display=False) as training:
        model.train()(images)
    assert training.get_total_flops() // 2 == multiply_adds
    with torch.no_grad(), FlopCounterMode(display=False) as evaluation:
        model.eval()(images)
    assert evaluation.get_total_flops() // 2 == multiply_adds - 65 * 65 * 256 * (9 * 1024 + 21)


def test_with_torchvisions_weights_deeplabv3_gives_torchvisions_logits():
    torch.manual_seed(0)
    theirs = drawn(
        torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    )
    ours = deeplabv3(50).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(x)
        assert expected["out"].std() > 0.01
        assert torch.allclose(ours(x), expected["out"], atol=1e-5)
        # The answer while it trains, without the randomness of training: dropout and batch statistics.
        ours.training = True
        logits, auxiliary = ours(x)
    assert torch.allclose(logits, expected["out"], atol=1e-5)
    assert torch.allclose(auxiliary, expected["aux"], atol=1e-5)


def test_with_smps_weights_it_gives_smps_logits():
    """segmentation_models.pytorch's, less what differs on purpose: it has a further separable convolution after
    ASPP, which neither the paper nor its authors' code has; it aligns corners when it enlarges; and its dilation
    spreads the convolution that strode too, whose pretrained weights then see other cells.
    """
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = drawn(
        smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=4, decoder_atrous_rates=(6, 12, 18))
    )
    theirs.decoder.aspp = theirs.decoder.aspp[0]
    theirs.decoder.up = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    theirs.segmentation_head[1] = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    strode = theirs.encoder.layer4[0].conv1
    strode.dilation = strode.padding = (1, 1)
    ours = DeepLabV3Plus(
        backbone=Timm(name="resnet18", output_stride=16),
        num_classes=4,
        decoder_channels=[256],
        separable=True,
    ).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 0.01
        assert torch.allclose(ours(x), expected, atol=1e-5)


DEFINED = [
    (context, upsampling, decoder)
    for context, upsampling, decoder in product(
        ["none", "spp", "aspp"],
        ["nearest", "bed_of_nails", "max_unpool", "transposed", "bilinear"],
        [True, False],
    )
    if decoder or upsampling not in ("bed_of_nails", "max_unpool")
]


@pytest.mark.parametrize(("context", "upsampling", "decoder"), DEFINED)
def test_every_part_with_every_other_trains_on_one_image_of_odd_size(context, upsampling, decoder):
    model = deeplab(context=context, upsampling=upsampling, decoder=decoder, auxiliary=True, dropout=0.1)
    logits, auxiliary = model(torch.randn(1, 3, 41, 35))
    assert logits.shape == auxiliary.shape == (1, 4, 41, 35)
    (logits.square().mean() + auxiliary.square().mean()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    with torch.no_grad():
        for size in [(64, 64), (17, 50)]:
            assert model.eval()(torch.randn(1, 3, *size)).shape == (1, 4, *size)


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_kind_of_backbone(backbone, decoder):
    model = deeplab(backbone, decoder=decoder, upsampling="nearest")
    logits = model(torch.randn(1, 3, 65, 97))
    assert logits.shape == (1, 4, 65, 97)
    logits.square().mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize(
    "norm", ["batch", "sync_batch", "group", "layer", "instance", "local_response", "none"]
)
def test_every_norm(norm):
    model = deeplab(norm=norm, activation="gelu", separable=True)
    logits = model(torch.randn(2, 3, 40, 40))
    logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert 1e-4 < logits.square().mean() < 1e4


@pytest.mark.parametrize(("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
def test_rates_are_those_of_the_output_stride(stride, rates):
    model = deeplab(Timm(name="test_resnet", output_stride=stride), rates=None)
    assert isinstance(model.context, ASPP)
    assert [branch[0].dilation[0] for branch in model.context.branches[1:-1]] == rates


def field(model, images, y, x):
    """Rows of the image that one cell of the classifier's map depends on."""
    found = []
    hook = model.head.register_forward_hook(lambda _, __, out: found.append(out))
    images = images.clone().requires_grad_()
    model(images)
    hook.remove()
    found[0][0, :, y, x].sum().backward()
    rows = images.grad[0].abs().sum((0, 2)).nonzero().flatten()
    return rows.min().item(), rows.max().item(), found[0].shape


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("rates", [[1, 2], [3], [2, 5]])
def test_output_stride_and_receptive_field_are_what_the_config_asks_for(stride, rates):
    """Three 3x3 convolutions at strides 1, 2 and 4 see 1 + 2 + 4 + 8 pixels however they are dilated; the largest
    rate of r adds 2 * r * stride. Sigmoids let every path through.
    """
    backbone = ConvNet(channels=[2, 2, 2], blocks=1, norm="none", activation="sigmoid", output_stride=stride)
    model = deeplab(
        backbone,
        rates=rates,
        image_pooling=False,
        decoder=False,
        decoder_channels=[],
        norm="none",
        activation="sigmoid",
    ).double()
    assert backbone.strides[-1] == stride
    images = torch.randn(1, 3, 160, 160, dtype=torch.double)
    cells = 160 // stride
    low, high, shape = field(model, images, cells // 2, cells // 2)
    assert shape[-2:] == (cells, cells)
    assert high - low + 1 == 15 + 2 * max(rates) * stride
    assert field(model, images, cells // 2 + 1, cells // 2)[:2] == (low + stride, high + stride)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"context": "asp"}, r"model\.context=asp: one of none, spp, aspp"),
        ({"upsampling": "cubic"}, r"model\.upsampling=cubic: one of nearest"),
        (
            {"upsampling": "bed_of_nails", "decoder": False},
            r"model\.upsampling=bed_of_nails: without model\.decoder nothing fills the holes",
        ),
        ({"context_channels": 0}, r"model\.context_channels=0: 1 or more"),
        ({"low_level_channels": 0}, r"model\.low_level_channels=0: 1 or more"),
        ({"rates": []}, r"model\.rates=\[\]"),
        ({"context": "spp", "bins": [0]}, r"model\.bins=\[0\]"),
    ],
)
def test_what_cannot_be_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        deeplab(**keys)


def test_a_decoder_needs_a_finer_map():
    with pytest.raises(ValueError, match=r"model\.decoder: ConvNet has a single map.*model\.decoder=false"):
        deeplab(ConvNet(channels=[4]))
    deeplab(ConvNet(channels=[4]), decoder=False)


def test_max_unpool_needs_a_finer_map():
    with pytest.raises(
        ValueError, match=r"model\.upsampling=max_unpool: the maps of this backbone all have stride 16"
    ):
        deeplab("test_vit", upsampling="max_unpool")


def test_the_decoder_joins_the_map_of_stride_4():
    model = deeplab(Timm(name="test_resnet", output_stride=8)).eval()
    x = torch.randn(1, 3, 64, 64)
    before, changed = model(x), []
    for index in range(len(model.backbone.channels)):
        hook = model.backbone.register_forward_hook(
            lambda _, __, maps, index=index: [m * (i != index) for i, m in enumerate(maps)]
        )
        changed.append(not torch.allclose(model(x), before, atol=1e-7))
        hook.remove()
    assert changed == [False, True, False, False, True]


def test_it_learns_to_segment_squares():
    assert squares.learned(deeplab(upsampling="bilinear", decoder_channels=[16]), steps=40) > 0.7
