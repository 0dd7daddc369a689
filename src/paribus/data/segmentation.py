"""Reader of semantic segmentation sets: an image and a mask of class numbers or colours for each."""

import glob
import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from paribus.data.files import (
    SUFFIXES,
    FileSplit,
    SampleError,
    existing_root,
    read_image,
    read_list,
    read_mask,
    wh,
)
from paribus.data.samples import IGNORE, DataError, Sample
from paribus.data.splits import Splits

_WRONG = 254  # what the tables below give for a value that is no class


class _Item(NamedTuple):
    image: str  # relative to the root
    mask: str


class MaskFolders:
    """Images and masks found by two patterns below the root.

    In both, ``{split}`` stands for the split's own name, and what a ``*`` matches in `images` fills the
    ``*`` at the same place in `masks`:

    ==========  ==========================================  ===============================================
    layout      images                                      masks
    ==========  ==========================================  ===============================================
    CamVid      ``{split}/*.png``                           ``{split}annot/*.png``
    Cityscapes  ``leftImg8bit/{split}/*/*_leftImg8bit.png`` ``gtFine/{split}/*/*_gtFine_labelIds.png``
    Pascal VOC  ``JPEGImages/*.jpg``                        ``SegmentationClass/*.png``, with `lists`
    any suffix  ``images/{split}/*.*``                      ``masks/{split}/*.png``
    ==========  ==========================================  ===============================================

    A mask holds class numbers (8 or 16 bits, palette indices, 1 to 4 bits) or, where `palette` is given,
    may hold colours. 255 is ignored. An image is turned by its EXIF orientation unless its mask has the
    size of the unturned one. The target is uint8 ``[H, W]``.

    lists: pattern of text files that name a split's images, one a line, as a path below the root, a
    file name, or what fills the stars, without spaces; a second word on the line (the mask's path in
    some sets) is not read. Without it every file that matches `images` is a sample.
    classes: at most 254 names; the position is the label. palette: their colours.
    ignore: numbers in the files that become 255. label_map: number in the files -> label; a number that
    is neither here nor in `ignore` is an error (default: the numbers are the labels).
    splits, split, split_seed: see `paribus.data.splits.Splits`.

    Raises:
        DataError: root, folder or list is missing, a split is empty.
    """

    target: str = "mask"

    def __init__(
        self,
        *,
        root: str,
        images: str,
        masks: str,
        classes: list[str],
        lists: str | None = None,
        palette: list[tuple[int, int, int]] | None = None,
        ignore: list[int] | None = None,
        label_map: dict[int, int] | None = None,
        splits: dict[str, str] | None = None,
        split: dict[str, float] | None = None,
        split_seed: int = 0,
    ):
        self.root = existing_root(root)
        self.images, self.masks, self.lists = images, masks, lists
        self.classes = tuple(classes)
        self.palette = [(int(r), int(g), int(b)) for r, g, b in palette] if palette else None
        if "{split}" not in images + (lists or ""):
            splits = splits or {"train": ""}
        if "**" in images or masks.count("*") > images.count("*"):
            raise ValueError(
                f"data.reader.masks={masks!r} must have no more `*` than data.reader.images={images!r}, and "
                "`**` is not known: a `*` matches one folder or a part of a name."
            )
        if not 0 < len(self.classes) <= _WRONG:
            raise ValueError(
                f"data.reader.classes has {len(self.classes)} names; 1 to {_WRONG} fit into a mask."
            )
        if self.palette and len(self.palette) != len(self.classes):
            raise ValueError(
                f"data.reader.palette has {len(self.palette)} colours for {len(self.classes)} classes; "
                "give one each."
            )
        self.splits = Splits(splits, split, split_seed)
        self.label_map, self.ignore = dict(label_map or {}), list(ignore or [])
        self._table = self._labels()
        # Most two-class masks in the world are black and white, 0 and 255.
        self._guards_255 = len(self.classes) == 2 and not label_map and IGNORE not in self.ignore

    def split(self, name: str) -> FileSplit:
        items = self.splits.items(name, self._items, key=lambda item: item.image)
        shared = []
        if self.lists:
            shared = [self.root / self.lists.replace("{split}", self.splits.source(name))]
        return FileSplit(root=self.root, items=items, read=self._read, sources=self._sources, shared=shared)

    def _items(self, split: str) -> list[_Item]:
        images, masks = (pattern.replace("{split}", split) for pattern in (self.images, self.masks))
        if self.lists:
            path = self.root / self.lists.replace("{split}", split)
            lines = read_list(path)
            found = [_stars(images, line.split()[0]) for line in lines]
            unfit = [line for line, stars in zip(lines, found, strict=True) if stars is None]
            if unfit:
                raise DataError(
                    f"{path}: {len(unfit)} line(s) do not name an image of `data.reader.images` ({images}), "
                    f"the first is {unfit[0]!r}: write file names, or correct the pattern."
                )
        else:
            folder = self.root / images.split("*")[0].rpartition("/")[0]
            if not folder.is_dir():
                raise DataError(
                    f"The folder {folder.absolute()} does not exist: make it, correct `data.reader.images`, "
                    f"or say where {split!r} comes from with `data.reader.splits` or `data.reader.split`."
                )
            paths = self.root.glob("*".join(glob.escape(part) for part in images.split("*")))
            names = sorted(
                path.relative_to(self.root).as_posix()
                for path in paths
                if path.name[0] != "." and path.suffix.lower() in SUFFIXES
            )
            found = [_stars(images, name) for name in names]
        return [_Item(_fill(images, stars), _fill(masks, stars)) for stars in found if stars is not None]

    def _read(self, item: _Item) -> Sample:
        raw = read_mask(self.root / item.mask)
        image = read_image(self.root / item.image, annotated=raw.shape[:2])
        if image.shape[:2] != raw.shape[:2]:
            raise SampleError(
                self.root / item.mask,
                f"mask is {wh(raw.shape)}, its image {item.image} {wh(image.shape)} (width x height)",
                "make each mask as large as its image, or correct the patterns that pair them",
            )
        return Sample(image, self._target(raw, item), item.image)

    def _sources(self, item: _Item) -> list[Path]:
        return [self.root / item.image, self.root / item.mask]

    def _target(self, raw: np.ndarray, item: _Item) -> np.ndarray:
        if raw.ndim == 3:
            return self._of_colours(raw, item)
        if raw.dtype == np.uint8:
            mask = cv2.LUT(raw, self._table[:256])  # 10 times as fast as indexing
        else:
            mask = self._table[np.where((raw < 0) | (raw > 65535), 65535, raw)]
        if (mask == _WRONG).any():
            values = np.unique(raw[mask == _WRONG]).tolist()
            raise SampleError(
                self.root / item.mask,
                f"holds the value(s) {_some(values)}, which are no label of the {len(self.classes)} classes",
                "list values without a class in `data.reader.ignore`, or number them in "
                "`data.reader.label_map`",
            )
        if self._guards_255 and (raw == IGNORE).any() and not (raw == 1).any():
            raise SampleError(
                self.root / item.mask,
                "holds 0 and 255 and no 1, while 255 is ignored: half of a two-class set would be lost",
                "set `data.reader.label_map={0: 0, 255: 1}`, or `data.reader.ignore=[255]` if that is meant",
            )
        return mask

    def _of_colours(self, raw: np.ndarray, item: _Item) -> np.ndarray:
        fix = "give each class its colour in `data.reader.palette`"
        if not self.palette:
            raise SampleError(self.root / item.mask, "holds colours, not class numbers", fix)
        mask = np.full(raw.shape[:2], _WRONG, np.uint8)
        codes = _code(raw)
        for label, colour in enumerate(self.palette):
            mask[codes == _code(np.array(colour))] = label
        if (mask == _WRONG).any():
            colours = np.unique(raw[mask == _WRONG], axis=0).tolist()
            raise SampleError(self.root / item.mask, f"holds the colour(s) {_some(colours)} of no class", fix)
        return mask

    def _labels(self) -> np.ndarray:
        """Label by stored value, uint8 ``[65536]``."""
        table = np.full(65536, _WRONG, np.uint8)
        table[IGNORE] = IGNORE
        pairs = self.label_map or {label: label for label in range(len(self.classes))}
        for value, label in [*pairs.items(), *((value, IGNORE) for value in self.ignore)]:
            if not 0 <= int(value) < 65535:
                raise ValueError(
                    f"data.reader: a mask cannot hold {value}; `label_map` and `ignore` take 0 to 65534."
                )
            if label != IGNORE and not 0 <= int(label) < len(self.classes):
                raise ValueError(
                    f"data.reader.label_map: {value} -> {label}, but the labels of "
                    f"{len(self.classes)} classes are 0 to {len(self.classes) - 1}."
                )
            table[int(value)] = label
        return table


def _stars(pattern: str, name: str) -> tuple[str, ...] | None:
    """What the stars of the pattern stand for, from a path, a file name, or the stars themselves."""
    stars = pattern.count("*")
    last = pattern.rpartition("/")[2]
    for form, text in ((pattern, name.removeprefix("./")), (last, name.rpartition("/")[2])):
        if form.count("*") == stars:
            match = re.fullmatch("([^/]*)".join(map(re.escape, form.split("*"))), text)
            if match:
                return match.groups()
    parts = tuple(name.split("/"))
    return parts if len(parts) == stars else None


def _fill(pattern: str, stars: tuple[str, ...]) -> str:
    parts = pattern.split("*")
    return parts[0] + "".join(star + part for star, part in zip(stars, parts[1:], strict=False))


def _code(colours: np.ndarray) -> np.ndarray:
    """One number for each colour, ``[..., 3] -> [...]``."""
    return colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def _some(values: list, shown: int = 10) -> str:
    return ", ".join(map(str, values[:shown])) + (
        f" and {len(values) - shown} more" if len(values) > shown else ""
    )
