"""RetinaNet (Lin et al. 2017, https://arxiv.org/abs/1708.02002): torchvision's, on any backbone."""

from functools import partial

import torch
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection.retinanet import RetinaNetHead

from paribus.models.backbones import Backbone
from paribus.models.detection.anchor_matching import by_overlap, codes, focal_loss, kept, learned, overlaps
from paribus.models.detection.assignment import Objects, padded
from paribus.models.detection.detector import Seen, Target, need_positive
from paribus.models.detection.fpn import Neck, make_anchors, make_pyramid
from paribus.models.detection.one_stage import OneStage
from paribus.models.normalization import Norm, make_norm

SPAN = (8, 128)  # the paper's P3 to P7


class RetinaNet(OneStage, detection.RetinaNet):
    """A detector, see Detector; losses "classification" (focal), "box".

    With backbone=resnet50, norm=None, detections_per_img=300 and one class more than the data has it is torchvision's
    retinanet_resnet50_fpn, number for number; of its 91 classes it uses 90, the first is nobody's.

    pyramid_channels: of the pyramid and the heads.
    neck: none is without the top-down path, see FeaturePyramid.
    levels: the pyramid's strides; None is 8 (or the backbone's finest above) doubled up to 128, the paper's
        P3 to P7; with neck=none one map, of stride 16, with the anchors of all these.
    anchor_scale: the smallest anchor of a level is anchor_scale * its stride; the paper's 4 makes 32 pixels
        at P3.
    anchors_per_octave, anchor_ratios: sizes a level, heights / widths.
    norm: of the heads. The paper has none; from scratch the heads hardly start without one.
    score_thresh, nms_thresh, detections_per_img, candidates: the least score, the IoU that suppresses, the
        most detections of an image, the most candidates of a level before suppression.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pyramid_channels: int = 256,
        neck: Neck = "fpn",
        levels: list[int] | None = None,
        anchor_scale: float = 4.0,
        anchors_per_octave: int = 3,
        anchor_ratios: list[float] | tuple[float, ...] = (0.5, 1.0, 2.0),
        norm: Norm | None = "group",
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
        candidates: int = 1000,
    ):
        need_positive(
            pyramid_channels=pyramid_channels, detections_per_img=detections_per_img, candidates=candidates
        )
        pyramid = make_pyramid(
            backbone, out_channels=pyramid_channels, levels=levels, span=SPAN, extra="conv", neck=neck
        )
        anchors = make_anchors(
            backbone,
            pyramid,
            span=SPAN,
            scale=anchor_scale,
            per_octave=anchors_per_octave,
            ratios=anchor_ratios,
        )
        super().__init__(
            pyramid,
            num_classes,
            anchor_generator=anchors,
            head=RetinaNetHead(
                pyramid_channels,
                anchors.num_anchors_per_location()[0],
                num_classes,
                norm_layer=partial(make_norm, norm) if norm else None,
            ),
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
            topk_candidates=candidates,
        )
        self.keep(backbone, pyramid)

    def losses(self, seen: Seen, targets: list[Target]) -> dict[str, Tensor]:
        anchors = self.anchors(seen)[0]
        positive, ignored, boxes, labels = learned(partial(self.match, anchors), padded(targets), anchors)
        count = positive.sum(1).clamp(min=1)
        focal = kept(focal_loss(seen.outputs["cls_logits"], labels), ~ignored).sum(1)
        wanted = codes(boxes, anchors, self.box_coder.weights)
        box = kept((seen.outputs["bbox_regression"] - wanted).abs().sum(2), positive).sum(1)
        # Of each image by its own objects, as torchvision has it.
        return {"classification": (focal / count).mean(), "box": (box / count).mean()}

    def match(self, anchors: Tensor, objects: Objects) -> Tensor:
        """By IoU, and besides all anchors than which none overlaps an object more; each has the object that it
        overlaps most.
        """
        iou = overlaps(objects, anchors)
        most, number = iou.max(1)
        # An IoU that is nobody's keeps the padding out.
        best = (iou == iou.amax(2).masked_fill_(~objects.real, 2.0)[..., None]).any(1)
        return torch.where(best, number, by_overlap(most, number, *self.limits()))
