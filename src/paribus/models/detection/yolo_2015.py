"""YOLO as it was first, one grid (Redmon et al. 2016, You Only Look Once, https://arxiv.org/abs/1506.02640), on any
backbone.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from paribus.models.activation import Activation
from paribus.models.backbones import Backbone
from paribus.models.detection.assignment import padded
from paribus.models.detection.detector import Detector, Seen, Target, need_positive
from paribus.models.detection.fpn import trimmed
from paribus.models.detection.selection import select
from paribus.models.layers import ConvNormAct, FullyConnected, Grid, pad_to_multiple
from paribus.models.normalization import Norm


class YOLO2015(Detector):
    """A detector, see Detector; losses "classification", "box", "objectness": the parts of equation 3, each a sum
    over the cells, mean over the images.

    The image is `grid` x `grid` cells. In each are `boxes` boxes (the center in the cell, the square roots of width
    and height in shares of the image, a confidence), and one object's classes. All are learned by squared errors
    and none is squashed. The score of a class is its probability times the confidence.

    A cell learns one object, of those whose center lies in it the first: more it cannot say.

    level: the stride of the backbone's map that becomes the grid; None is the coarsest.
    head: convolutional, a 1 x 1 convolution on the map averaged to the grid; fully_connected, the paper's two layers
        in its place: each cell sees the whole image, and learns by itself what an object looks like.
    head_layers, head_channels: the 3 x 3 convolutions before.
    hidden, dropout: of the first fully connected layer; the convolutional head has neither.
    norm, activation: of the head; norm None for none, as the paper's.
    coord_weight, noobj_weight: the paper's lambda_coord and lambda_noobj.
    score_thresh, nms_thresh, detections_per_img: the least score, the IoU that suppresses, the most detections.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        grid: int = 7,
        boxes: int = 2,
        level: int | None = None,
        head: Literal["fully_connected", "convolutional"] = "convolutional",
        head_layers: int = 2,
        head_channels: int = 256,
        hidden: int = 1024,
        dropout: float = 0.5,
        norm: Norm | None = "group",
        activation: Activation = "leaky_relu",
        coord_weight: float = 5.0,
        noobj_weight: float = 0.5,
        score_thresh: float = 0.01,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
    ):
        super().__init__()
        need_positive(
            grid=grid,
            boxes=boxes,
            head_channels=head_channels,
            hidden=hidden,
            detections_per_img=detections_per_img,
        )
        # Of several maps of one stride the deepest.
        deepest = {stride: i for i, stride in enumerate(backbone.strides)}
        if level is not None and level not in deepest:
            raise ValueError(f"model.level={level}: this backbone has maps of stride {sorted(deepest)}")
        self.backbone = trimmed(backbone, len(backbone.strides) - 1 if level is None else deepest[level])
        self.grid, self.boxes, self.classes = grid, boxes, num_classes
        self.coord_weight, self.noobj_weight = coord_weight, noobj_weight
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img = detections_per_img
        channels = self.backbone.channels[-1]
        layers: list[nn.Module] = []
        for _ in range(head_layers):
            layers.append(ConvNormAct(channels, head_channels, norm=norm or "none", activation=activation))
            channels = head_channels
        last: nn.Linear | nn.Conv2d
        if head == "fully_connected":
            full = FullyConnected(channels, [hidden], grid=grid, activation=activation, dropout=dropout)
            last = nn.Linear(full.width, grid * grid * (boxes * 5 + num_classes))
            layers += [full, last, nn.Unflatten(1, (-1, grid, grid))]
        else:
            last = nn.Conv2d(channels, boxes * 5 + num_classes, 1)
            layers += [Grid(grid), last]
        self.head = nn.Sequential(*layers)
        nn.init.normal_(last.weight, std=0.01)
        start = _start(boxes, num_classes)
        last.bias = nn.Parameter(start.repeat_interleave(last.weight.shape[0] // len(start)))

    def raw(self, images: Tensor) -> Tensor:
        """[B, boxes * 5 + classes, grid, grid]: all but the selection of boxes."""
        return self.head(self.backbone(pad_to_multiple(images, max(self.backbone.strides)))[-1])

    def see(self, images: Tensor, proposals: list[Tensor] | None = None) -> Seen:
        height, width = images.shape[-2:]
        images = pad_to_multiple(images, max(self.backbone.strides))
        maps = self.backbone(images)
        return Seen(images, maps, (height, width), outputs={"map": self.head(maps[-1]).float()})

    def losses(self, seen: Seen, targets: list[Target]) -> dict[str, Tensor]:
        cells = self._cells(seen)
        truth = self._truth(seen, targets)
        # The responsible predictor: of the cell's boxes the one that overlaps its object most.
        iou = box_iou(cells.boxes.detach(), truth.boxes[:, :, None])[..., 0].nan_to_num()
        responsible = torch.zeros_like(iou).scatter_(2, iou.argmax(2, keepdim=True), 1.0)
        responsible = responsible * truth.there[..., None]
        place = (cells.place - truth.place[:, :, None]).square().sum(3)
        right = (cells.confidence - iou).square()
        nothing = cells.confidence.square()
        classes = (cells.classes - truth.classes).square().sum(2)
        confidence = responsible * right + self.noobj_weight * (1 - responsible) * nothing
        return {
            "classification": (classes * truth.there).sum(1).mean(),
            "box": self.coord_weight * (place * responsible).sum((1, 2)).mean(),
            "objectness": confidence.sum((1, 2)).mean(),
        }

    def detections(self, seen: Seen) -> list[Target]:
        cells = self._cells(seen)
        height, width = seen.images.shape[-2:]
        x1, y1, x2, y2 = cells.boxes.flatten(1, 2).unbind(2)
        boxes = torch.stack([x1 * width, y1 * height, x2 * width, y2 * height], dim=2)
        scores = cells.confidence.clamp(0, 1)[..., None] * cells.classes.clamp(0, 1)[:, :, None]
        return [
            select(
                box,
                score,
                size=seen.size,
                score_thresh=self.score_thresh,
                nms_thresh=self.nms_thresh,
                detections_per_img=self.detections_per_img,
            )
            for box, score in zip(boxes, scores.flatten(1, 2), strict=True)
        ]

    def _cells(self, seen: Seen) -> "Cells":
        """What the map says."""
        flat = seen.outputs["map"].flatten(2).transpose(1, 2)
        predictors = flat[..., : self.boxes * 5].unflatten(2, (self.boxes, 5))
        place, confidence = predictors[..., :4], predictors[..., 4]
        middle = (place[..., :2] + self._corners(flat)[:, None]) / self.grid
        half = place[..., 2:].square() / 2
        return Cells(
            place, torch.cat([middle - half, middle + half], 3), confidence, flat[..., self.boxes * 5 :]
        )

    def _truth(self, seen: Seen, targets: list[Target]) -> "Truth":
        """What it should say."""
        objects = padded(targets)
        height, width = seen.images.shape[-2:]
        x1, y1, x2, y2 = objects.boxes.unbind(2)
        boxes = torch.stack([x1 / width, y1 / height, x2 / width, y2 / height], dim=2)
        middle, size = (boxes[..., :2] + boxes[..., 2:]) / 2 * self.grid, boxes[..., 2:] - boxes[..., :2]
        corner = middle.floor().clamp(0, self.grid - 1)
        cell = (corner[..., 1] * self.grid + corner[..., 0]).long()
        inside = cell[..., None] == torch.arange(self.grid**2, device=cell.device)
        inside = inside & objects.real[..., None]
        first = inside.int().argmax(1)  # [B, cells]
        table = torch.cat([middle - corner, size.clamp(min=0).sqrt(), boxes], dim=2)
        held = table.gather(1, first[..., None].expand(-1, -1, 8))
        label = objects.labels.gather(1, first)[..., None]
        classes = label == torch.arange(self.classes, device=label.device)
        return Truth(inside.any(1), held[..., :4], held[..., 4:], classes.float())

    def _corners(self, like: Tensor) -> Tensor:
        """(x, y) of each cell, in cells: [grid * grid, 2], row by row."""
        side = torch.arange(self.grid, device=like.device, dtype=like.dtype)
        return torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=2).reshape(-1, 2)


class Cells(NamedTuple):
    """place: [B, S * S, boxes, 4], x and y in the cell, the roots of width and height. boxes: xyxy of the same, in
    shares of the image. confidence: [B, S * S, boxes]. classes: [B, S * S, C].
    """

    place: Tensor
    boxes: Tensor
    confidence: Tensor
    classes: Tensor


class Truth(NamedTuple):
    """there: bool [B, S * S], whether the cell has an object. place, boxes: [B, S * S, 4]. classes: 0 or 1
    [B, S * S, C].
    """

    there: Tensor
    place: Tensor
    boxes: Tensor
    classes: Tensor


def _start(boxes: int, classes: int) -> Tensor:
    """What each cell says at first: boxes in its middle, of sizes apart, so that each comes to be responsible for
    objects; nothing there; every class as likely.
    """
    sizes = [(i + 1) / (boxes + 1) for i in range(boxes)]
    places = [value for size in sizes for value in (0.5, 0.5, size, size, 0.0)]
    return torch.tensor(places + [1 / classes] * classes)
