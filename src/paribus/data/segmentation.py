"""Reader of semantic segmentation sets: an image and a mask of class numbers or colours for each."""

import logging
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from paribus.data.download import fetch
from paribus.data.files import (
    FileSplit,
    SampleError,
    existing_root,
    read_image,
    read_mask,
    wh,
)
from paribus.data.patterns import Stars, fill, folder, listed, present
from paribus.data.samples import IGNORE, DataError, Sample
from paribus.data.sbd import read_sbd_mask
from paribus.data.splits import Splits

log = logging.getLogger(__name__)

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

    A mask holds class numbers (8 or 16 bits, palette indices, 1 to 4 bits, or SBD's ``.mat``) or, where
    `palette` is given, may hold colours. 255 is ignored. An image is turned by its EXIF orientation unless
    its mask has the size of the unturned one. The target is uint8 ``[H, W]``.

    masks: several patterns give an image the first mask that is there.
    lists: pattern of text files that name a split's images, one a line, as a path below the root, a
    file name, or what fills the stars, without spaces; a second word on the line (the mask's path in
    some sets) is not read. Without it every file that matches `images` is a sample.
    extra: lists of more images for train; those that val or test holds are left out.
    classes: at most 254 names; the position is the label. palette: their colours.
    ignore: numbers in the files that become 255. label_map: number in the files -> label; a number that
    is neither here nor in `ignore` is an error (default: the numbers are the labels, counted from
    `first_label`).
    splits, split, split_seed: see `paribus.data.splits.Splits`.
    source: where the set is to be had and what of it goes where, said when it is not there.
    download: fetch what is not there of `archives`, see `paribus.data.download.fetch`.

    Raises:
        DataError: root, folder or list is missing, a split is empty.
    """

    target: str = "mask"

    def __init__(
        self,
        *,
        root: str,
        images: str,
        masks: str | list[str],
        classes: list[str],
        lists: str | None = None,
        extra: list[str] | None = None,
        palette: list[tuple[int, int, int]] | None = None,
        ignore: list[int] | None = None,
        label_map: dict[int, int] | None = None,
        first_label: int = 0,
        splits: dict[str, str] | None = None,
        split: dict[str, float] | None = None,
        split_seed: int = 0,
        source: str | None = None,
        archives: dict[str, tuple[str, str]] | None = None,
        download: bool = False,
    ):
        self.images, self.lists, self.extra = images, lists, list(extra or [])
        self.masks = [masks] if isinstance(masks, str) else list(masks)
        self.classes = tuple(classes)
        self.palette = [(int(r), int(g), int(b)) for r, g, b in palette] if palette else None
        if "{split}" not in images + (lists or ""):
            splits = splits or {"train": ""}
        if "**" in images or max(mask.count("*") for mask in self.masks) > images.count("*"):
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
        self.first_label = first_label
        if label_map and first_label:
            raise ValueError(
                f"data.reader.first_label={first_label}: `label_map` numbers the classes; remove one."
            )
        self._table = self._labels()
        # Most two-class masks in the world are black and white, 0 and 255.
        self._guards_255 = (
            len(self.classes) == 2 and not label_map and not first_label and IGNORE not in self.ignore
        )
        self._source = source or ""
        if download and not archives:
            raise ValueError(
                f"data.reader.download=true: no `archives` say what to fetch. {self._source}".strip()
            )
        if download:
            fetch(Path(root).expanduser(), archives or {})
        try:
            self.root = existing_root(root)
        except DataError as error:
            raise DataError(f"{error}\n{self._expected(root)}") from None

    def split(self, name: str) -> FileSplit:
        items = self.splits.items(name, self._items, key=lambda item: item.image)
        part = self.splits.source(name)
        lists = [self.lists.replace("{split}", part)] if self.lists else []
        shared = [self.root / path for path in (*lists, *self._extra(part))]
        return FileSplit(root=self.root, items=items, read=self._read, sources=self._sources, shared=shared)

    def _items(self, part: str) -> list[_Item]:
        """The samples of one of the set's own parts."""
        images, *masks = (pattern.replace("{split}", part) for pattern in (self.images, *self.masks))
        for key, pattern in (("images", images), *(("masks", mask) for mask in masks)):
            path = self.root / folder(pattern)
            if not path.is_dir():
                raise DataError(
                    f"The folder {path.absolute()} does not exist: make it, correct `data.reader.{key}`, or "
                    f"say where {part!r} comes from with `data.reader.splits` or `data.reader.split`.\n"
                    f"{self._expected(self.root)}"
                )
        found = self._found(part)
        if extra := self._extra(part):
            more = dict.fromkeys(stars for path in extra for stars in listed(self.root / path, images))
            others = set(self.splits.names.values()) - {part}
            judged = {stars for other in others for stars in self._found(other)}
            log.info(
                "%s: %d images, of which %d are left out, as val or test holds them",
                *(" ".join(extra), len(more), len(judged & more.keys())),
            )
            known = judged.union(found)
            found += [stars for stars in more if stars not in known]
        return [_Item(fill(images, stars), self._mask(masks, stars)) for stars in found]

    def _found(self, part: str) -> list[Stars]:
        images = self.images.replace("{split}", part)
        if self.lists:
            return listed(self.root / self.lists.replace("{split}", part), images)
        return present(self.root, images)

    def _extra(self, part: str) -> list[str]:
        return self.extra if part == self.splits.names.get("train") else []

    def _mask(self, patterns: list[str], stars: Stars) -> str:
        names = [fill(pattern, stars) for pattern in patterns]
        if len(names) == 1:  # a look at every file takes seconds on some disks
            return names[0]
        return next((name for name in names if (self.root / name).is_file()), names[0])

    def _expected(self, root: Path | str) -> str:
        """What should lie below the root."""
        parts = ",".join(dict.fromkeys(self.splits.names.values()))
        parts = f"{{{parts}}}" if "," in parts else parts
        patterns = [self.images, *self.masks, *([self.lists] if self.lists else []), *self.extra]
        tree = "".join("\n  " + pattern.replace("{split}", parts) for pattern in patterns)
        return f"Expected in {Path(root).expanduser().absolute()}:{tree}\n{self._source}".rstrip()

    def _read(self, item: _Item) -> Sample:
        raw = (read_sbd_mask if item.mask.endswith(".mat") else read_mask)(self.root / item.mask)
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
        pairs = self.label_map or {self.first_label + label: label for label in range(len(self.classes))}
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


def _code(colours: np.ndarray) -> np.ndarray:
    """One number for each colour, ``[..., 3] -> [...]``."""
    return colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def _some(values: list, shown: int = 10) -> str:
    return ", ".join(map(str, values[:shown])) + (
        f" and {len(values) - shown} more" if len(values) > shown else ""
    )
