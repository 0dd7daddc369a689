"""Region proposal network (Ren et al. 2015, https://arxiv.org/abs/1506.01497, section 3.1): torchvision's, in steps."""

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from paribus.models.detection.detector import Target
from paribus.models.detection.fpn import Anchors


class ProposalNetwork(RegionProposalNetwork):
    """maps -> for every anchor "objectness" [B, A, 1], a logit, and "deltas" [B, A, 4]; of these, proposals and losses.

    torchvision's has its losses in training only, and no way to reach them otherwise.

    channels: of the maps.
    proposals, candidates: of an image, after suppression and before it of each level.
    batch: anchors of an image that the losses sample, at most half of them on objects.
    """

    def __init__(self, *, anchors: Anchors, channels: int, proposals: int, candidates: int, batch: int):
        super().__init__(
            anchors,
            RPNHead(channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=batch,
            positive_fraction=0.5,
            pre_nms_top_n={"training": candidates, "testing": candidates},
            post_nms_top_n={"training": proposals, "testing": proposals},
            nms_thresh=0.7,
        )

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        objectness, deltas = concat_box_prediction_layers(*self.head(maps))
        # float32, because boxes are decoded in the type of the deltas.
        return {
            "objectness": objectness.view(len(maps[0]), -1, 1).float(),
            "deltas": deltas.view(len(maps[0]), -1, 4).float(),
        }

    @torch.no_grad()
    def proposals(self, outputs: dict[str, Tensor], images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        """Of each image boxes [N, 4], best first. No gradient goes through them."""
        boxes = self.box_coder.decode(outputs["deltas"].flatten(0, 1), self.anchor_generator(images, maps))
        per_cell = self.anchor_generator.num_anchors_per_location()
        counts = [m.shape[-2] * m.shape[-1] * n for m, n in zip(maps, per_cell, strict=True)]
        boxes = boxes.view(len(outputs["deltas"]), -1, 4)
        found, _ = self.filter_proposals(boxes, outputs["objectness"], images.image_sizes, counts)
        return found

    def losses(
        self, outputs: dict[str, Tensor], images: ImageList, maps: list[Tensor], targets: list[Target]
    ) -> dict[str, Tensor]:
        anchors = self.anchor_generator(images, maps)
        labels, held = self.assign_targets_to_anchors(anchors, targets)
        objectness, box = self.compute_loss(
            outputs["objectness"],
            outputs["deltas"].flatten(0, 1),
            labels,
            self.box_coder.encode(held, anchors),
        )
        return {"proposal_objectness": objectness, "proposal_box": box}
