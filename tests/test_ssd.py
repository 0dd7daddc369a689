"""SSD is torchvision's, on any backbone."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import ssd, ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

from boxes import scenes
from composing import composed
from paribus.build import make
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.backbones.vgg import VGG
from paribus.models.detection.ssd import SSD
from paribus.profile.complexity import count
from torchvisions import ours_and_theirs, same_losses

SCALES = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]


def ssd300(**keys):
    config = composed("model=ssd300", "task=detection").model
    return make({**config, **keys}, backbone=VGG(configuration="D", hidden=[]), num_classes=90)


def test_ssd300_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = ssd300()
        maps = model.pyramid(model.backbone(torch.zeros(1, 3, 304, 304)))
    assert [m.shape[-1] for m in maps] == [38, 19, 10, 5, 3, 1]
    parameters, macs = count(model, (300, 300))
    assert parameters == 35_641_826
    # It is padded by 4 pixels each way, where torchvision rounds up the halves of its maps.
    assert macs / 1e9 == pytest.approx(34.86, rel=0.02)


def test_equal_to_torchvisions_builder():
    """At 272 x 272; torchvision's is bound to 300 x 300, which ours pads to 304."""
    torch.manual_seed(0)
    with torch.device("meta"):  # it draws VGG-16's 124 million fully connected weights too
        built = ssd300_vgg16(weights=None, weights_backbone=None)
    built.to_empty(device="cpu")
    for value in built.parameters():
        if value.ndim > 1:
            nn.init.kaiming_normal_(value)
        else:
            nn.init.normal_(value)
    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "score_thresh": 0.005, "topk_candidates": 20}
    theirs = ssd.SSD(
        built.backbone, DefaultBoxGenerator(ratios, scales=SCALES), (272, 272), 91, head=built.head, **plain
    )
    ours = ssd300(score_thresh=0.005, candidates=20)
    values = dict(theirs.backbone.state_dict())
    scale = values.pop("scale_weight")
    rest = [*ours.backbone.state_dict().values(), *ours.pyramid.state_dict().values()]
    pairs = zip([v for v in rest if v.shape != (512, 1, 1)], values.values(), strict=True)
    with torch.no_grad():
        ours.pyramid.scale.copy_(scale[:, None, None])
        for value, other in pairs:
            value.copy_(other)
        ours.head.load_state_dict(theirs.head.state_dict())
    images, targets = scenes(1, size=272)
    for target in targets:
        target["boxes"] *= 3
    ours.train(), theirs.train()
    same_losses(
        ours(images, targets),
        theirs(list(images), [{**t, "labels": t["labels"] + 1} for t in targets]),
        {"classification": "classification", "box": "bbox_regression"},
    )
    ours_and_theirs(ours, theirs, images, background=1)


def small(**keys):
    return SSD(backbone=ConvNet(channels=[4, 4, 8, 8]), num_classes=2, **{"extra_channels": [8, 8], **keys})


def test_maps_are_the_backbones_and_those_appended():
    model = small()
    maps = model.see(torch.randn(1, 3, 96, 96)).maps
    assert [tuple(m.shape[-2:]) for m in maps] == [(12, 12), (6, 6), (3, 3), (2, 2)]
    assert [m.shape[1] for m in maps] == model.pyramid.channels == [8, 8, 8, 8]
    unpadded = small(unpadded=1).see(torch.randn(1, 3, 96, 96)).maps
    assert [tuple(m.shape[-2:]) for m in unpadded] == [(12, 12), (6, 6), (3, 3), (1, 1)]
    with torch.device("meta"):
        resnet = SSD(backbone=ResNet(depth=18), num_classes=2)
    assert resnet.pyramid.channels == [128, 256, 512, 256, 256, 256]


def test_with_a_pyramid_all_maps_have_its_channels():
    model = small(neck="fpn", pyramid_channels=12)
    maps = model.see(torch.randn(1, 3, 96, 96)).maps
    assert [tuple(m.shape[1:]) for m in maps] == [(12, 12, 12), (12, 6, 6), (12, 3, 3), (12, 2, 2)]
    assert model.pyramid.levels == [8, 16, 32, 64]


def test_the_norm_and_the_activation_of_what_is_appended_are_choices():
    model = small(norm="batch", activation="silu")
    kinds = {type(m) for m in model.pyramid.extra.modules()}
    assert {nn.BatchNorm2d, nn.SiLU} <= kinds
    assert nn.ReLU not in kinds


def test_the_l2_norm_gives_every_cell_of_the_finest_map_one_length():
    finest, *_ = small(l2_norm=True).see(torch.randn(1, 3, 64, 64)).maps
    lengths = finest.norm(dim=1)
    assert torch.allclose(lengths[lengths > 0], torch.tensor(20.0))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"levels": [32]}, r"model\.levels=\[32\]: this backbone has maps of stride \[2, 4, 8, 16\]"),
        ({"unpadded": 3}, r"model\.unpadded=3: from 0 to the 2 of model\.extra_channels"),
        ({"neck": "fpn", "l2_norm": True}, r"model\.neck=fpn has neither fc_channels nor l2_norm"),
        ({"neck": "pan"}, r"model\.neck=pan: fpn or none"),
        ({"scales": [0.1, 0.9]}, r"model\.scales: 2 for 4 maps; one for each and one more"),
        ({"anchor_ratios": [[2.0], [3.0]]}, r"model\.anchor_ratios: 2 lists for 4 maps"),
        ({"min_scale": 0.9, "max_scale": 0.2}, r"model\.min_scale=0\.9, max_scale=0\.2"),
    ],
)
def test_what_it_cannot_do_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        small(**keys)


def test_images_too_small_for_an_unpadded_map_are_refused():
    with pytest.raises(ValueError, match=r"model\.unpadded.*\(1, 1\) cells.*data\.size"):
        small(unpadded=1)(torch.randn(1, 3, 32, 32), scenes(1)[1])
