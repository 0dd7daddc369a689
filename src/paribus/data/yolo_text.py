"""Reader of YOLO's text files: for each image one, with a line for each object (Redmon's darknet and all after it)."""

import logging
import math
from collections import UserDict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from paribus.data.files import RESTORE, SUFFIXES, FileSplit, existing_root, read_list, relative
from paribus.data.objects import Objects, object_split
from paribus.data.samples import DataError
from paribus.data.splits import Splits

log = logging.getLogger(__name__)

NAMES = (
    "data.yaml",
    "data.yml",
    "classes.txt",
    "obj.names",
    "labels/classes.txt",
)  # where classes may be listed
FIX_LINE = (
    "write `class cx cy w h`: the class's number from 0, and centre and size in shares of the image, 0 to 1"
)


class YoloText:
    """YOLO's layout: a folder of images and a folder of text files, or lists of images.

    A line of a text file is ``class cx cy w h``: the number of a class, counted from 0, and centre and size of its
    box as shares of the image's width and height, upright.

    images, labels: folders below the root, ``{split}`` being the split's own name; an image's text file has the same
    path in `labels` as the image in `images`.
    lists: pattern of the files that name the images, one a line, from the root; null: every image of the folder.
    The text file of an image that is listed lies where the last folder `images` of its path is called `labels`, or
    beside it, as darknet has it.
    classes: names in the order of their numbers; default: those that data.yaml (``names:``), classes.txt or obj.names
    of the root lists.
    missing: an image without a text file has no object (``empty``), or is reported (``stop``).
    polygons: a line ``class x1 y1 x2 y2 x3 y3 ...``, of a set made for segmentation, is reported (``stop``), or read
    as the box around it (``boxes``).
    unknown, keep_empty, clip_boxes: as in `VocDetection`. splits, split, split_seed: see
    `paribus.data.splits.Splits`.

    Target: ``boxes``, ``labels``.

    Raises:
        DataError: root, folder, list or classes are missing, a split is empty or has no text file at all. What is
            wrong with one text file is among the split's problems, with the line.
    """

    target: str = "boxes"
    palette: list[tuple[int, int, int]] | None = None

    def __init__(
        self,
        *,
        root: str,
        images: str = "images/{split}",
        labels: str = "labels/{split}",
        lists: str | None = None,
        classes: list[str] | None = None,
        missing: Literal["empty", "stop"] = "empty",
        polygons: Literal["stop", "boxes"] = "stop",
        unknown: Literal["stop", "drop"] = "stop",
        keep_empty: bool = True,
        clip_boxes: bool = False,
        splits: dict[str, str] | None = None,
        split: dict[str, float] | None = None,
        split_seed: int = 0,
    ):
        self.root = existing_root(root)
        self.images, self.labels, self.lists = images, labels, lists
        self.missing, self.polygons, self.unknown = missing, polygons, unknown
        self.keep_empty, self.clip_boxes = keep_empty, clip_boxes
        if "{split}" not in (images if lists is None else lists):
            splits = splits or {"train": ""}
        self.splits = Splits(splits, split, split_seed)
        self.classes = tuple(classes or self._listed_classes())
        if twice := sorted({name for name in self.classes if self.classes.count(name) > 1}):
            raise DataError(
                f"data.reader.classes names {twice} twice: each class has one number and one name."
            )
        self._parsed: UserDict[str, list[Objects]] = UserDict()

    def split(self, name: str) -> FileSplit:
        return object_split(
            self, name, self._objects, [self._list(self.splits.source(name))] if self.lists else []
        )

    def _list(self, split: str) -> Path:
        return self.root / str(self.lists).replace("{split}", split)

    def _listed_classes(self) -> list[str]:
        for path in (self.root / name for name in NAMES):
            if not path.is_file():
                continue
            if path.suffix not in (".yaml", ".yml"):
                return read_list(path)
            try:
                content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
                names: Any = content["names"]
                if isinstance(names, dict):
                    names = [names[number] for number in range(len(names))]
                return [str(name) for name in names]
            except (yaml.YAMLError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path} does not list the classes as `names: [...]` or `names: {{0: ..., 1: ...}}` ({error!r}): "
                    "correct it, or set `data.reader.classes`."
                ) from error
        raise DataError(
            f"{self.root} has none of {', '.join(NAMES)}, and the text files hold numbers: "
            "set `data.reader.classes=[...]`, in the order of the numbers."
        )

    def _objects(self, split: str) -> list[Objects]:
        if split not in self._parsed:
            pairs = self._pairs(split)
            found = [self._parse(image, text) for image, text in pairs]
            if pairs and not any(text.is_file() for _, text in pairs):
                raise DataError(
                    f"None of the {len(pairs)} images of {split or 'the set'} has a text file; the first would be "
                    f"{pairs[0][1].absolute()}: say with `data.reader.labels` where they are."
                )
            if boxed := sum(count for _, count in found):
                log.info("%s: %d polygons are read as the boxes around them", split or self.root, boxed)
            self._parsed[split] = [item for item, _ in found]
        return self._parsed[split]

    def _pairs(self, split: str) -> list[tuple[Path, Path]]:
        """Images and their text files."""
        if self.lists:
            images = [self.root / line for line in read_list(self._list(split))]
            return [(image, _beside(image)) for image in images]
        folders = {
            key: self.root / getattr(self, key).replace("{split}", split) for key in ("images", "labels")
        }
        for key, folder in folders.items():
            if not folder.is_dir():
                raise DataError(
                    f"The folder {folder.absolute()} does not exist: say with `data.reader.{key}` where the "
                    f"{'images' if key == 'images' else 'text files'} are ({getattr(self, key)!r} now), with "
                    "`data.reader.splits` what the set calls its splits, or with `data.reader.split` that it lacks one."
                )
        found = sorted(path for path in folders["images"].rglob("*") if path.suffix.lower() in SUFFIXES)
        return [
            (p, (folders["labels"] / p.relative_to(folders["images"])).with_suffix(".txt")) for p in found
        ]

    def _parse(self, image: Path, text: Path) -> tuple[Objects, int]:
        """The objects of an image, and how many of them were polygons."""
        item = Objects(
            relative(image, self.root), relative(text, self.root), None, [], [], np.zeros((0, 4)), {}
        )
        rows: list[tuple[int, list[float]]] = []
        try:
            lines = text.read_text(encoding="utf-8-sig").splitlines()
            rows = [(n, _numbers(line, n)) for n, line in enumerate(lines, start=1) if line.strip()]
        except FileNotFoundError:
            if self.missing == "empty":
                return item, 0
            fix = "annotate the image, write an empty file if it shows no object, or set `data.reader.missing=empty`"
            return item._replace(broken=("file is missing", fix)), 0
        except OSError as error:
            return item._replace(broken=(f"cannot be opened ({error.strerror})", RESTORE)), 0
        except ValueError as error:  # UnicodeDecodeError among them
            return item._replace(broken=(str(error), FIX_LINE)), 0
        shapes = [number for number, values in rows if len(values) > 5]
        if shapes and self.polygons == "stop":
            what = f"line {shapes[0]} is a polygon, of {len(shapes)}"
            return item._replace(
                broken=(what, "set `data.reader.polygons=boxes`, which takes the boxes around them")
            ), 0
        known = dict(enumerate(self.classes))
        return item._replace(
            names=[known.get(int(values[0]), f"class {values[0]:g}") for _, values in rows],
            ids=[f"in line {number}" for number, _ in rows],
            boxes=np.array([_corners(values[1:]) for _, values in rows], np.float64).reshape(-1, 4),
            relative=True,
        ), len(shapes)


