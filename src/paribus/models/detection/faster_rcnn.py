"""Faster R-CNN (Ren et al. 2015, https://arxiv.org/abs/1506.01497) with a pyramid: torchvision's parts, any
backbone.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from paribus.models.backbones import Backbone, dense
from paribus.models.detection.fpn import Anchors, FeaturePyramid, image_list, octaves
from paribus.models.layers import pad_to_multiple


class FasterRCNN(nn.Module):
    """images [B, C, H, W], normalized -> in training, with targets, the losses {"loss_objectness",
    "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}; in evaluation for each image {"boxes" [N, 4] xyxy
    in its pixels, "scores" [N], "labels" [N] from 0} (torchvision's background, class 0, stays inside).

    pyramid_channels: of the pyramid and the region proposal network.
    levels: the pyramid's strides; None is 4 (or the backbone's finest above) doubled up to 64, the paper's P2
        to P6. Boxes are pooled from those that the backbone has itself.
    anchor_scale, anchors_per_octave, anchor_ratios: as in RetinaNet; 8 and one an octave is torchvision's 32
        to 512.
    box_channels: of the box head's two hidden layers.
    proposals, candidates: of an image, after suppression and before it of each level.
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
        levels: list[int] | None = None,
        anchor_scale: float = 8.0,
        anchors_per_octave: int = 1,
        anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        box_channels: int = 1024,
        proposals: int = 200,
        candidates: int = 400,
        rpn_batch: int = 64,
        box_batch: int = 64,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
    ):
        super().__init__()
        self.backbone = dense(backbone)
        self.pyramid = FeaturePyramid(
            channels=backbone.channels,
            strides=backbone.strides,
            levels=levels or octaves(backbone.strides, 4, 64),
            out_channels=pyramid_channels,
            extra="pool",
        )
        anchors = Anchors(
            levels=self.pyramid.levels,
            scale=anchor_scale,
            per_octave=anchors_per_octave,
            ratios=anchor_ratios,
        )
        self.rpn = RegionProposalNetwork(
            anchors,
            _RPNHead(pyramid_channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=rpn_batch,
            positive_fraction=0.5,
            pre_nms_top_n={"training": candidates, "testing": candidates},
            post_nms_top_n={"training": proposals, "testing": proposals},
            nms_thresh=0.7,
        )
        pooled = [str(i) for i in range(len(self.pyramid.indices))]
        self.roi_heads = RoIHeads(
            MultiScaleRoIAlign(pooled, output_size=7, sampling_ratio=2),
            TwoMLPHead(pyramid_channels * 7 * 7, box_channels),
            _Predictor(box_channels, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=box_batch,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
        )

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None):
        height, width = images.shape[-2:]
        images = pad_to_multiple(images, max(self.backbone.strides))
        batch = image_list(images, height, width)
        maps = OrderedDict((str(i), m) for i, m in enumerate(self.pyramid(self.backbone(images))))
        if self.training and targets is not None:
            targets = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]
        boxes, rpn_losses = self.rpn(batch, maps, targets)
        detections, box_losses = self.roi_heads(maps, boxes, batch.image_sizes, targets)
        if self.training:
            return {**rpn_losses, **box_losses}
        return [{**found, "labels": found["labels"] - 1} for found in detections]

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What is computed for an image with the full number of proposals, without selecting them: for
        counting.
        """
        maps = self.pyramid(self.backbone(pad_to_multiple(images, max(self.backbone.strides))))
        self.rpn.head(maps)
        count = len(images) * self.rpn.post_nms_top_n()
        return self.roi_heads.box_predictor(
            self.roi_heads.box_head(torch.zeros(count, maps[0].shape[1], 7, 7, device=images.device))
        )


# Under autocast deltas would be bfloat16, and torchvision decodes boxes in the type of the deltas.
class _RPNHead(RPNHead):
    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [t.float() for t in logits], [t.float() for t in deltas]


class _Predictor(FastRCNNPredictor):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = super().forward(x)
        return logits.float(), deltas.float()
