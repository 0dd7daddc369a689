"""YOLO without anchors, written from the papers: decoupled head and SimOTA of YOLOX (Ge et al. 2021,
https://arxiv.org/abs/2107.08430), on a feature pyramid, with the GIoU loss (Rezatofighi et al. 2019,
https://arxiv.org/abs/1902.09630).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou

from paribus.models.activation import Activation
from paribus.models.backbones import Backbone
from paribus.models.detection.assignment import Assignment, Objects, assign, near, padded
from paribus.models.detection.detector import Detector, Seen, Target, need_positive
from paribus.models.detection.fpn import Neck, make_pyramid, trimmed
from paribus.models.detection.selection import select
from paribus.models.layers import ConvNormAct
from paribus.models.normalization import Norm

LARGEST = math.log(1000.0)  # strides; before the exponential, which must stay finite


class YOLO(Detector):
    """A detector, see Detector; losses "classification", "box", "objectness".

    In every cell of every level one box, by its center (an offset from the cell's, in strides) and the logarithm of
    its size (in strides), with an objectness and the classes. A score is objectness times class.

    pyramid_channels: of the pyramid and the head, which all levels share.
    neck: none is without the top-down path, see FeaturePyramid.
    levels: the pyramid's strides; None is 8 (or the backbone's finest above) doubled up to 32, the paper's; with
        neck=none one map, of stride 16.
    head_layers: convolutions of each of the head's two branches: one for classes, one for box and objectness.
    norm, activation: of the head; norm None for none.
    iou_aware: the objectness learns the IoU of its box with the object (as the confidence of Redmon et al. 2016);
        otherwise 1.
    box_weight: of the box loss in the sum.
    match_top, match_radius, match_box_weight: of the assignment, see assignment.py: how many IoUs are summed to an
        object's number of cells; strides around its center in which they lie; the weight of the box loss in the
        cost, where that of the classes has 1 (the paper's lambda).
    score_thresh, nms_thresh, detections_per_img, candidates: the least score, the IoU that suppresses, the most
        detections of an image, the most candidates of a level before suppression.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pyramid_channels: int = 256,
        neck: Neck = "fpn",
        levels: list[int] | None = None,
        head_layers: int = 4,
        norm: Norm | None = "group",
        activation: Activation = "silu",
        iou_aware: bool = True,
        box_weight: float = 5.0,
        match_top: int = 10,
        match_radius: float = 1.5,
        match_box_weight: float = 3.0,
        score_thresh: float = 0.01,
        nms_thresh: float = 0.6,
        detections_per_img: int = 100,
        candidates: int = 1000,
    ):
        if match_radius <= 0.5:
            raise ValueError(
                f"model.match_radius={match_radius}: more than 0.5 strides, so that each object has a cell"
            )
        need_positive(
            pyramid_channels=pyramid_channels,
            match_top=match_top,
            detections_per_img=detections_per_img,
            candidates=candidates,
        )
        super().__init__()
        self.pyramid = make_pyramid(
            backbone, out_channels=pyramid_channels, levels=levels, span=(8, 32), extra="conv", neck=neck
        )
        self.backbone = trimmed(backbone, max(self.pyramid.indices))
        self.head = Head(pyramid_channels, num_classes, head_layers, norm or "none", activation)
        self.iou_aware, self.box_weight = iou_aware, box_weight
        self.match_top, self.match_radius, self.match_box_weight = match_top, match_radius, match_box_weight
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img, self.candidates = detections_per_img, candidates

    def raw(self, images: Tensor) -> Tensor:
        """[B, cells, 4 + 1 + classes]: what is computed for every image alike, before boxes are selected."""
        return self.head(self.maps(images)[1])

    def see(self, images: Tensor, proposals: list[Tensor] | None = None) -> Seen:
        height, width = images.shape[-2:]
        images, maps = self.maps(images)
        # float32, because boxes are decoded in the type of the outputs.
        return Seen(images, maps, (height, width), outputs={"cells": self.head(maps).float()})

    def losses(self, seen: Seen, targets: list[Target]) -> dict[str, Tensor]:
        cells = decoded(seen, self.pyramid.levels)
        objects = padded(targets)
        positive, held = self.assigned(cells, objects)
        count = positive.sum().clamp(min=1)
        box = objects.boxes.gather(1, held[..., None].expand(-1, -1, 4))
        label = objects.labels.gather(1, held)
        # Pairs as tables of one by one: torchvision's loss of pairs waits for the device (it indexes by a mask).
        giou = generalized_box_iou(cells.boxes[:, :, None], box[:, :, None])[..., 0, 0]
        iou = box_iou(cells.boxes.detach()[:, :, None], box[:, :, None])[..., 0, 0]
        wanted = positive * iou if self.iou_aware else positive.float()
        classes = label[..., None] == torch.arange(cells.classes.shape[2], device=label.device)
        entropy = F.binary_cross_entropy_with_logits(cells.classes, classes.float(), reduction="none").sum(2)
        objectness = F.binary_cross_entropy_with_logits(cells.objectness, wanted, reduction="sum")
        return {
            "classification": (entropy * positive).sum() / count,
            "box": self.box_weight * ((1 - giou) * positive).sum() / count,
            "objectness": objectness / count,
        }

    @torch.no_grad()
    def assigned(self, cells: "Cells", objects: Objects) -> Assignment:
        """By the present predictions: the cost is the sum of what the two losses would be."""
        label = objects.labels[..., None].expand(-1, -1, cells.classes.shape[1])
        own = cells.classes.transpose(1, 2).gather(1, label)
        # Cross-entropy of all classes: that of a zero is softplus(x), that of the one softplus(x) - x.
        entropy = F.softplus(cells.classes).sum(2)[:, None] - own
        giou = generalized_box_iou(objects.boxes, cells.boxes)
        return assign(
            cost=entropy + self.match_box_weight * (1 - giou),
            iou=box_iou(objects.boxes, cells.boxes),
            candidates=near(objects.boxes, cells.centers, cells.strides, self.match_radius)
            & objects.real[..., None],
            top=self.match_top,
        )

    def detections(self, seen: Seen) -> list[Target]:
        cells = decoded(seen, self.pyramid.levels)
        scores = cells.objectness.sigmoid()[..., None] * cells.classes.sigmoid()
        sizes = [m.shape[-2] * m.shape[-1] for m in seen.maps]
        found = []
        for boxes, score in zip(cells.boxes, scores, strict=True):
            # The best cells of each level, each by its best class.
            places = zip(boxes.split(sizes), score.split(sizes), strict=True)
            best = [(b, s, s.amax(1).topk(min(self.candidates, len(s))).indices) for b, s in places]
            found.append(
                select(
                    torch.cat([b[i] for b, _, i in best]),
                    torch.cat([s[i] for _, s, i in best]),
                    size=seen.size,
                    score_thresh=self.score_thresh,
                    nms_thresh=self.nms_thresh,
                    detections_per_img=self.detections_per_img,
                )
            )
        return found


