"""U-Net: the published one, any image size, any pyramid, every way up and every skip, and it learns to segment."""

from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import squares
from composing import composed
from paribus.build import build
from paribus.checks import check
from paribus.models.activation import Activation
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.timm import Timm
from paribus.models.backbones.unet import UNetEncoder
from paribus.models.backbones.vgg import VGG
from paribus.models.layers import ConvNormAct
from paribus.models.normalization import Norm
from paribus.models.segmentation.unet import UNet
from paribus.models.upsampling import Upsampling
from paribus.models.weights import in_order
from paribus.profile.complexity import count, layers

BACKBONES = {
    "convnet": lambda **k: ConvNet(channels=[8, 12, 16], **k),
    "test_resnet": lambda **k: Timm(name="test_resnet", **k),
    "test_efficientnet": lambda **k: Timm(name="test_efficientnet", **k),
    "test_convnext": lambda **k: Timm(name="test_convnext", **k),  # finest stride 4
    "test_vit": lambda **k: Timm(name="test_vit", **k),  # three maps of stride 16
    "vgg11": lambda **k: Timm(name="vgg11", **k),  # finest stride 1
    "swin": lambda **k: Timm(name="swin_tiny_patch4_window7_224", **k),
    "dilated": lambda **k: Timm(name="test_resnet", output_stride=8, **k),
    "vgg_light": lambda **k: VGG(configuration="A", width=4, hidden=[], **k),
    "unet": lambda **k: UNetEncoder(width=4, depth=3, padded=True, **k),
}


def unet(backbone, classes=4, **keys):
    torch.manual_seed(0)
    return UNet(
        backbone=BACKBONES[backbone](), num_classes=classes, decoder_channels=[24, 16, 16, 8, 8], **keys
    )


@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_size_in_the_same_size_out(backbone):
    model = unet(backbone).eval()
    with torch.no_grad():
        for size in [(64, 64), (65, 97), (31, 50)]:
            logits = model(torch.randn(1, 3, *size))
            assert logits.shape == (1, 4, *size)
            assert logits.isfinite().all()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_parameter_has_a_gradient_from_a_batch_of_one(backbone):
    model = unet(backbone)
    logits = model(torch.randn(1, 3, 64, 80))
    logits.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance", "local_response", "none"])
def test_every_norm(norm):
    model = unet("convnet", norm=norm)
    logits = model(torch.randn(2, 3, 40, 40))
    logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert 1e-4 < logits.square().mean() < 1e4


def test_padding_is_cropped_where_it_was_added():
    model = unet("test_resnet").eval()
    x = torch.randn(1, 3, 50, 70)
    padded = F.pad(x, (0, 26, 0, 14))
    with torch.no_grad():
        assert torch.allclose(model(x), model(padded)[..., :50, :70], atol=1e-6)


def test_the_decoder_joins_every_map_of_the_backbone():
    model = unet("test_resnet").eval()
    x = torch.randn(1, 3, 64, 64)
    before = model(x)
    for index in range(len(model.backbone.channels)):
        hook = model.backbone.register_forward_hook(
            lambda _, __, maps, index=index: [m * (i != index) for i, m in enumerate(maps)]
        )
        assert not torch.allclose(model(x), before, atol=1e-6)
        hook.remove()


def test_a_short_list_of_channels_repeats_its_last():
    model = UNet(backbone=Timm(name="test_vit"), num_classes=2, decoder_channels=[16, 8])
    assert [block[1][0].out_channels for block in model.blocks] == [16, 8, 8, 8, 8, 8]


def test_a_decoder_needs_channels():
    with pytest.raises(ValueError, match=r"model\.decoder_channels is empty"):
        UNet(backbone=ConvNet(channels=[4]), num_classes=2, decoder_channels=[])


def test_it_learns_to_segment_squares():
    assert squares.learned(unet("convnet", classes=2), steps=40) > 0.8


def unet_2015(width=4, depth=3, padded=False, classes=2, **keys):
    torch.manual_seed(0)
    own = {key: keys.pop(key) for key in ("in_channels",) if key in keys}
    norm: Norm = keys.get("norm", "none")
    return UNet(
        backbone=UNetEncoder(width=width, depth=depth, padded=padded, norm=norm, **own),
        num_classes=classes,
        decoder_channels=None,
        padded=padded,
        **{"upsampling": "transposed", "norm": norm} | keys,
    )


