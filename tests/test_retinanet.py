"""RetinaNet is torchvision's, on any backbone."""

import pytest
import torch
from torchvision.models import detection

from boxes import scenes
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.detection.retinanet import RetinaNet
from torchvisions import PLAIN, ours_and_theirs, same_losses, take


def test_equal_to_torchvisions_builder():
    torch.manual_seed(0)
    theirs = detection.retinanet_resnet50_fpn(**PLAIN, score_thresh=0.0)
    ours = RetinaNet(
        backbone=ResNet(depth=50), num_classes=91, norm=None, score_thresh=0.0, detections_per_img=300
    )
    take((ours.backbone, theirs.backbone.body), (ours.pyramid, theirs.backbone.fpn), (ours.head, theirs.head))
    images, targets = scenes(2)
    same_losses(
        ours(images, targets),
        theirs(list(images), targets),
        {"classification": "classification", "box": "bbox_regression"},
    )
    ours_and_theirs(ours, theirs, images)


def test_on_one_map_it_has_the_anchors_of_all_levels():
    backbone = ConvNet(channels=[4] * 5)  # strides 2 to 32
    model = RetinaNet(backbone=backbone, num_classes=2, pyramid_channels=8, neck="none")
    assert model.pyramid.levels == [16]
    assert model.anchor_generator.num_anchors_per_location() == [45]
    whole = RetinaNet(backbone=ConvNet(channels=[4] * 5), num_classes=2, pyramid_channels=8)
    assert whole.pyramid.levels == [8, 16, 32, 64, 128]
    assert sum(whole.anchor_generator.sizes, ()) == model.anchor_generator.sizes[0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"neck": "pan"}, r"model\.neck=pan: fpn or none"),
        ({"levels": [3]}, r"model\.levels=\[3\]: this backbone has maps of stride \[2, 4, 8\]"),
        ({"anchor_scale": 0.0}, r"model\.anchor_scale=0\.0.*more than 0"),
        ({"anchor_scale": 0.1}, r"model\.anchor_scale=0\.1: an anchor of less than a pixel at stride 8"),
        ({"anchor_ratios": []}, r"anchor_ratios=\[\].*one ratio at least"),
        ({"norm": "patch"}, r"there is no norm 'patch'"),
    ],
)
def test_what_it_cannot_do_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        RetinaNet(backbone=ConvNet(channels=[4, 4, 4]), num_classes=2, pyramid_channels=8, **keys)