class Head(nn.Module):
    """Maps [B, channels, H, W] -> [B, A, 4 + 1 + classes], of the cells of all maps: box, objectness, classes."""

    def __init__(self, channels: int, classes: int, layers: int, norm: Norm, activation: Activation):
        super().__init__()

        def branch(start: list[float]) -> nn.Sequential:
            """Ends in a convolution that says `start` at first, everywhere."""
            blocks = [
                ConvNormAct(channels, channels, norm=norm, activation=activation) for _ in range(layers)
            ]
            last = nn.Conv2d(channels, len(start), 1)
            nn.init.normal_(last.weight, std=0.01)
            last.bias = nn.Parameter(torch.tensor(start))
            return nn.Sequential(*blocks, last)

        # Boxes of 4 strides in the middle of their cells, of which few hold an object, and this one of any class
        # (Lin et al. 2017, RetinaNet, section 4.1).
        self.box = branch([0.0, 0.0, math.log(4.0), math.log(4.0), _log_odds(0.01)])
        self.classes = branch([_log_odds(1 / (classes + 1))] * classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        said = [torch.cat([self.box(m), self.classes(m)], dim=1).flatten(2) for m in maps]
        return torch.cat(said, dim=2).transpose(1, 2)


class Cells(NamedTuple):
    """Of all levels: boxes [B, A, 4] xyxy pixels, logits objectness [B, A] and classes [B, A, C], centers [A, 2]
    (x, y) in pixels, strides [A].
    """

    boxes: Tensor
    objectness: Tensor
    classes: Tensor
    centers: Tensor
    strides: Tensor


def decoded(seen: Seen, levels: list[int]) -> Cells:
    """What the head says of maps of the strides `levels`, in pixels."""
    centers, strides = [], []
    for m, pixels in zip(seen.maps, levels, strict=True):
        y, x = (torch.arange(n, device=m.device, dtype=torch.float32) + 0.5 for n in m.shape[-2:])
        centers.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2) * pixels)
        strides.append(torch.full_like(centers[-1][:, 0], pixels))
    center, stride = torch.cat(centers), torch.cat(strides)
    cells = seen.outputs["cells"]
    middle = center + cells[..., :2] * stride[:, None]
    half = cells[..., 2:4].clamp(-LARGEST, LARGEST).exp() * stride[:, None] / 2
    boxes = torch.cat([middle - half, middle + half], dim=2)
    return Cells(boxes, cells[..., 4], cells[..., 5:], center, stride)


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))
