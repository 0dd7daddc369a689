"""How many objects proposals cover, before anything is classified."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

FIRST = (100, 300, 1000)  # proposals of an image
IOUS = torch.linspace(0.5, 0.95, 10, dtype=torch.float64)


def recalls(
    proposals: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]
) -> dict[str, tuple[Tensor, int]]:
    """Of some images the share of the objects that one of the first n proposals overlaps by an IoU of 0.5 or more,
    ``proposal_recall_<n>`` (Uijlings et al. 2013, section 5), and the mean of such shares over the IoUs 0.5, 0.55,
    ..., 0.95, ``proposal_ar_<n>`` (Hosang et al. 2016, What Makes for Effective Detection Proposals?): each with
    the number of objects, by which it is weighed in a larger set. A proposal may cover several objects. Without an
    object 0.

    proposals: of each image boxes [P, 4], best first. targets: of each image "boxes" [N, 4].
    """
    count = sum(len(target["boxes"]) for target in targets)
    found = {}
    for first in FIRST:
        best = torch.cat(
            [_best(p[:first], t["boxes"]) for p, t in zip(proposals, targets, strict=True)]
        ).double()
        covered = (best[:, None] >= IOUS.to(best.device) - 1e-9).double().sum(0) / max(count, 1)
        found[f"proposal_recall_{first}"] = (covered[0], count)
        found[f"proposal_ar_{first}"] = (covered.mean(), count)
    return found


def _best(proposals: Tensor, boxes: Tensor) -> Tensor:
    """Of each box the largest IoU with a proposal, [N]."""
    if not len(proposals):
        return boxes.new_zeros(len(boxes))
    return box_iou(proposals.float(), boxes.float()).amax(0)
