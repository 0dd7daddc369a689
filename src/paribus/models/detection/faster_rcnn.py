"""Faster R-CNN (Ren et al. 2015, https://arxiv.org/abs/1506.01497): torchvision's parts, any backbone, with a
pyramid or one map.
"""

from typing import Any

import torch
from torch import Tensor

from paribus.models.backbones import Backbone
from paribus.models.detection.box_head import BoxHead, RoI
from paribus.models.detection.detector import Detector, Seen, Target, need_positive
from paribus.models.detection.fpn import Neck, image_list, make_anchors, make_pyramid, trimmed
from paribus.models.detection.rpn import ProposalNetwork

SPAN = (4, 64)  # P2 to P6 of the pyramid's paper


class FasterRCNN(Detector):
    """A detector, see Detector; losses "proposal_objectness", "proposal_box", "classification", "box".

    With backbone=resnet50, num_proposals=1000, candidates=1000 (2000 both while it trains), rpn_batch=256 and
    box_batch=512 it is torchvision's fasterrcnn_resnet50_fpn, number for number; torchvision's 91 classes are 90
    and the background.

    pyramid_channels: of the pyramid and the region proposal network.
    neck: none is without the top-down path, see FeaturePyramid.
    levels: the pyramid's strides; None is 4 (or the backbone's finest above) doubled up to 64, the pyramid's P2
        to P6; with neck=none one map, of stride 16, with the anchors of all these. Boxes are pooled from the maps
        that the backbone has itself.
    anchor_scale, anchors_per_octave, anchor_ratios: as in RetinaNet; 8 and one an octave is torchvision's 32
        to 512.
    roi: how boxes are pooled, see RegionPool.
    box_channels: of the box head's two hidden layers.
    num_proposals, candidates: of an image, after suppression and before it of each level.
    rpn_batch, box_batch: anchors, and boxes, of an image that the losses sample (the papers have 256 and
        512).
    score_thresh, nms_thresh, detections_per_img: the least score, the IoU that suppresses, the most
        detections.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pyramid_channels: int = 256,
        neck: Neck = "fpn",
        levels: list[int] | None = None,
        anchor_scale: float = 8.0,
        anchors_per_octave: int = 1,
        anchor_ratios: list[float] | tuple[float, ...] = (0.5, 1.0, 2.0),
        roi: RoI = "align",
        box_channels: int = 1024,
        num_proposals: int = 200,
        candidates: int = 400,
        rpn_batch: int = 64,
        box_batch: int = 64,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
    ):
        need_positive(
            pyramid_channels=pyramid_channels,
            box_channels=box_channels,
            num_proposals=num_proposals,
            candidates=candidates,
            rpn_batch=rpn_batch,
            box_batch=box_batch,
            detections_per_img=detections_per_img,
        )
        super().__init__()
        self.pyramid = make_pyramid(
            backbone, out_channels=pyramid_channels, levels=levels, span=SPAN, extra="pool", neck=neck
        )
        self.rpn = ProposalNetwork(
            anchors=make_anchors(
                backbone,
                self.pyramid,
                span=SPAN,
                scale=anchor_scale,
                per_octave=anchors_per_octave,
                ratios=anchor_ratios,
            ),
            channels=pyramid_channels,
            proposals=num_proposals,
            candidates=candidates,
            batch=rpn_batch,
        )
        self.backbone = trimmed(backbone, max(self.pyramid.indices))
        self.box_head = BoxHead(
            in_channels=pyramid_channels,
            strides=self.pyramid.own,
            num_classes=num_classes,
            channels=box_channels,
            roi=roi,
            batch=box_batch,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
        )

    def see(self, images: Tensor, proposals: list[Tensor] | None = None) -> Seen:
        """The proposals are its own."""
        height, width = images.shape[-2:]
        images, maps = self.maps(images)
        outputs = self.rpn(maps)
        found = self.rpn.proposals(outputs, image_list(images, height, width), maps)
        return Seen(images, maps, (height, width), found, outputs)

    def losses(self, seen: Seen, targets: list[Target]) -> dict[str, Tensor]:
        images = image_list(seen.images, *seen.size)
        first = self.rpn.losses(dict(seen.outputs), images, seen.maps, targets)
        samples = self.box_head.sample(proposed(seen), targets)
        return first | self.box_head.losses(self.pooled_maps(seen), samples)

    def detections(self, seen: Seen) -> list[Target]:
        return self.box_head.detections(self.pooled_maps(seen), proposed(seen), seen.size)

    def pooled_maps(self, seen: Seen) -> list[Tensor]:
        """Those that boxes are cut out of."""
        return seen.maps[: len(self.pyramid.own)]

    def raw(self, images: Tensor) -> tuple[Any, ...]:
        """What is computed for an image with the full number of proposals, without selecting them: for
        counting.
        """
        _, maps = self.maps(images)
        pooled = torch.zeros(
            len(images) * self.rpn.post_nms_top_n(), maps[0].shape[1], 7, 7, device=images.device
        )
        return self.rpn.head(maps), self.box_head.classify(pooled)


def proposed(seen: Seen) -> list[Tensor]:
    assert seen.proposals is not None
    return seen.proposals
