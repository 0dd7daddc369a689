"""Which cell learns which object: SimOTA (Ge et al. 2021, YOLOX, https://arxiv.org/abs/2107.08430, section 2.1), a
short form of OTA (Ge et al. 2021, https://arxiv.org/abs/2103.14259).

Shapes depend on the batch's numbers only, and nothing waits for the device: objects are padded to a table, and every
pair of an object and a cell is compared. B images, M objects, A cells of all levels.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from paribus.models.detection.detector import Target


class Objects(NamedTuple):
    """Of a batch, as a table. boxes: float32 [B, M, 4]. labels: int64 [B, M]. real: bool [B, M], False in the
    padding, whose boxes and labels are 0.
    """

    boxes: Tensor
    labels: Tensor
    real: Tensor


class Assignment(NamedTuple):
    """positive: bool [B, A], cells that learn an object. object: int64 [B, A], which; 0 where not positive."""

    positive: Tensor
    object: Tensor


def padded(targets: list[Target], multiple: int = 8) -> Objects:
    """The objects of a batch; M is a multiple, at least one, so that what follows meets few shapes."""
    boxes = pad_sequence([t["boxes"].reshape(-1, 4).float() for t in targets], batch_first=True)
    labels = pad_sequence([t["labels"] + 1 for t in targets], batch_first=True)
    missing = max(multiple, -(-labels.shape[1] // multiple) * multiple) - labels.shape[1]
    boxes, labels = F.pad(boxes, (0, 0, 0, missing)), F.pad(labels, (0, missing))
    return Objects(boxes, (labels - 1).clamp(min=0), labels > 0)


def near(boxes: Tensor, centers: Tensor, strides: Tensor, radius: float) -> Tensor:
    """bool [B, M, A]: cells whose center lies within `radius` of their own stride from the box's center, on both
    axes; 1.5 is a region of 3 x 3 cells a level. boxes [B, M, 4], centers [A, 2] in pixels, strides [A].
    """
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    distance = (middle[:, :, None] - centers).abs().amax(-1)
    return distance < radius * strides


@torch.no_grad()
def assign(*, cost: Tensor, iou: Tensor, candidates: Tensor, top: int) -> Assignment:
    """An object takes the k of its candidates with the least cost; k is the sum of its `top` largest IoUs, rounded
    down, at least one (OTA, section 3.3: "dynamic k estimation"). A cell learns one object.

    cost, iou: float [B, M, A]. candidates: bool [B, M, A], none for the padding.

    The papers do not say who gets a cell that several objects take. Here one for which it is the best comes before
    one that has a better cell, and then the least cost decides: so an object with a candidate has a cell, unless
    another wants the same one most and at less cost.
    """
    top = min(top, cost.shape[2])
    k = (iou * candidates).topk(top, dim=2).values.sum(2, keepdim=True).long().clamp(min=1)
    cost = cost.masked_fill(~candidates, torch.inf)
    least = cost.topk(top, dim=2, largest=False)
    order = torch.arange(top, device=cost.device)
    chosen = torch.zeros_like(candidates).scatter_(2, least.indices, order < k) & candidates
    best = torch.zeros_like(candidates).scatter_(2, least.indices[..., :1], value=True)
    contested = chosen & (best | ~(chosen & best).any(1, keepdim=True))
    holder = cost.masked_fill(~contested, torch.inf).argmin(1)
    return Assignment(chosen.any(1), holder)
