"""Faster R-CNN is torchvision's, on any backbone, with a pyramid or one map."""

import pytest
import torch
from torchvision.models import detection

from boxes import scenes
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.detection.faster_rcnn import FasterRCNN
from torchvisions import PLAIN, ours_and_theirs, same_losses, take

LOSSES = {
    "proposal_objectness": "loss_objectness",
    "proposal_box": "loss_rpn_box_reg",
    "classification": "loss_classifier",
    "box": "loss_box_reg",
}


def test_equal_to_torchvisions_builder():
    torch.manual_seed(0)
    theirs = detection.fasterrcnn_resnet50_fpn(**PLAIN, box_score_thresh=0.0)
    images, targets = scenes(2)
    # torchvision takes more proposals while it trains.
    for candidates, training in ((2000, True), (1000, False)):
        ours = FasterRCNN(
            backbone=ResNet(depth=50),
            num_classes=90,
            num_proposals=candidates,
            candidates=candidates,
            rpn_batch=256,
            box_batch=512,
            score_thresh=0.0,
        )
        take(
            (ours.backbone, theirs.backbone.body),
            (ours.pyramid, theirs.backbone.fpn),
            (ours.rpn, theirs.rpn),
            (ours.box_head, theirs.roi_heads),
        )
        if training:
            torch.manual_seed(1)  # both draw which boxes they learn from
            found = ours(images, targets)
            torch.manual_seed(1)
            same_losses(
                found, theirs(list(images), [{**t, "labels": t["labels"] + 1} for t in targets]), LOSSES
            )
        else:
            ours_and_theirs(ours, theirs, images, background=1)


def small(**keys):
    torch.manual_seed(0)
    return FasterRCNN(
        backbone=ConvNet(channels=[4, 8, 8, 8]),
        num_classes=3,
        **{"pyramid_channels": 8, "box_channels": 16, **keys},
    )


def test_proposals_do_not_depend_on_the_batch_and_carry_no_gradient():
    model = small().eval()
    images, _ = scenes(3)
    together = model.see(images).proposals
    for i, proposals in enumerate(together):
        (alone,) = model.see(images[i : i + 1]).proposals
        assert not proposals.requires_grad
        assert 0 < len(proposals) <= 200
        assert proposals.shape == alone.shape
        assert torch.allclose(proposals, alone, atol=1e-3)


def test_on_one_map_it_has_the_anchors_of_all_levels():
    model = small(neck="none")
    assert model.pyramid.levels == model.pyramid.own == [16]
    assert model.rpn.anchor_generator.num_anchors_per_location() == [15]
    assert model.rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),)


def test_how_boxes_are_pooled_is_a_choice():
    images, targets = scenes(2)
    found = {}
    for roi in ("align", "pool"):
        torch.manual_seed(1)
        found[roi] = small(roi=roi)(images, targets)
    assert torch.equal(found["align"]["proposal_box"], found["pool"]["proposal_box"])
    assert not torch.equal(found["align"]["classification"], found["pool"]["classification"])
    with pytest.raises(ValueError, match=r"model\.roi=crop: align or pool"):
        small(roi="crop")
