"""R-CNN (Girshick et al. 2014, Rich feature hierarchies for accurate object detection and semantic segmentation,
https://arxiv.org/abs/1311.2524): every proposal is cut out of the image and goes through the whole network.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from paribus.models.backbones import Backbone, dense
from paribus.models.detection.box_head import Regions
from paribus.models.detection.crops import crops
from paribus.models.detection.detector import Detector, Seen, Target, need_positive
from paribus.models.detection.faster_rcnn import proposed
from paribus.models.detection.proposer import Proposer, Search
from paribus.models.layers import global_average, pad_to_multiple


class RCNN(Detector):
    """A detector, see Detector; losses "classification" and "box".

    Trained from end to end with cross-entropy and a smooth L1 loss. The paper trains three times: the network, then
    on its features a support vector machine for each class and a ridge regression of boxes. An image costs as many
    forward passes as it has proposals: that is what Fast R-CNN does away with.

    proposals: selective_search | grid. num_proposals: the most of an image; the paper has about 2000.
    search_strategy, search_side, search_smallest, search_least: of selective search, see data/selective_search.py.
    window_smallest, windows_per_octave, window_ratios, window_step: of a grid, see windows().
    crop, context: pixels of a warped proposal's side, and of what is around it in there on each side; the paper has
        227 and 16.
    head: own is what the network's paper has after its last map (AlexNet and VGG their fully connected layers, as
        R-CNN's), where there is something; average is global average pooling.
    box_regression: whether boxes are moved; without, they are the proposals, and there is no loss "box".
    box_batch: proposals of an image that the losses sample, at most a quarter of them on objects.
    chunk: crops that go through the network at once where nothing is learned.
    score_thresh, nms_thresh, detections_per_img: the least score, the IoU that suppresses, the most detections.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        proposals: Literal["grid", "selective_search"] = "selective_search",
        num_proposals: int | None = 1000,
        search_strategy: Search = "fast",
        search_side: int | None = 320,
        search_smallest: int | None = None,
        search_least: float = 4.0,
        window_smallest: float = 16.0,
        windows_per_octave: int = 2,
        window_ratios: list[float] | tuple[float, ...] = (0.5, 1.0, 2.0),
        window_step: float = 0.25,
        crop: int = 64,
        context: int = 4,
        head: Literal["own", "average"] = "own",
        box_regression: bool = True,
        box_batch: int = 64,
        chunk: int = 256,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.3,
        detections_per_img: int = 100,
    ):
        need_positive(crop=crop, box_batch=box_batch, chunk=chunk, detections_per_img=detections_per_img)
        super().__init__()
        if not 0 <= 2 * context < crop:
            raise ValueError(f"model.context={context}: from 0 to less than half of model.crop={crop}")
        if head not in ("own", "average"):
            raise ValueError(f"model.head={head}: own or average")
        any_backbone: Any = backbone
        self.own = head == "own" and hasattr(backbone, "embed")
        self.backbone = any_backbone if self.own else dense(backbone)
        self.crop, self.context, self.chunk = crop, context, chunk
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
        self.box_head = Regions(
            channels=any_backbone.embedding if self.own else backbone.channels[-1],
            num_classes=num_classes,
            moved=box_regression,
            batch=box_batch,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
        )

    def see(self, images: Tensor, proposals: list[Tensor] | None = None) -> Seen:
        """There are no maps yet: what the network sees are the proposals."""
        size = (images.shape[-2], images.shape[-1])
        return Seen(images, [], size, self.proposer(proposals, size, images))

    def losses(self, seen: Seen, targets: list[Target]) -> dict[str, Tensor]:
        samples = self.box_head.sample(proposed(seen), targets)
        logits, deltas = self.classify(crops(seen.images, samples.boxes, self.crop, self.context))
        return self.box_head.compare(logits, deltas, samples)

    def detections(self, seen: Seen) -> list[Target]:
        parts = []
        for i, boxes in enumerate(proposed(seen)):
            for some in boxes.split(self.chunk):
                parts.append(self.classify(crops(seen.images[i : i + 1], [some], self.crop, self.context)))
        logits, deltas = (torch.cat(of_all) for of_all in zip(*parts, strict=True))
        return self.box_head.decide(logits, deltas, proposed(seen), seen.size)

    def classify(self, cut: Tensor) -> tuple[Tensor, Tensor]:
        """Crops [N, C, side, side] -> logits and deltas, see Regions."""
        cut = pad_to_multiple(cut, max(self.backbone.strides))
        features = self.backbone.embed(cut) if self.own else global_average(self.backbone(cut)[-1])
        return self.box_head.classify(features)

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What is computed for an image with the full number of proposals: for counting."""
        if self.search is None:
            size = (images.shape[-2], images.shape[-1])
            count = sum(map(len, self.proposer(None, size, torch.zeros(len(images), 0))))
        else:
            count = len(images) * (self.proposer.most or 2000)
        return self.classify(images.new_zeros(count, images.shape[1], self.crop, self.crop))
