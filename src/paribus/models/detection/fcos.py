"""FCOS (Tian et al. 2019, https://arxiv.org/abs/1904.01355): torchvision's, on any backbone."""

from functools import partial, reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.ops import generalized_box_iou

from paribus.models.backbones import Backbone
from paribus.models.detection.anchor_matching import BACKGROUND, focal_loss, kept, learned
from paribus.models.detection.assignment import Objects, near, padded
from paribus.models.detection.detector import Seen, Target, need_positive
from paribus.models.detection.fpn import Anchors, Neck, make_pyramid
from paribus.models.detection.one_stage import OneStage
from paribus.models.normalization import Norm, make_norm

SPAN = (8, 128)  # the paper's P3 to P7


class FCOS(OneStage, detection.FCOS):
    """A detector, see Detector; losses "classification" (focal), "box" (GIoU), "centerness".

    No anchors: every cell inside an object, near its center, has the distances to its four sides. Of each level are
    the objects whose farthest side is 4 to 8 strides away from the cell (the finest has all smaller ones, the coarsest
    all larger ones).

    With backbone=resnet50, score_thresh=0.2 and one class more than the data has it is torchvision's
    fcos_resnet50_fpn, number for number; of its 91 classes it uses 90, the first is nobody's.

    pyramid_channels: of the pyramid and the heads.
    neck: none is without the top-down path, see FeaturePyramid.
    levels: the pyramid's strides; None is 8 (or the backbone's finest above) doubled up to 128, the paper's
        P3 to P7; with neck=none one map, of stride 16, which has all objects.
    center_radius: in strides, from an object's center to the cells that learn it.
    norm: of the heads, None for none.
    score_thresh, nms_thresh, detections_per_img, candidates: the least score (the root of class times centerness),
        the IoU that suppresses, the most detections of an image, the most candidates of a level before suppression.
    """

    center_sampling_radius: float

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pyramid_channels: int = 256,
        neck: Neck = "fpn",
        levels: list[int] | None = None,
        center_radius: float = 1.5,
        norm: Norm | None = "group",
        score_thresh: float = 0.05,
        nms_thresh: float = 0.6,
        detections_per_img: int = 100,
        candidates: int = 1000,
    ):
        need_positive(
            pyramid_channels=pyramid_channels, detections_per_img=detections_per_img, candidates=candidates
        )
        if center_radius <= 0:
            raise ValueError(f"model.center_radius={center_radius}: more than 0")
        pyramid = make_pyramid(
            backbone, out_channels=pyramid_channels, levels=levels, span=SPAN, extra="conv", neck=neck
        )
        # The head by itself takes no norm.
        head = FCOSHead(pyramid_channels, 1, num_classes, num_convs=0)
        norm_layer = partial(make_norm, norm) if norm else _no_norm
        head.classification_head = FCOSClassificationHead(
            pyramid_channels, 1, num_classes, norm_layer=norm_layer
        )
        head.regression_head = FCOSRegressionHead(pyramid_channels, 1, norm_layer=norm_layer)
        super().__init__(
            pyramid,
            num_classes,
            anchor_generator=Anchors(levels=pyramid.levels, scale=1, per_octave=1, ratios=(1.0,)),
            head=head,
            center_sampling_radius=center_radius,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
            topk_candidates=candidates,
        )
        self.keep(backbone, pyramid)

    def losses(self, seen: Seen, targets: list[Target]) -> dict[str, Tensor]:
        cells, coder = self.anchors(seen)[0], self.box_coder
        ends = [seen.maps[i].shape[-2] * seen.maps[i].shape[-1] for i in (0, -1)]
        positive, _, boxes, labels = learned(partial(self.match, cells, ends), padded(targets), cells)
        count = positive.sum().clamp(min=1)
        said = coder.decode(seen.outputs["bbox_regression"], cells).where(positive[..., None], cells)
        # Pairs as tables of one by one: torchvision's loss of pairs waits for the device (it indexes by a mask).
        giou = generalized_box_iou(said[:, :, None], boxes[:, :, None])[..., 0, 0]
        left, top, right, bottom = coder.encode(cells, boxes).unbind(2)
        middle = (_balance(left, right) * _balance(top, bottom)).sqrt()
        centerness = F.binary_cross_entropy_with_logits(
            seen.outputs["bbox_ctrness"].squeeze(2), middle, reduction="none"
        )
        return {
            "classification": focal_loss(seen.outputs["cls_logits"], labels).sum() / count,
            "box": kept(1 - giou, positive).sum() / count,
            "centerness": kept(centerness, positive).sum() / count,
        }

    def match(self, cells: Tensor, ends: list[int], objects: Objects) -> Tensor:
        """Of the objects that a cell may learn the smallest. ends: how many cells the finest and the coarsest level
        have.
        """
        centers, strides = (cells[:, :2] + cells[:, 2:]) / 2, cells[:, 2] - cells[:, 0]
        least, most = strides * 4, strides * 8
        least[: ends[0]], most[-ends[1] :] = 0, torch.inf
        (x, y), (left, top, right, bottom) = centers.unbind(1), objects.boxes[..., None].unbind(2)
        sides = x - left, y - top, right - x, bottom - y
        nearest, farthest = reduce(torch.minimum, sides), reduce(torch.maximum, sides)
        own = near(objects.boxes, centers, strides, self.center_sampling_radius) & objects.real[..., None]
        own &= (nearest > 0) & (farthest > least) & (farthest < most)
        area = (right - left) * (bottom - top)
        largest, number = torch.where(own, 1e8 - area, 0.0).max(1)
        return torch.where(largest < 1e-5, BACKGROUND, number)


def _balance(one: Tensor, other: Tensor) -> Tensor:
    return torch.minimum(one, other) / torch.maximum(one, other)


def _no_norm(channels: int) -> nn.Module:
    return nn.Identity()
