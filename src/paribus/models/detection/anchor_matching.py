"""Which anchor learns which object, and what it learns, without waiting for the device: torchvision's matching and
losses select by masks, so that the host has to ask the device how many were selected.

Shapes depend on the batch's numbers only: objects are padded to a table, see assignment.py, and what does not count
is masked. B images, M objects, A anchors, the same in all images. A match is an object's number, or one of the two
below.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection._utils import encode_boxes
from torchvision.ops import sigmoid_focal_loss

from paribus.models.detection.assignment import Objects

BACKGROUND, IGNORED = -1, -2
# Pairs of an object and an anchor that are compared at once: a number of each is 4 MB, and about ten are kept at a
# time. A large image has more by itself: at 640 x 640, 100 objects and RetinaNet's anchors, 8 million.
PAIRS = 2**20


class Learned(NamedTuple):
    """positive, ignored: bool [B, A], anchors with an object, and those that learn nothing. boxes: float32 [B, A, 4],
    the object's; without one the anchor's own, which is finite in any code. labels: int64 [B, A], -1 without one.
    """

    positive: Tensor
    ignored: Tensor
    boxes: Tensor
    labels: Tensor


@torch.no_grad()
def learned(match: Callable[[Objects], Tensor], objects: Objects, anchors: Tensor) -> Learned:
    """Of a batch. match: of the objects of some images the matches int64 [B, A]; it is given as many images at once as
    have PAIRS, one at least. anchors: [A, 4].
    """
    images = max(1, PAIRS // (objects.real.shape[1] * len(anchors)))
    parts = zip(*(table.split(images) for table in objects), strict=True)
    matches = torch.cat([match(Objects(*part)) for part in parts])
    positive, number = matches >= 0, matches.clamp(min=0)
    boxes = objects.boxes.gather(1, number[..., None].expand(-1, -1, 4))
    return Learned(
        positive=positive,
        ignored=matches == IGNORED,
        boxes=torch.where(positive[..., None], boxes, anchors),
        labels=objects.labels.gather(1, number).masked_fill_(~positive, -1),
    )


def overlaps(objects: Objects, anchors: Tensor) -> Tensor:
    """IoUs [B, M, A], and -1 in the padding, where an object that overlaps nothing has 0. anchors: [A, 4].

    As torchvision's box_iou, bit for bit, whose tables hold both axes of a pair next to each other: on a processor
    they take three times as long.
    """
    left, top, right, bottom = objects.boxes[..., None].unbind(2)
    x0, y0, x1, y1 = anchors.T.contiguous()
    width = (torch.minimum(right, x1) - torch.maximum(left, x0)).clamp_(min=0)
    shared = (torch.minimum(bottom, y1) - torch.maximum(top, y0)).clamp_(min=0).mul_(width)
    union = ((right - left) * (bottom - top) + (x1 - x0) * (y1 - y0)).sub_(shared)
    return shared.div_(union).masked_fill_(~objects.real[..., None], -1.0)


def by_overlap(iou: Tensor, number: Tensor, low: float, high: float) -> Tensor:
    """Of the largest IoUs [B, A] and the objects [B, A] that have them: an object from `high` on, background below
    `low`.
    """
    found = torch.where(iou < low, BACKGROUND, number)
    return found if low == high else torch.where((iou >= low) & (iou < high), IGNORED, found)


def codes(boxes: Tensor, anchors: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """What a head should say of anchors [A, 4] that learn the boxes [B, A, 4]: offsets and logarithms of sizes.

    torchvision's BoxCoder takes these weights to the device at every call, and waits for it.
    """
    return encode_boxes(boxes.flatten(0, 1), anchors.repeat(len(boxes), 1), weights).view_as(boxes)


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, A], the sum over classes. logits: [B, A, C]. labels: int64 [B, A], -1 for none of them."""
    classes = torch.arange(logits.shape[2], device=labels.device)
    return sigmoid_focal_loss(logits, (labels[..., None] == classes).to(logits.dtype)).sum(2)


def kept(losses: Tensor, mask: Tensor) -> Tensor:
    """losses where the mask says, 0 elsewhere: a product would keep what is not finite."""
    return torch.where(mask, losses, 0.0)