def _beside(image: Path) -> Path:
    """The text file of an image, by darknet's rule."""
    folders = list(image.parent.parts)
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return Path(*folders, image.name).with_suffix(".txt")


def _numbers(line: str, number: int) -> list[float]:
    """The values of a line; ValueError if they are neither a box nor a polygon."""
    fields = line.split()
    try:
        values = [float(field) for field in fields]
    except ValueError:
        raise ValueError(f"line {number} holds what is no number: {line.strip()[:60]!r}") from None
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"line {number} holds what is no finite number: {line.strip()[:60]!r}")
    if len(values) == 6:
        raise ValueError(
            f"line {number} has 6 values: with a confidence it is a prediction, and no annotation"
        )
    if len(values) < 5 or len(values) % 2 == 0:
        raise ValueError(
            f"line {number} has {len(values)} values, neither a box (5) nor a polygon: {line.strip()[:60]!r}"
        )
    if not values[0].is_integer():
        raise ValueError(f"line {number}: the class is {fields[0]}, and no whole number")
    if max(values[1:]) > 2:  # a little outside is judged on the image
        raise ValueError(f"line {number} counts pixels: {line.strip()[:60]!r}")
    return values


def _corners(values: list[float]) -> list[float]:
    """Of ``cx cy w h``, or of the box around a polygon."""
    if len(values) == 4:
        x, y, w, h = values
        return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    return [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])]
