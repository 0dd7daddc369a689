"""Fast R-CNN (Girshick 2015, https://arxiv.org/abs/1504.08083): the network sees the image once, and proposals are
cut out of its maps.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from paribus.models.detection.box_head import RoI
from paribus.models.detection.detector import Seen, Target
from paribus.models.detection.faster_rcnn import FasterRCNN, proposed
from paribus.models.detection.fpn import Neck
from paribus.models.detection.proposer import Proposer, Search


class FastRCNN(FasterRCNN):
    """A detector, see Detector; losses "classification" and "box", with proposals=rpn those of FasterRCNN.

    It is Faster R-CNN without the network that proposes; at equal seeds backbone, pyramid and box head begin with the
    same weights whatever proposes.

    proposals: selective_search | grid | rpn, which is FasterRCNN. num_proposals: the most of an image; the paper has
        about 2000, Faster R-CNN 300.
    search_strategy, search_side, search_smallest, search_least: of selective search, see data/selective_search.py.
    window_smallest, windows_per_octave, window_ratios, window_step: of a grid, see windows().
    anchor_scale, anchors_per_octave, anchor_ratios, candidates, rpn_batch: of rpn, see FasterRCNN.
    neck, levels: see FasterRCNN; the paper has none, one map of stride 16.
    roi: pool, as in the paper | align. The rest as of FasterRCNN.
    """

    def __init__(
        self,
        *,
        proposals: Literal["grid", "selective_search", "rpn"] = "selective_search",
        num_proposals: int = 1000,
        search_strategy: Search = "fast",
        search_side: int | None = 320,
        search_smallest: int | None = None,
        search_least: float = 4.0,
        window_smallest: float = 16.0,
        windows_per_octave: int = 2,
        window_ratios: list[float] | tuple[float, ...] = (0.5, 1.0, 2.0),
        window_step: float = 0.25,
        neck: Neck = "none",
        roi: RoI = "pool",
        candidates: int = 1000,
        **keys: Any,
    ):
        if proposals not in ("grid", "selective_search", "rpn"):
            raise ValueError(f"model.proposals={proposals}: grid, selective_search or rpn")
        super().__init__(num_proposals=num_proposals, neck=neck, roi=roi, candidates=candidates, **keys)
        self.proposer: Proposer | None = None
        if proposals != "rpn":
            self.proposer = Proposer(
                proposals=proposals,
                most=num_proposals,
                strategy=search_strategy,
                side=search_side,
                smallest=search_smallest,
                least=search_least,
                window={
                    "smallest": window_smallest,
                    "per_octave": windows_per_octave,
                    "ratios": tuple(window_ratios),
                    "step": window_step,
                },
            )
            self.search = self.proposer.search
            del self.rpn  # not before the box head has drawn its weights

    def see(self, images: Tensor, proposals: list[Tensor] | None = None) -> Seen:
        if self.proposer is None:
            return super().see(images)
        size = (images.shape[-2], images.shape[-1])
        given = self.proposer(proposals, size, images)
        return Seen(*self.maps(images), size, given)

    def losses(self, seen: Seen, targets: list[Target]) -> dict[str, Tensor]:
        if self.proposer is None:
            return super().losses(seen, targets)
        samples = self.box_head.sample(proposed(seen), targets)
        return self.box_head.losses(self.pooled_maps(seen), samples)

    def raw(self, images: Tensor) -> tuple[Any, ...]:
        if self.proposer is None:
            return super().raw(images)
        _, maps = self.maps(images)
        count = len(images) * (self.proposer.most or 0)
        return self.box_head.classify(torch.zeros(count, maps[0].shape[1], 7, 7, device=images.device))