@pytest.mark.parametrize(
    ("keys", "size", "parameters", "gmacs"),
    [
        ({"in_channels": 1, "padded": False}, 388, 31_030_658, 150.43),  # the paper's 572 less its border
        ({"classes": 1, "padded": True}, 512, 31_031_745, 192.67),
        ({"padded": True, "norm": "batch"}, 512, 31_037_698, 192.69),
    ],
)
def test_parameters_and_multiply_adds_are_the_published_ones(keys, size, parameters, gmacs):
    with torch.device("meta"):
        model = unet_2015(width=64, depth=5, **keys)
    counted, macs = count(model, (size, size), keys.get("in_channels", 3))
    assert counted == parameters
    assert round(macs / 1e9, 2) == gmacs


def test_the_config_gives_the_network_of_2015():
    chosen = ["backbone=unet", "model=unet_2015", "task=segmentation", "backbone.width=4"]
    model = build(check(composed(*chosen))).task.model
    assert not model.padded
    assert [type(up.change) for up in model.ups] == [nn.ConvTranspose2d] * 4
    assert [block[1][0].out_channels for block in model.blocks] == [32, 16, 8, 4]
    padded = build(check(composed(*chosen, "backbone.padded=true", "backbone.norm=group"))).task.model
    assert padded.padded
    kinds = [type(m).__name__ for m in padded.modules()]
    assert kinds.count("GroupNorm") == 18
    assert "BatchNorm2d" not in kinds


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (20, 20), (33, 50), (64, 48)])
def test_unpadded_too_the_logits_have_the_images_size(size):
    logits = unet_2015()(torch.randn(1, 3, *size))
    assert logits.shape == (1, 2, *size)
    assert logits.isfinite().all()


def test_unpadded_sees_the_image_mirrored_at_its_border():
    model = unet_2015().double()
    image = torch.randn(1, 3, 40, 44, dtype=torch.float64)
    with torch.no_grad():
        expected = model(F.pad(image, (24,) * 4, mode="reflect"))[..., 24:-24, 24:-24]
        found = model(image)
        assert torch.allclose(found, expected)
        zeros = model(F.pad(image, (24,) * 4))[..., 24:-24, 24:-24]
    assert not torch.allclose(found, zeros, atol=1e-3)


def test_unpadded_a_tile_gives_what_the_whole_image_gives():
    model = unet_2015().double()
    image = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        whole, tile = model(image), model(image[..., 8:80, 16:88])
    border = 6 * 4 - 4  # of the paper's overlap tile, for a coarsest stride of 4
    inner = slice(border, -border)
    assert torch.allclose(whole[..., 8:80, 16:88][..., inner, inner], tile[..., inner, inner])


def test_unpadded_the_convolutions_leave_nothing_to_cut_at_the_right_size():
    sizes = []
    model = unet_2015(depth=5)
    model.backbone.register_forward_hook(lambda _, inputs, maps: sizes.append(inputs[0].shape[-1]))
    model.head.register_forward_hook(lambda _, inputs, output: sizes.append(output.shape[-1]))
    model(torch.randn(1, 3, 20, 20))
    assert sizes == [204, 20]  # as 572 and 388: 184 less


@pytest.mark.parametrize("norm", get_args(Norm))
def test_the_network_of_2015_with_every_norm_and_activation(norm):
    for activation in get_args(Activation):
        model = unet_2015(depth=2, norm=norm, activation=activation, padded=norm != "group")
        logits = model(torch.randn(2, 3, 17, 20))
        logits.square().mean().backward()
        assert logits.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_encoder_says_which_images_are_too_small():
    with pytest.raises(ValueError, match=r"depth=5, padded=true takes images of 16 pixels or more"):
        UNetEncoder(width=1, padded=True)(torch.zeros(1, 3, 15, 20))
    with pytest.raises(ValueError, match=r"depth=5, padded=false takes images of 140 pixels or more"):
        UNetEncoder(width=1)(torch.zeros(1, 3, 200, 139))
    assert UNetEncoder(width=1)(torch.zeros(1, 3, 140, 140))[-1].shape == (1, 16, 1, 1)
    for keys in ({"width": 0}, {"depth": 0}):
        with pytest.raises(ValueError, match=r"backbone\.width=.*, depth=.*: 1 or more"):
            UNetEncoder(**keys)


# --- every way up and every skip ---------------------------------------------------------------------


