"""What all detectors share: how images become maps, and maps become losses or detections."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paribus.models.layers import pad_to_multiple

Target = dict[
    str, Tensor
]  # boxes float [N, 4] xyxy pixels, labels int64 [N] from 0; some have masks [N, H, W]


class Seen(NamedTuple):
    """What a detector has computed of a batch before it compares or decides.

    images: [B, C, H', W'], padded to what the backbone needs. maps: of them, fine to coarse.
    size: (H, W) before the padding; boxes are cut at it.
    proposals: of each image boxes [N, 4] that may hold an object, best first, given or found; None without any.
    outputs: what the heads say of every cell, [B, ...] by name, where losses and detections share it.
    """

    images: Tensor
    maps: list[Tensor]
    size: tuple[int, int]
    proposals: list[Tensor] | None = None
    outputs: Mapping[str, Tensor] = {}

    def one(self, i: int) -> "Seen":
        """Of one image of the batch."""
        chosen = None if self.proposals is None else self.proposals[i : i + 1]
        outputs = {name: output[i : i + 1] for name, output in self.outputs.items()}
        return Seen(self.images[i : i + 1], [m[i : i + 1] for m in self.maps], self.size, chosen, outputs)


class Detector(nn.Module, ABC):
    """images [B, C, H, W], normalized -> in training, with targets, the losses by name; in evaluation for each image
    {"boxes" float [N, 4] xyxy in its pixels, "scores" float [N], "labels" int64 [N] from 0}, best first.

    The names of the losses are the same in all: "classification" and "box" of what is found, "objectness" or
    "centerness" of a cell, "mask"; of the stage before "proposal_objectness" and "proposal_box".

    A subclass has `backbone` and says three things.
    """

    backbone: Any  # see backbones
    pyramid: Any  # see fpn.py; none of those that see no maps, or the backbone's coarsest alone
    # How the data searches images for proposals, in the keywords of selective_search; None: it does not.
    search: dict[str, Any] | None = None

    def maps(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The images, padded to what the coarsest stride divides, and the maps of `pyramid`, of those that have one."""
        images = pad_to_multiple(images, max(self.backbone.strides))
        return images, self.pyramid(self.backbone(images))

    @abstractmethod
    def see(self, images: Tensor, proposals: list[Tensor] | None = None) -> Seen:
        """Images to maps."""

    @abstractmethod
    def losses(self, seen: Seen, targets: list[Target]) -> dict[str, Tensor]:
        """Compared with the truth; finite, with a gradient, for images without objects too."""

    @abstractmethod
    def detections(self, seen: Seen) -> list[Target]:
        """Decided."""

    def forward(
        self,
        images: Tensor,
        targets: list[Target] | None = None,
        proposals: list[Tensor] | None = None,
    ) -> dict[str, Tensor] | list[Target]:
        seen = self.see(images, proposals)
        if not self.training:
            return self.detections(seen)
        assert targets is not None, "a detector learns from boxes"
        return self.losses(seen, targets)

    def judged(
        self, images: Tensor, targets: list[Target], proposals: list[Tensor] | None = None
    ) -> tuple[list[Target], list[dict[str, Tensor]]]:
        """In evaluation what is found in each image, and each image's losses. Image by image, and with the same draws
        for each, so that no number depends on the batch that an image came in. Beside what is found are the
        "proposals" [P, 4], where there are some.
        """
        seen = self.see(images, proposals)
        found = self.detections(seen)
        if seen.proposals is not None:
            found = [one | {"proposals": p} for one, p in zip(found, seen.proposals, strict=True)]
        losses = []
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            for i in range(len(images)):
                torch.manual_seed(0)
                losses.append(self.losses(seen.one(i), targets[i : i + 1]))
        return found, losses


def need_positive(**numbers: int) -> None:
    """Raises ValueError for a key of a detector that is less than 1."""
    for key, number in numbers.items():
        if number < 1:
            raise ValueError(f"model.{key}={number}: 1 or more")
