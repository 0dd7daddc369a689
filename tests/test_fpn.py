"""The feature pyramid, with its top-down path or without, and anchors."""

import pytest
import torch

from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.backbones.timm import Timm
from paribus.models.backbones.vgg import VGG
from paribus.models.detection.fpn import Anchors, FeaturePyramid, make_anchors, make_pyramid, octaves, trimmed


def test_retinanets_own_anchors():
    anchors = Anchors(levels=[8, 16, 32, 64, 128], scale=4, per_octave=3, ratios=(0.5, 1.0, 2.0))
    assert anchors.sizes == tuple(
        (s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in (32, 64, 128, 256, 512)
    )


def test_levels_of_a_backbone():
    assert octaves([2, 4, 8, 16, 32], 8, 128) == [8, 16, 32, 64, 128]
    assert octaves([2, 4, 8, 16, 32], 4, 64) == [4, 8, 16, 32, 64]
    assert octaves([16, 16, 16], 8, 128) == [16, 32, 64, 128]
    assert octaves([2, 4], 8, 16) == [4, 8, 16]


FEATURES = [torch.randn(1, c, 64 // s, 64 // s) for c, s in ((4, 4), (6, 8), (8, 8))]


@pytest.mark.parametrize("neck", ["fpn", "none"])
@pytest.mark.parametrize("extra", ["pool", "conv"])
def test_a_pyramid_of_own_and_appended_levels(extra, neck):
    pyramid = FeaturePyramid(
        channels=[4, 6, 8], strides=[4, 8, 8], levels=[8, 16, 32], out_channels=5, extra=extra, neck=neck
    )
    assert [tuple(m.shape) for m in pyramid(FEATURES)] == [(1, 5, 8, 8), (1, 5, 4, 4), (1, 5, 2, 2)]
    assert (pyramid.indices, pyramid.own, pyramid.levels) == ([2], [8], [8, 16, 32])


def test_without_the_neck_only_the_way_down_is_missing():
    def pyramid(neck):
        torch.manual_seed(0)
        return FeaturePyramid(
            channels=[4, 6, 8], strides=[4, 8, 8], levels=[4, 8], out_channels=5, extra="pool", neck=neck
        )

    fpn, none = pyramid("fpn"), pyramid("none")
    assert sum(p.numel() for p in fpn.parameters()) == sum(p.numel() for p in none.parameters())
    changed = [FEATURES[0], FEATURES[1], FEATURES[2] + 1]
    for model, reaches in ((fpn, True), (none, False)):
        before, after = model(FEATURES), model(changed)
        assert torch.equal(before[0], after[0]) is not reaches  # the fine map hears of the coarse one, or not
        assert not torch.equal(before[1], after[1])


def test_one_map_by_default_without_a_neck():
    def level(channels, **keys):
        return make_pyramid(
            ConvNet(channels=channels),
            **{"out_channels": 4, "levels": None, "span": (4, 64), "extra": "pool", "neck": "none", **keys},
        ).levels

    assert level([4] * 5) == [16]
    assert level([4] * 3) == [8]
    assert level([4] * 5, levels=[4, 8]) == [4, 8]
    assert level([4] * 5, neck="fpn") == [4, 8, 16, 32, 64]


def test_one_map_has_the_anchors_of_every_octave():
    backbone = ConvNet(channels=[4] * 5)
    keys = {"span": (4, 64), "scale": 8.0, "per_octave": 1, "ratios": [0.5, 1.0, 2.0]}
    for levels, sizes in (
        ([16], ((32, 64, 128, 256, 512),)),
        ([8, 16], ((64,), (128,))),
    ):
        pyramid = FeaturePyramid(
            channels=[4] * 5,
            strides=backbone.strides,
            levels=levels,
            out_channels=4,
            extra="pool",
            neck="none",
        )
        assert make_anchors(backbone, pyramid, **keys).sizes == sizes


@pytest.mark.parametrize("levels", [[2, 4], [8, 32], [4, 64], [32]])
def test_levels_out_of_reach_are_refused(levels):
    with pytest.raises(ValueError, match=r"model\.levels=.* maps of stride \[4, 8, 16\]"):
        FeaturePyramid(channels=[1, 1, 1], strides=[4, 8, 16], levels=levels, out_channels=2, extra="pool")


@pytest.mark.parametrize(
    "backbone",
    [
        lambda: ConvNet(channels=[4] * 5),
        lambda: ResNet(depth=18),
        lambda: VGG(configuration="A", hidden=[8]),
        lambda: Timm(name="test_resnet"),
        lambda: Timm(name="test_efficientnet"),
        lambda: Timm(name="test_convnext"),
    ],
)
def test_what_makes_maps_that_no_one_uses_is_left_out(backbone):
    torch.manual_seed(0)
    whole = backbone().eval()
    torch.manual_seed(0)
    last = whole.strides.index(16)
    part = trimmed(backbone().eval(), last)
    assert part.strides == whole.strides[: last + 1]
    assert part.channels == whole.channels[: last + 1]
    images = torch.randn(1, 3, 64, 64)
    found = part(images)
    for a, b in zip(found, whole(images)[: last + 1], strict=True):
        assert torch.equal(a, b)
    sum(m.sum() for m in found).backward()
    assert not [name for name, p in part.named_parameters() if p.grad is None]


def test_a_backbone_whose_last_map_is_used_stays_whole():
    backbone = ResNet(depth=18)
    count = sum(p.numel() for p in backbone.parameters())
    assert sum(p.numel() for p in trimmed(backbone, 4).parameters()) == count
    assert backbone.strides == [2, 4, 8, 16, 32]
