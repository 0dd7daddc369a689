"""Networks side by side, and the mean of what they answer."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Classifiers of their own weights that are trained as if each were alone, on the same images in the same order.

    While it trains, images [members * B, C, H, W], a batch for each of them one after the other -> logits
    [members * B, classes], as each member has them of its own. A loss that is the mean over them all passes each
    member the gradient of the mean over its own. Judging, images [B, C, H, W] -> in the place of logits the logarithm
    of the mean probability [B, classes], for `labels` the logit of the mean of the sigmoids.

    Krizhevsky et al. 2012, section 6.1; the members differ by their first weights alone (Lakshminarayanan et al. 2017,
    Deep ensembles, section 2.4). What they share is the norm to which a gradient is clipped.

    ValueError for masks and boxes.
    """

    def __init__(self, members: Sequence[nn.Module], *, target: Literal["label", "labels"]):
        super().__init__()
        if target not in ("label", "labels"):
            raise ValueError(f"members={len(members)}: of classifiers, and here is `{target}`: members=1")
        self.members, self.target = nn.ModuleList(members), target

    @property
    def backbone(self) -> nn.Module:
        return nn.ModuleList(member.backbone for member in self.members)  # type: ignore[misc]

    def forward(self, images: Tensor) -> Any:
        if self.training:
            parts = images.chunk(len(self.members))
            answers = [member(part) for member, part in zip(self.members, parts, strict=True)]
            if isinstance(answers[0], tuple):  # with auxiliary classifiers
                return tuple(self._joined(each) for each in zip(*answers, strict=True))
            return self._joined(answers)
        logits = torch.stack([member(images).float() for member in self.members])
        if self.target == "labels":
            yes, no = (F.logsigmoid(sign * logits).logsumexp(0) for sign in (1, -1))
            return yes - no
        return logits.log_softmax(-1).logsumexp(0) - math.log(len(self.members))

    def _joined(self, answers: Sequence[Tensor]) -> Tensor:
        joined = torch.cat([*answers])
        if joined.requires_grad:
            joined.register_hook(lambda gradient: gradient * len(self.members))
        return joined
