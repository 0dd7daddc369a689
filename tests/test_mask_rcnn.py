"""Mask R-CNN is torchvision's, on any backbone."""

import pytest
import torch
from torchvision.models import detection

from boxes import average_precision_50, learned, scenes
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.detection.mask_rcnn import MaskRCNN
from paribus.profile.complexity import count
from test_faster_rcnn import LOSSES
from torchvisions import NORMS, PLAIN, ours_and_theirs, same_losses, take


def test_equal_to_torchvisions_builder():
    torch.manual_seed(0)
    # torchvision takes more proposals while it trains; here both the same.
    theirs = detection.maskrcnn_resnet50_fpn(
        **PLAIN,
        box_score_thresh=0.0,
        box_detections_per_img=20,
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=1000,
    )
    ours = MaskRCNN(
        backbone=ResNet(depth=50),
        num_classes=90,
        num_proposals=1000,
        candidates=1000,
        rpn_batch=256,
        box_batch=512,
        score_thresh=0.0,
        detections_per_img=20,
    )
    heads = theirs.roi_heads
    take(
        (ours.backbone, theirs.backbone.body),
        (ours.pyramid, theirs.backbone.fpn),
        (ours.rpn, theirs.rpn),
        (ours.box_head.box_head, heads.box_head),
        (ours.box_head.box_predictor, heads.box_predictor),
        (ours.mask_head, heads.mask_head),
        (ours.mask_predictor, heads.mask_predictor),
    )
    images, targets = scenes(2)
    torch.manual_seed(1)
    found = ours(images, targets)
    torch.manual_seed(1)
    shifted = [{**t, "labels": t["labels"] + 1} for t in targets]
    same_losses(found, theirs(list(images), shifted), LOSSES | {"mask": "loss_mask"})
    for a, b in ours_and_theirs(ours, theirs, images, background=1):
        assert a["masks"].shape == (len(a["boxes"]), 64, 64)
        assert a["masks"].any()
        assert torch.equal(a["masks"], b["masks"][:, 0] >= 0.5)


def test_published_parameters():
    with torch.device("meta"):
        model = MaskRCNN(backbone=ResNet(depth=50), num_classes=90)
    assert count(model, (64, 64))[0] == 44_401_393 + NORMS


def small():
    torch.manual_seed(0)
    return MaskRCNN(
        backbone=ConvNet(channels=[16, 32, 32, 32], norm="group"),
        num_classes=3,
        pyramid_channels=32,
        levels=[4, 8, 16],
        anchor_scale=4.0,
        box_channels=64,
        mask_channels=16,
    )


def test_masks_have_the_images_size_whatever_it_is():
    model = small().eval()
    model.box_head.score_thresh = 0.0
    with torch.no_grad():
        for found in model(torch.randn(2, 3, 50, 61)):
            assert found["masks"].dtype == torch.bool
            assert found["masks"].shape == (len(found["boxes"]), 50, 61)
    model.box_head.score_thresh = 1.0  # nothing is found
    with torch.no_grad():
        assert [f["masks"].shape for f in model(torch.randn(1, 3, 50, 61))] == [(0, 50, 61)]


def test_it_learns_boxes_and_masks():
    model = learned(small(), 40).eval()
    images, targets = scenes(16)
    assert average_precision_50(model, images, targets) > 0.2
    with torch.no_grad():
        detections = model(images)
    shares = []
    for found, target in zip(detections, targets, strict=True):
        for mask in target["masks"].bool():
            both = (found["masks"] & mask).sum((1, 2)) / (found["masks"] | mask).sum((1, 2))
            shares.append(float(both.max()) if len(both) else 0.0)
    assert sum(shares) / len(shares) > 0.6


def test_data_without_masks_are_refused():
    images, targets = scenes(1)
    del targets[0]["masks"]
    with pytest.raises(ValueError, match=r"data\.reader\.masks=true"):
        small()(images, targets)
