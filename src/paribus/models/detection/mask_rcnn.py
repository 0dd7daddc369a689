"""Mask R-CNN (He et al. 2017, https://arxiv.org/abs/1703.06870): Faster R-CNN with a mask for every box."""

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import maskrcnn_inference, maskrcnn_loss, paste_masks_in_image

from paribus.models.detection.box_head import RegionPool
from paribus.models.detection.detector import Seen, Target, need_positive
from paribus.models.detection.faster_rcnn import FasterRCNN, proposed
from paribus.models.detection.fpn import image_list


class MaskRCNN(FasterRCNN):
    """A detector, see Detector; losses those of FasterRCNN and "mask"; detections further have "masks" bool [N, H, W],
    of the image's size.

    Learns from targets with "masks" [N, H, W], 1 where the object is. Otherwise as FasterRCNN; torchvision's
    maskrcnn_resnet50_fpn with the same keys.

    mask_channels: of the mask head's four convolutions. Its boxes are aligned, whatever `roi` is.
    """

    def __init__(self, *, num_classes: int, mask_channels: int = 256, **keys: Any):
        need_positive(mask_channels=mask_channels)
        super().__init__(num_classes=num_classes, **keys)
        self.mask_pool = RegionPool(strides=self.pyramid.own, resolution=14)
        self.mask_head = MaskRCNNHeads(self.pyramid.out_channels, (mask_channels,) * 4, 1)
        self.mask_predictor = MaskRCNNPredictor(mask_channels, mask_channels, num_classes + 1)

    def losses(self, seen: Seen, targets: list[Target]) -> dict[str, Tensor]:
        if not all("masks" in target for target in targets):
            raise ValueError("Mask R-CNN learns from masks, and the data has none: `data.reader.masks=true`")
        maps = self.pooled_maps(seen)
        first = self.rpn.losses(dict(seen.outputs), image_list(seen.images, *seen.size), seen.maps, targets)
        samples = self.box_head.sample(proposed(seen), targets)
        second = self.box_head.losses(maps, samples)
        held = [labels > 0 for labels in samples.labels]
        boxes = [b[h] for b, h in zip(samples.boxes, held, strict=True)]
        mask = maskrcnn_loss(
            self._masks(maps, boxes),
            boxes,
            [target["masks"] for target in targets],
            [target["labels"] + 1 for target in targets],
            [o[h] for o, h in zip(samples.objects, held, strict=True)],
        )
        return first | second | {"mask": mask}

    def detections(self, seen: Seen) -> list[Target]:
        found = super().detections(seen)
        boxes = [f["boxes"] for f in found]
        logits = self._masks(self.pooled_maps(seen), boxes)
        shares = maskrcnn_inference(logits, [f["labels"] + 1 for f in found])
        for f, share in zip(found, shares, strict=True):
            f["masks"] = paste_masks_in_image(share, f["boxes"], seen.size)[:, 0] >= 0.5
        return found

    def _masks(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Logits [sum of N, classes + 1, 28, 28] of the cells of boxes."""
        return self.mask_predictor(self.mask_head(self.mask_pool(maps, boxes))).float()

    def raw(self, images: Tensor) -> tuple[Any, ...]:
        """As FasterRCNN's, and the masks of the full number of detections."""
        channels, count = self.pyramid.out_channels, len(images) * self.box_head.detections_per_img
        pooled = torch.zeros(count, channels, 14, 14, device=images.device)
        return *super().raw(images), self.mask_predictor(self.mask_head(pooled))