SKIPS = [
    (backbone, skip) for backbone in ("convnet", "test_resnet", "unet") for skip in ("concat", "add", "none")
]
SKIPS += [("test_convnext", "add"), ("vgg_light", "concat"), ("dilated", "add")]


@pytest.mark.parametrize("upsampling", get_args(Upsampling))
@pytest.mark.parametrize(("backbone", "skip"), SKIPS)
def test_every_upsampling_with_every_skip(backbone, skip, upsampling):
    model = unet(backbone, upsampling=upsampling, skip=skip)
    logits = model(torch.randn(1, 3, 65, 50))
    assert logits.shape == (1, 4, 65, 50)
    logits.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("upsampling", get_args(Upsampling))
def test_every_upsampling_unpadded(upsampling):
    for skip in ("concat", "add", "none"):
        model = unet_2015(upsampling=upsampling, skip=skip)
        logits = model(torch.randn(1, 3, 21, 30))
        assert logits.shape == (1, 2, 21, 30)
        logits.square().mean().backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_unpadded_max_unpool_takes_the_places_of_the_cells_it_stands_on():
    model = unet_2015(upsampling="max_unpool", skip="none", width=2).double()
    places: list[Any] = []
    model.ups[-1].register_forward_hook(lambda _, inputs, output: places.append((inputs[2], output)))
    model(torch.rand(1, 3, 20, 20, dtype=torch.float64))
    ((fine, found),) = places
    assert fine.shape == found.shape
    _, index = F.max_pool2d(fine, 2, return_indices=True)
    kept = torch.zeros_like(found).flatten(2).scatter(2, index.flatten(2), 1.0).view_as(found)
    assert torch.equal(found * (1 - kept), torch.zeros_like(found))


@pytest.mark.parametrize("upsampling", get_args(Upsampling))
def test_the_logits_have_stride_one_whatever_the_way_up(upsampling):
    with torch.device("meta"):
        model = unet("test_resnet", upsampling=upsampling)
    found = layers(model, (64, 64))
    assert found[-1].jump == (1, 1)


def test_without_skips_nothing_but_the_coarsest_map_counts():
    model = unet("test_resnet", skip="none").eval()
    x = torch.randn(1, 3, 64, 64)
    before = model(x)
    hook = model.backbone.register_forward_hook(lambda _, __, maps: [m * 0 for m in maps[:-1]] + maps[-1:])
    assert torch.equal(model(x), before)
    hook.remove()
    model.backbone.register_forward_hook(lambda _, __, maps: [*maps[:-1], maps[-1] * 0])
    assert not torch.allclose(model(x), before)


