"""The annotated objects of one image, and how they become a sample. What the detection readers share."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from paribus.data.files import FileSplit, SampleError, read_image, wh
from paribus.data.samples import Sample
from paribus.data.splits import Splits

FIX_BOX = (
    "correct the boxes, or set `data.reader.clip_boxes=true`: clips them, leaves out those without an area"
)


class Objects(NamedTuple):
    """The annotation of one image, as parsed, before its image is seen."""

    image: str  # relative to the root, as is source
    source: str
    size: tuple[int, int] | None  # (H, W) that the annotation claims
    names: list[str]  # of the classes
    ids: list[int | str]  # of the objects, for messages
    boxes: (
        np.ndarray
    )  # float64 [N, 4], x1 y1 x2 y2 as in the file: what is rounded before 1 is taken off stays so
    more: dict[str, np.ndarray]  # iscrowd int64 [N], area float32 [N]
    segments: list[Any] | None = None  # polygons or run lengths
    first_pixel: int = 0  # 1: x1 and y1 count pixels from 1
    relative: bool = False  # boxes are shares of the image's width and height
    difficult: tuple[bool, ...] = ()  # VOC's mark of each object; empty where a format has none
    broken: tuple[str, str] | None = None  # what is wrong with the annotation itself, and the fix


class ReadObjects:
    """Makes a sample of `Objects`: decodes the image, checks the boxes against it."""

    def __init__(self, root: Path, classes: Iterable[str], unknown: str, clip: bool):
        self.root, self.clip, self.unknown = root, clip, unknown
        self.labels = {name: label for label, name in enumerate(classes)}

    def image(self, item: Objects) -> np.ndarray:
        """The image, uint8 RGB ``[H, W, 3]``, if the annotation is whole, its size and its classes right."""
        source = self.root / item.source
        if item.broken:
            raise SampleError(source, *item.broken)
        image = read_image(self.root / item.image, annotated=item.size)
        if item.size is not None and item.size != image.shape[:2]:
            raise SampleError(
                source,
                f"is made for {wh(item.size)}, its image {item.image} is {wh(image.shape)} (width x height)",
                "annotate the image that is there, or put back the one that was annotated",
            )
        strange = sorted({name for name in item.names if name not in self.labels})
        if strange and self.unknown == "stop":
            raise SampleError(
                source,
                f"{item.image} has objects of the unknown class(es) {strange}",
                "add them to `data.reader.classes`, correct the names, or set `data.reader.unknown=drop`",
            )
        return image

    def __call__(self, item: Objects) -> Sample:
        image = self.image(item)
        height, width = image.shape[:2]
        known = np.array([name in self.labels for name in item.names], bool)
        limit = np.array([width, height, width, height], np.float64)
        stored = item.boxes * limit if item.relative else item.boxes
        ordered = (stored[:, 2:] > stored[:, :2]).all(1)
        boxes = stored - [item.first_pixel, item.first_pixel, 0, 0]
        # Up to one pixel outside is rounding, and clipped without a word.
        inside = ((boxes >= -1) & (boxes <= limit + 1)).all(1)
        boxes = np.clip(boxes, 0, limit).astype(np.float32)
        full = ordered & (boxes[:, 2:] > boxes[:, :2]).all(1)
        wrong = np.flatnonzero(known & ~(inside & full))
        if len(wrong) and not self.clip:
            said = self._say(item, stored, wrong, ordered, (height, width))
            raise SampleError(self.root / item.source, said, FIX_BOX)
        kept = np.flatnonzero(known & full)
        target = {
            "boxes": boxes[kept],
            "labels": np.array([self.labels[item.names[i]] for i in kept], np.int64),
            **{key: values[kept] for key, values in item.more.items()},
        }
        if item.segments is not None:
            target["masks"] = self._masks(item, kept, (height, width))
        return Sample(image, target, item.image)

    def sources(self, item: Objects) -> list[Path]:
        return [self.root / item.image, self.root / item.source]

    def _say(
        self, item: Objects, stored: np.ndarray, wrong: np.ndarray, ordered: Any, size: tuple[int, int]
    ) -> str:
        said = []
        for i in wrong[:3]:
            x1, y1, x2, y2 = stored[i].tolist()
            how = f"lies outside the image ({wh(size)})" if ordered[i] else "has no area or is inverted"
            said.append(
                f"object {item.ids[i]} ({item.names[i]}) x {x1:g} to {x2:g}, y {y1:g} to {y2:g} {how}"
            )
        return "; ".join(said) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")

    def _masks(self, item: Objects, kept: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        from faster_coco_eval.core import mask as coco_masks

        assert item.segments is not None
        masks = np.zeros((len(kept), *size), np.uint8)
        for mask, i in zip(masks, kept, strict=True):
            try:
                rle = coco_masks.segmToRle(item.segments[i], size[1], size[0])
                mask[:] = coco_masks.decode(rle)
            except Exception as error:  # the C++ code raises whatever it stumbles on
                raise SampleError(
                    self.root / item.source,
                    f"the mask of object {item.ids[i]} in {item.image} cannot be decoded ({error})",
                    "write a polygon or a run-length encoding of the image's size",
                ) from error
        return masks


class ObjectReader(Protocol):
    """What the readers of boxes in files have in common."""

    root: Path
    classes: tuple[str, ...]
    unknown: Literal["stop", "drop"]
    keep_empty: bool
    clip_boxes: bool
    splits: Splits


def object_split(
    reader: ObjectReader,
    name: str,
    objects: Callable[[str], list[Objects]],
    shared: Iterable[Path] = (),
) -> FileSplit:
    """One of our splits; `objects` gives the annotations of one of the set's own."""

    def listing(split: str) -> list[Objects]:
        known = set(reader.classes)
        return [i for i in objects(split) if reader.keep_empty or i.broken or not known.isdisjoint(i.names)]

    items = reader.splits.items(name, listing, key=lambda item: item.image)
    read = ReadObjects(reader.root, reader.classes, reader.unknown, reader.clip_boxes)
    return FileSplit(root=reader.root, items=items, read=read, sources=read.sources, shared=shared)
