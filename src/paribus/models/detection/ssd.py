"""SSD (Liu et al. 2016, https://arxiv.org/abs/1512.02325): torchvision's, on any backbone."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import ssd

from paribus.models.activation import Activation
from paribus.models.backbones import Backbone
from paribus.models.detection.anchor_matching import BACKGROUND, by_overlap, codes, kept, learned, overlaps
from paribus.models.detection.assignment import Objects, padded
from paribus.models.detection.default_boxes import DefaultBoxes
from paribus.models.detection.detector import Seen, Target, need_positive
from paribus.models.detection.fpn import FeaturePyramid, Neck
from paribus.models.detection.one_stage import OneStage, without_padding
from paribus.models.layers import ConvNormAct
from paribus.models.normalization import Norm


class SSD(OneStage, ssd.SSD):
    """A detector, see Detector; losses "classification", of objects and of the three times as many boxes of
    background with the largest, and "box".

    One 3x3 convolution on each map says class and box of every default box. With conf/model/ssd300.yaml and
    backbone=vgg16 it is the network of the paper and of torchvision's ssd300_vgg16.

    neck: none takes the maps as they are, the paper's; fpn joins them, see FeaturePyramid.
    pyramid_channels: of the pyramid, with neck=fpn.
    levels: the strides of the backbone's maps; None is all from 8 on (or its coarsest).
    extra_channels: of the maps appended to these, each half the last one's size.
    unpadded: so many of them, the last ones, by an unpadded 3x3 at stride 1, as the last two of SSD300.
    fc_channels: of VGG-16's fc6, with dilation 6, and fc7 as convolutions on the coarsest of `levels`; None is without.
    l2_norm: of the finest map, each cell's channels, with learned scales from 20 (section 3.1), because the early
        maps of VGG-16 are larger than the rest.
    norm, activation: of what is appended; norm None for none, as in the paper.
    min_scale, max_scale: of the image's shorter side, the default boxes of the finest and of the coarsest map; those
        between in equal steps (equation 4). Every map has one box more, between its scale and the next.
    scales: in their place, one of each map and one for the next after the last.
    anchor_ratios: widths / heights beside 1, each with its inverse; of all maps, or a list for each.
    score_thresh, nms_thresh, detections_per_img, candidates: the least score, the IoU that suppresses, the most
        detections of an image, the most candidates of a class before suppression.
    """

    neg_to_pos_ratio: float

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        neck: Neck = "none",
        pyramid_channels: int = 256,
        levels: list[int] | None = None,
        extra_channels: list[int] | tuple[int, ...] = (256, 256, 256),
        unpadded: int = 0,
        fc_channels: int | None = None,
        l2_norm: bool = False,
        norm: Norm | None = None,
        activation: Activation = "relu",
        min_scale: float = 0.2,
        max_scale: float = 0.9,
        scales: list[float] | None = None,
        anchor_ratios: list[float] | list[list[float]] | tuple[float, ...] = (2.0, 3.0),
        score_thresh: float = 0.01,
        nms_thresh: float = 0.45,
        detections_per_img: int = 100,
        candidates: int = 400,
    ):
        need_positive(
            pyramid_channels=pyramid_channels, detections_per_img=detections_per_img, candidates=candidates
        )
        if neck not in ("fpn", "none"):
            raise ValueError(f"model.neck={neck}: fpn or none")
        own = sorted(levels or {s for s in backbone.strides if s >= 8}) or [max(backbone.strides)]
        if neck == "fpn":
            if fc_channels or l2_norm or unpadded:
                raise ValueError(
                    "model.neck=fpn has neither fc_channels nor l2_norm nor unpadded: leave them out, or neck=none"
                )
            appended = [own[-1] * 2 ** (i + 1) for i in range(len(extra_channels))]
            pyramid: Any = FeaturePyramid(
                channels=backbone.channels,
                strides=backbone.strides,
                levels=[*own, *appended],
                out_channels=pyramid_channels,
                extra="conv",
            )
            channels = [pyramid_channels] * len(pyramid.levels)
        else:
            pyramid = Column(
                backbone,
                levels=own,
                extra_channels=extra_channels,
                unpadded=unpadded,
                fc_channels=fc_channels,
                l2_norm=l2_norm,
                norm=norm or "none",
                activation=activation,
            )
            channels = pyramid.channels
        boxes = DefaultBoxes(
            maps=len(channels), ratios=anchor_ratios, min_scale=min_scale, max_scale=max_scale, scales=scales
        )
        super().__init__(
            pyramid,
            boxes,
            (1, 1),
            num_classes + 1,
            head=ssd.SSDHead(channels, boxes.num_anchors_per_location(), num_classes + 1),
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
            topk_candidates=candidates,
        )
        self.keep(backbone, pyramid)

    def losses(self, seen: Seen, targets: list[Target]) -> dict[str, Tensor]:
        anchors = self.anchors(seen)[0]
        positive, _, boxes, labels = learned(partial(self.match, anchors), padded(targets), anchors)
        # The background is the class before all others.
        logits, classes = seen.outputs["cls_logits"].flatten(0, 1), labels.flatten() + 1
        entropy = F.cross_entropy(logits, classes, reduction="none").view_as(labels)
        wanted = codes(boxes, anchors, self.box_coder.weights)
        box = F.smooth_l1_loss(seen.outputs["bbox_regression"], wanted, reduction="none").sum(2)
        count = positive.sum().clamp(min=1)
        hardest = self.hardest(entropy.detach(), positive)
        classification = kept(entropy, positive).sum() + kept(entropy, hardest).sum()
        return {"classification": classification / count, "box": kept(box, positive).sum() / count}

    def match(self, anchors: Tensor, objects: Objects) -> Tensor:
        """By IoU, and besides for each object the anchor that overlaps it most; of two objects with the same one the
        later has it.
        """
        iou = overlaps(objects, anchors)
        found = by_overlap(*iou.max(1), *self.limits())
        # The padding's go to one more anchor, which is cut off.
        best = iou.max(2).indices.masked_fill(~objects.real, len(anchors))
        number = torch.arange(best.shape[1], device=best.device).expand_as(best)
        own = found.new_full((len(found), len(anchors) + 1), BACKGROUND)
        own = own.scatter_reduce_(1, best, number, "amax")[:, :-1]
        return torch.where(own >= 0, own, found)

    def hardest(self, losses: Tensor, positive: Tensor) -> Tensor:
        """bool [B, A]: in each image three anchors for every positive one, of the largest loss, positive ones last."""
        order = losses.masked_fill(positive, -torch.inf).sort(1, descending=True).indices
        number = self.neg_to_pos_ratio * positive.sum(1, keepdim=True)
        first = torch.arange(order.shape[1], device=order.device) < number
        return torch.zeros_like(positive).scatter_(1, order, first)

    def detections(self, seen: Seen) -> list[Target]:
        sizes = [seen.size] * len(seen.images)
        found = self.postprocess_detections(seen.outputs, self.anchors(seen), sizes)
        return [{**f, "labels": f["labels"] - 1} for f in without_padding(seen, found)]


class Column(nn.Module):
    """A backbone's maps of the strides `levels`, and those appended, see SSD; `channels` of all, fine to coarse."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        levels: list[int],
        extra_channels: list[int] | tuple[int, ...],
        unpadded: int,
        fc_channels: int | None,
        l2_norm: bool,
        norm: Norm,
        activation: Activation,
    ):
        super().__init__()
        deepest = {stride: i for i, stride in enumerate(backbone.strides)}
        if not levels or not set(levels) <= set(deepest):
            raise ValueError(
                f"model.levels={list(levels)}: this backbone has maps of stride {sorted(deepest)}; take some of "
                "these, and model.extra_channels for coarser ones"
            )
        if not 0 <= unpadded <= len(extra_channels):
            raise ValueError(
                f"model.unpadded={unpadded}: from 0 to the {len(extra_channels)} of model.extra_channels"
            )
        self.unpadded = unpadded
        self.indices = [deepest[level] for level in levels]
        self.channels = [backbone.channels[i] for i in self.indices]
        self.scale = nn.Parameter(torch.full((self.channels[0], 1, 1), 20.0)) if l2_norm else None
        self.fc: nn.Module | None = None
        if fc_channels:
            # Of the last stage of VGG-16 the pooling, which strides no more, and the fully connected layers.
            self.fc = nn.Sequential(
                nn.MaxPool2d(3, stride=1, padding=1),
                nn.Conv2d(self.channels[-1], fc_channels, 3, padding=6, dilation=6),
                nn.ReLU(inplace=True),
                nn.Conv2d(fc_channels, fc_channels, 1),
                nn.ReLU(inplace=True),
            )
            self.fc.apply(_xavier)
            self.channels[-1] = fc_channels
        self.extra = nn.ModuleList()
        for i, width in enumerate(extra_channels):
            strided = i < len(extra_channels) - unpadded
            self.extra.append(
                nn.Sequential(
                    ConvNormAct(self.channels[-1], width // 2, kernel=1, norm=norm, activation=activation),
                    ConvNormAct(
                        width // 2,
                        width,
                        stride=2 if strided else 1,
                        padding=1 if strided else 0,
                        norm=norm,
                        activation=activation,
                    ),
                )
            )
            self.channels.append(width)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps = [features[i] for i in self.indices]
        if self.fc is not None:
            maps[-1] = self.fc(maps[-1])
        if self.scale is not None:
            maps[0] = self.scale * F.normalize(maps[0].float())
        for i, block in enumerate(self.extra):
            if i >= len(self.extra) - self.unpadded and min(maps[-1].shape[-2:]) < 3:
                raise ValueError(
                    f"model.unpadded: the map before has {tuple(maps[-1].shape[-2:])} cells, and 3 x 3 are needed: "
                    "larger images (`data.size`), or model.unpadded=0"
                )
            maps.append(block(maps[-1]))
        return maps


def _xavier(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
