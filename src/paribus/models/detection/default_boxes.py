"""The boxes that SSD starts from (Liu et al. 2016, https://arxiv.org/abs/1512.02325, section 2.2)."""

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList


class DefaultBoxes(DefaultBoxGenerator):
    """In every cell of each map squares of two sizes, and each of the ratios and its inverse at the first size; at most
    as large as the image. Sizes are shares of its shorter side.

    torchvision's stretches them with the image, which it resizes to a square; these keep their ratios in any.

    maps: how many. ratios: widths / heights, of all maps or a list for each.
    min_scale, max_scale: of the finest and the coarsest map, those between in equal steps (equation 4). The second
        square of a map lies between its scale and the next; after the coarsest comes the whole image.
    scales: in their place, one for each map and one more.
    """

    pairs: Tensor

    def __init__(
        self,
        *,
        maps: int,
        ratios: Any,
        min_scale: float,
        max_scale: float,
        scales: list[float] | None,
    ):
        each = list(ratios) if ratios and isinstance(ratios[0], list | tuple) else [list(ratios)] * maps
        if len(each) != maps:
            raise ValueError(
                f"model.anchor_ratios: {len(each)} lists for {maps} maps; one for each, or one for all"
            )
        if scales is not None and len(scales) != maps + 1:
            raise ValueError(f"model.scales: {len(scales)} for {maps} maps; one for each and one more")
        if not 0 < min_scale < max_scale:
            raise ValueError(f"model.min_scale={min_scale}, max_scale={max_scale}: 0 < min_scale < max_scale")
        super().__init__(each, min_ratio=min_scale, max_ratio=max_scale, scales=scales)
        self.register_buffer("pairs", torch.cat(self._wh_pairs), persistent=False)

    def forward(self, images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        height, width = images.image_sizes[0]
        sides = images.tensors.shape[-2:]
        found = []
        for pairs, m in zip(self.pairs.split(self.num_anchors_per_location()), maps, strict=True):
            size = pairs * min(height, width)
            half = torch.stack([size[:, 0].clamp(max=width), size[:, 1].clamp(max=height)], dim=1) / 2
            y, x = (
                (torch.arange(n, device=m.device) + 0.5) * (side / n)
                for n, side in zip(m.shape[-2:], sides, strict=True)
            )
            center = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
            found.append(torch.cat([center - half, center + half], dim=-1).reshape(-1, 4))
        return [torch.cat(found)] * len(images.image_sizes)
