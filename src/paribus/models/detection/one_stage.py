"""What torchvision's one-stage detectors share: a head on every map of a pyramid, a box for every anchor."""

from typing import Any

from torch import Tensor

from paribus.models.backbones import Backbone
from paribus.models.detection.detector import Detector, Seen, Target
from paribus.models.detection.fpn import image_list, trimmed


class OneStage(Detector):
    """A detector, see Detector, that is also torchvision's: of that it takes head, anchors and selection, and leaves
    out the resizing and normalizing of images. Matching and losses have torchvision's values, and wait for nothing:
    see anchor_matching.py.
    """

    # torchvision's, which mypy does not see.
    transform: Any
    head: Any
    anchor_generator: Any
    proposal_matcher: Any
    box_coder: Any
    postprocess_detections: Any

    def keep(self, backbone: Backbone, pyramid: Any) -> None:
        """In place of what torchvision has: no resizing, the pyramid by itself, and of the backbone what it takes."""
        del self.transform
        self.backbone = trimmed(backbone, max(pyramid.indices))
        self.pyramid = pyramid

    def raw(self, images: Tensor) -> dict[str, Tensor]:
        """What is computed for every image alike, before boxes are selected: for counting operations."""
        return self.head(self.maps(images)[1])

    def see(self, images: Tensor, proposals: list[Tensor] | None = None) -> Seen:
        height, width = images.shape[-2:]
        images, maps = self.maps(images)
        # float32, because boxes are decoded in the type of the deltas.
        outputs = {name: output.float() for name, output in self.head(maps).items()}
        return Seen(images, maps, (height, width), outputs=outputs)

    def anchors(self, seen: Seen) -> list[Tensor]:
        """Of each image [A, 4], in the order of the outputs."""
        one = self.anchor_generator(image_list(seen.images[:1], *seen.size), seen.maps)
        return one * len(seen.images)

    def limits(self) -> tuple[float, float]:
        """The IoU under which an anchor learns background, and that from which it learns an object."""
        return self.proposal_matcher.low_threshold, self.proposal_matcher.high_threshold

    def by_level(
        self, seen: Seen
    ) -> tuple[dict[str, list[Tensor]], list[list[Tensor]], list[tuple[int, int]]]:
        """Outputs, anchors and sizes as torchvision's selection takes them."""
        per_cell = self.anchor_generator.num_anchors_per_location()
        counts = [m.shape[-2] * m.shape[-1] * n for m, n in zip(seen.maps, per_cell, strict=True)]
        outputs = {name: list(output.split(counts, dim=1)) for name, output in seen.outputs.items()}
        anchors = [list(a.split(counts)) for a in self.anchors(seen)]
        return outputs, anchors, [seen.size] * len(seen.images)

    def detections(self, seen: Seen) -> list[Target]:
        return without_padding(seen, self.postprocess_detections(*self.by_level(seen)))


def without_padding(seen: Seen, found: list[Target]) -> list[Target]:
    """Without the boxes that lay in the padding, of which the cut at the image's border left nothing."""
    if seen.images.shape[-2:] == seen.size:
        return found
    kept = [(f["boxes"][:, 2:] > f["boxes"][:, :2]).all(1) for f in found]
    return [{key: value[k] for key, value in f.items()} for f, k in zip(found, kept, strict=True)]
