"""The second stage of the R-CNNs: boxes cut out of maps, classified and moved (Girshick 2015, Fast R-CNN,
https://arxiv.org/abs/1504.08083).
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import roi_align, roi_pool

from paribus.models.detection.detector import Target

RoI = Literal["pool", "align"]


class RegionPool(nn.Module):
    """maps, and of each image boxes [N, 4] in its pixels -> [sum of N, C, resolution, resolution], float32.

    Each box is cut out of the map whose stride suits its size: 224 pixels out of stride 16, half of it out of 8,
    and so on (Lin et al. 2017, equation 1). torchvision's MultiScaleRoIAlign has no RoI pooling, no strides that
    leave one out, and guesses them from the first images it sees, for padded small ones wrongly.

    strides: of the maps, fine to coarse.
    roi: align, bilinear samples (He et al. 2017, Mask R-CNN, section 3) | pool, the maximum over whole cells (Fast
        R-CNN, section 2.1).
    """

    edges: Tensor

    def __init__(self, *, strides: list[int], roi: RoI = "align", resolution: int = 7):
        super().__init__()
        if roi not in ("align", "pool"):
            raise ValueError(f"model.roi={roi}: align or pool")
        self.strides, self.roi, self.resolution = list(strides), roi, resolution
        edges = torch.tensor([math.log2(stride) for stride in strides[1:]])
        self.register_buffer("edges", edges, persistent=False)

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        # A column in front says which image.
        rois = torch.cat([F.pad(b, (1, 0), value=float(i)) for i, b in enumerate(boxes)])
        if len(maps) == 1:
            return self._pooled(maps[0], rois, self.strides[0])
        sides = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
        level = torch.floor(4 + torch.log2(sides / 224) + 1e-6)
        place = (level[:, None] >= self.edges).sum(1)
        found = maps[0].new_zeros(len(rois), maps[0].shape[1], self.resolution, self.resolution).float()
        for i, (m, stride) in enumerate(zip(maps, self.strides, strict=True)):
            index = torch.where(place == i)[0]
            found[index] = self._pooled(m, rois[index], stride)
        return found

    def _pooled(self, m: Tensor, rois: Tensor, stride: int) -> Tensor:
        if self.roi == "pool":
            return roi_pool(m.float(), rois, self.resolution, 1 / stride)
        return roi_align(m.float(), rois, self.resolution, 1 / stride, sampling_ratio=2)


class Samples(NamedTuple):
    """Boxes that a step learns from, of each image: boxes [S, 4], labels [S] with the background as 0, the index of
    the object [S] that each has (0 for the background), the deltas [S, 4] from box to object.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    objects: list[Tensor]
    deltas: list[Tensor]


class Regions(RoIHeads):
    """Features of boxes [N, channels] -> of every box class logits [N, classes + 1], the background first, and deltas
    [N, 4 * (classes + 1)]; what to learn from, losses and detections from them, with labels from 0.

    torchvision's RoIHeads has its losses in training only, and always moves boxes.

    channels: of the features that the last layer sees.
    pool, hidden: what makes features of maps and boxes, where a subclass does.
    moved: whether boxes are moved; without, deltas are 0 and there is no loss "box".
    batch: boxes of an image that the losses sample, at most a quarter of them on objects; the objects' own boxes
        are among those that are sampled from.
    score_thresh, nms_thresh, detections_per_img: the least score, the IoU that suppresses, the most detections.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_classes: int,
        pool: nn.Module | None = None,
        hidden: nn.Module | None = None,
        moved: bool = True,
        batch: int = 64,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
    ):
        predictor = FastRCNNPredictor if moved else Unmoved
        super().__init__(
            pool or nn.Identity(),
            hidden or nn.Identity(),
            predictor(channels, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=batch,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
        )
        self.moved = moved

    def classify(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas of what was cut out."""
        logits, deltas = self.box_predictor(self.box_head(pooled))
        # float32, because boxes are decoded in the type of the deltas.
        return logits.float(), deltas.float()

    @torch.no_grad()
    def sample(self, proposals: list[Tensor], targets: list[Target]) -> Samples:
        shifted = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]
        boxes, objects, labels, deltas = self.select_training_samples(proposals, shifted)
        return Samples(boxes, labels, objects, deltas)

    def compare(self, logits: Tensor, deltas: Tensor, samples: Samples) -> dict[str, Tensor]:
        if len(logits) == 0:  # the means of none are no numbers
            classification, box = logits.sum(), deltas.sum()
        else:
            classification, box = fastrcnn_loss(logits, deltas, samples.labels, samples.deltas)
        return (
            {"classification": classification, "box": box}
            if self.moved
            else {"classification": classification}
        )

    def decide(
        self, logits: Tensor, deltas: Tensor, proposals: list[Tensor], size: tuple[int, int]
    ) -> list[Target]:
        """size: (H, W), at which boxes are cut."""
        found = self.postprocess_detections(logits, deltas, proposals, [size] * len(proposals))
        return [
            {"boxes": boxes, "scores": scores, "labels": labels - 1}
            for boxes, scores, labels in zip(*found, strict=True)
        ]


class Unmoved(nn.Linear):
    """Features [N, channels] -> logits [N, classes], and deltas of 0."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        logits = super().forward(x)
        return logits, torch.zeros(len(logits), 4 * self.out_features, device=x.device)


class BoxHead(Regions):
    """maps and of each image proposals [N, 4] -> logits and deltas as of Regions. Proposals may come from anywhere.

    in_channels, strides: of the maps, fine to coarse.
    channels: of the two hidden layers.
    roi: see RegionPool; each box becomes 7 x 7 cells.
    batch, score_thresh, nms_thresh, detections_per_img: see Regions.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        strides: list[int],
        num_classes: int,
        channels: int = 1024,
        roi: RoI = "align",
        batch: int = 64,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
    ):
        super().__init__(
            pool=RegionPool(strides=strides, roi=roi),
            hidden=TwoMLPHead(in_channels * 7 * 7, channels),
            channels=channels,
            num_classes=num_classes,
            batch=batch,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
        )

    def forward(self, maps: list[Tensor], proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.classify(self.box_roi_pool(maps, proposals))

    def losses(self, maps: list[Tensor], samples: Samples) -> dict[str, Tensor]:
        logits, deltas = self(maps, samples.boxes)
        return self.compare(logits, deltas, samples)

    def detections(self, maps: list[Tensor], proposals: list[Tensor], size: tuple[int, int]) -> list[Target]:
        """size: (H, W), at which boxes are cut."""
        logits, deltas = self(maps, proposals)
        return self.decide(logits, deltas, proposals, size)