def test_added_skips_are_the_sum_of_the_enlarged_map_and_the_finer_one():
    model = unet("convnet", skip="add").eval()
    seen: list[Any] = []
    model.backbone.register_forward_hook(lambda _, __, maps: seen.extend(maps))
    model.ups[0].register_forward_hook(lambda _, __, output: seen.append(output))
    model.blocks[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model(torch.randn(1, 3, 32, 32))
    assert torch.equal(seen[-1], seen[-2] + seen[1])
    assert [block[0][0].in_channels for block in model.blocks] == [12, 8, 16]


def test_the_default_draws_and_computes_what_it_always_did():
    def plain(backbone, widths):
        """Nearest and concatenated, in as few lines as it takes."""
        skips = [*reversed(backbone.channels[:-1]), 0]
        below = [backbone.channels[-1], *widths[:-1]]
        blocks = nn.ModuleList(
            nn.Sequential(ConvNormAct(a + skip, b), ConvNormAct(b, b))
            for a, b, skip in zip(below, widths, skips, strict=True)
        )
        return nn.ModuleDict({"backbone": backbone, "blocks": blocks, "head": nn.Conv2d(widths[-1], 4, 1)})

    torch.manual_seed(0)
    expected, state = plain(BACKBONES["convnet"](), [24, 16, 16]), torch.get_rng_state()
    model = unet("convnet")
    assert torch.equal(torch.get_rng_state(), state)
    assert list(model.state_dict()) == list(expected.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    images = torch.randn(2, 3, 48, 64)
    *skips, x = expected["backbone"](images)
    for block in expected["blocks"]:
        x = F.interpolate(x, scale_factor=2.0)
        x = block(torch.cat([x, skips.pop()], dim=1) if skips else x)
    before = torch.get_rng_state()
    assert torch.equal(model(images), expected["head"](x))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_is_of_the_coarsest_map_and_only_while_it_trains():
    x = torch.randn(2, 3, 32, 32)
    model = unet("unet", dropout=0.5)
    inputs: list[Any] = []
    model.ups[0].register_forward_hook(lambda _, given, __: inputs.append(given[0]))
    model(x), model.eval()(x), model(x)
    trained, judged, again = ((m == 0).float().mean().item() for m in inputs)
    assert trained > judged + 0.1
    assert judged == again


@pytest.mark.parametrize("make", [lambda: unet("convnet", auxiliary=True), lambda: unet_2015(auxiliary=True)])
def test_the_auxiliary_head_answers_while_it_trains_and_at_the_images_size(make):
    model = make()
    x = torch.randn(2, 3, 33, 50)
    logits, other = model(x)
    assert logits.shape == other.shape == (2, logits.shape[1], 33, 50)
    (logits.square().mean() + other.square().mean()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert isinstance(model.eval()(x), torch.Tensor)


def test_unpadded_the_auxiliary_logits_lie_over_the_image():
    model = unet_2015(auxiliary=True).double()
    model.auxiliary.dropout.eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())  # a mean, which moves nothing
    x = torch.rand(1, 3, 80, 80, dtype=torch.float64)
    bright = x.clone()
    bright[..., 32:36, 48:52] += 10
    with torch.no_grad():
        change = (model(bright)[1] - model(x)[1]).abs().sum(1)[0]
    weight, place = change / change.sum(), torch.arange(80.0, dtype=torch.float64)
    assert (weight.sum(1) * place).sum().item() == pytest.approx(33.5, abs=1)
    assert (weight.sum(0) * place).sum().item() == pytest.approx(49.5, abs=1)


def test_norm_and_activation_of_the_backbone_reach_the_decoder():
    chosen = ["model=unet", "task=segmentation"]
    model = build(
        check(composed(*chosen, "backbone=convnet4", "backbone.activation=gelu", "backbone.norm=group"))
    ).task.model
    kinds = {type(m).__name__ for m in model.blocks.modules()}
    assert {"GELU", "GroupNorm"} <= kinds
    assert not kinds & {"ReLU", "BatchNorm2d"}
    without = composed(*chosen, "backbone=timm", "backbone.name=test_resnet")
    assert without.model.activation is without.model.norm is None


def test_what_it_refuses_it_explains():
    for keys, message in (
        ({"skip": "multiply"}, r"model\.skip=multiply: one of concat, add, none"),
        ({"upsampling": "cubic"}, r"model\.upsampling=cubic: one of nearest"),
        ({"padded": False}, r"model\.padded=false, but the backbone's convolutions are all padded"),
    ):
        with pytest.raises(ValueError, match=message):
            unet("convnet", **keys)
    with pytest.raises(ValueError, match=r"max_unpool: the maps of this backbone all have stride 16"):
        unet("test_vit", upsampling="max_unpool")
    with pytest.raises(ValueError, match=r"model\.padded=true, but .* not padded: .* backbone\.padded=true"):
        UNet(backbone=UNetEncoder(width=2), num_classes=2, decoder_channels=None)


# --- another library's -------------------------------------------------------------------------------


def test_logits_equal_those_of_segmentation_models_pytorch():
    """Its head is a 3x3 convolution and ours, as the paper's, 1x1: the parts before are equal, and so are the
    logits once its head is a 1x1 in the middle of a 3x3.
    """
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.Unet("resnet18", encoder_weights=None, classes=4).eval()
    for key, value in theirs.state_dict().items():
        if "running_var" in key:
            value.uniform_(0.5, 1.5)
        elif "running_mean" in key:
            value.normal_(std=0.1)
    ours = UNet(backbone=Timm(name="resnet18"), num_classes=4, decoder_channels=[256, 128, 64, 32, 16]).eval()
    head = theirs.segmentation_head[0]
    with torch.no_grad():
        middle = head.weight[:, :, 1:2, 1:2].clone()
        head.weight.zero_()[:, :, 1:2, 1:2] = middle
    tensors = theirs.state_dict() | {"segmentation_head.0.weight": middle}
    ours.load_state_dict(in_order(ours, tensors), strict=False)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, found = theirs(x), ours(x)
    assert torch.allclose(found, expected, atol=1e-5)
    assert expected.std() > 0.01
