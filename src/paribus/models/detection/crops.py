"""Boxes cut out of images and warped to one size (Girshick et al. 2014, Rich feature hierarchies, appendix A)."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align


def crops(images: Tensor, boxes: list[Tensor], side: int, context: int) -> Tensor:
    """images [B, C, H, W], and of each boxes [N, 4] in its pixels -> [sum of N, C, side, side], float32.

    Each box is stretched to the side less twice the `context`, with so many pixels of what is around it; beyond the
    image are zeros, the mean of normalized images. torchvision's RoI align is the warp: every pixel is the mean of
    bilinear samples, as many as it takes that none of the image's pixels is passed over.
    """
    rois = torch.cat([F.pad(b, (1, 0), value=float(i)) for i, b in enumerate(boxes)])
    grown = context / (side - 2 * context) * (rois[:, 3:] - rois[:, 1:3])
    rois = torch.cat([rois[:, :1], rois[:, 1:3] - grown, rois[:, 3:] + grown], dim=1)
    return roi_align(images.float(), rois, side, 1.0, sampling_ratio=-1, aligned=True)
