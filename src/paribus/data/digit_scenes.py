"""Handwritten digits on photographs: the embedded data set, made on the fly, for all tasks.

The digits are scikit-learn's copy of the UCI test set "Optical Recognition of Handwritten Digits"
(Alpaydin and Kaynak, 1998; 1797 digits of 8 x 8 pixels), the photographs its two sample images.
Nothing is downloaded. Train, val and test share no digit and no part of a photograph. The digits'
order follows their writers, and each class is cut in that order, so most writers are apart as well.
"""

import gzip
import math
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np

from paribus.data.samples import DataError, Problem, Sample

T = TypeVar("T")
SPLITS = ("train", "val", "test")
DIGITS = tuple("0123456789")
SHARES = (0.7, 0.15, 0.15)  # of the digits, by split
ROWS, COLUMNS = 4, 5  # each photograph is cut into tiles of about 107 x 128 pixels
FRAME, MARGIN = 32, 6  # a digit is magnified to 32 x 32 pixels, with room around it for soft edges
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
BACKGROUND = (0, 0, 0)
COLORS = [
    *((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48)),
    *((145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212)),
]


@cache
def _sources() -> Path:
    """scikit-learn's folder of data sets, found without importing scikit-learn, which takes a second."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("digit_scenes is made from files of scikit-learn: `pip install scikit-learn`.")
    return Path(spec.origin).parent / "datasets"


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Magnified ink, uint8 ``[1797, S, S]`` (255 is full), and labels, int64 ``[1797]``."""
    with gzip.open(_sources() / "data" / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    ink = np.empty((len(table), FRAME + 2 * MARGIN, FRAME + 2 * MARGIN), np.uint8)
    for image, row in zip(ink, table, strict=True):
        small = np.pad(row[:-1].reshape(8, 8).astype(np.float32) / 16, 2)
        large = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        large = cv2.GaussianBlur(large, (0, 0), 1.2)[
            8 - MARGIN : 8 + FRAME + MARGIN, 8 - MARGIN : 8 + FRAME + MARGIN
        ]
        image[:] = 255 * np.clip((large - 0.34) / 0.24, 0, 1)  # a stroke has an edge, not a slope
    return ink, table[:, -1].astype(np.int64)


@cache
def _digits_of(split: str) -> np.ndarray:
    """Which digits belong to a split: the same share of every class, in the writers' order."""
    labels = _digits()[1]
    place = SPLITS.index(split)
    parts = []
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        cuts = np.rint(np.cumsum(SHARES[:-1]) * len(members)).astype(int)
        parts.append(np.split(members, cuts)[place])
    return np.sort(np.concatenate(parts))


@cache
def _tiles_of(split: str) -> list[np.ndarray]:
    """Parts of the photographs, uint8 RGB: of every row of tiles, one is val's and one is test's."""
    tiles = []
    for name in ("china.jpg", "flower.jpg"):
        photograph = cv2.imread(str(_sources() / "images" / name), cv2.IMREAD_COLOR)
        assert photograph is not None, f"scikit-learn has no {name}"
        photograph = cv2.cvtColor(photograph, cv2.COLOR_BGR2RGB)
        for row, band in enumerate(np.array_split(photograph, ROWS, axis=0)):
            for column, tile in enumerate(np.array_split(band, COLUMNS, axis=1)):
                owner = {0: "val", 1: "test"}.get((row + 2 * column) % COLUMNS, "train")
                if owner == split:
                    tiles.append(np.ascontiguousarray(tile))
    return tiles


class DigitScenes:
    """Digits in random sizes, slants and colours on crops of photographs.

    ``label``: one digit, 10 classes. ``labels``: several, which of the 10 are there. ``mask``: the
    digit each pixel belongs to, class 0 being the background. ``boxes``: boxes tight around the
    pixels one sees of each digit, labels 0 to 9, and their masks. A pixel is a digit's if at least
    half of it is ink; where digits overlap, the later drawn is in front.

    A scene is a function of (seed, split, index) and of the arguments, for one version of numpy and
    OpenCV; the lengths only say how many are used. Scenes once made are kept in memory.

    size: (height, width), or one number for both, pixels.
    lengths: scenes in train, val and test.
    digits: (fewest, most) in a scene; None: 1 for ``label``, else (2, 5). What finds no place is left out.
    scale: (least, largest) size of a digit, relative to the image's shorter side; None: by target.
    rotation: largest slant either way, degrees.
    contrast: (least, largest) difference of luma, in [0, 1], between a digit and nine tenths of what is
        behind it; less where neither black nor white differs that much.
    clutter: most strokes that are no digit, drawn behind the digits.
    noise: standard deviation of the pixels' noise, in [0, 1].
    overlap: largest share of a digit that later ones may hide.
    remember: bytes that the kept scenes may take, for each split.
    """

    def __init__(
        self,
        *,
        target: Literal["label", "labels", "mask", "boxes"],
        size: int | tuple[int, int] = 32,
        lengths: dict[str, int] | None = None,
        seed: int = 0,
        digits: tuple[int, int] | None = None,
        scale: tuple[float, float] | None = None,
        rotation: float = 15.0,
        contrast: tuple[float, float] = (0.2, 0.5),
        clutter: int = 2,
        noise: float = 0.02,
        overlap: float = 0.1,
        remember: int = 2**28,
    ):
        several = target != "label"
        self.target = target
        self.size = _pair((size, size) if isinstance(size, int) else size)
        self.lengths = {"train": 6400, "val": 1000, "test": 2000} if lengths is None else dict(lengths)
        self.seed = seed
        self.digits = _pair(digits or ((2, 5) if several else (1, 1)))
        self.scale = _pair(scale or ((0.2, 0.45) if several else (0.65, 1.0)))
        self.rotation, self.contrast, self.clutter = rotation, _pair(contrast), clutter
        self.noise, self.overlap, self.remember = noise, overlap, remember
        self._check()
        self.classes = ("background", *DIGITS) if target == "mask" else DIGITS
        self.palette = [BACKGROUND, *COLORS] if target == "mask" else None
        self._splits = {name: Scenes(self, name, range(n)) for name, n in self.lengths.items()}

    def _check(self) -> None:
        def need(fine: bool, key: str, rule: str) -> None:
            if not fine:
                raise ValueError(f"digit_scenes: `{key}` is {getattr(self, key)!r}; {rule}.")

        kinds = ("label", "labels", "mask", "boxes")
        need(self.target in kinds, "target", f"it is one of {', '.join(kinds)}")
        need(min(self.size) >= 16, "size", "it is (height, width), 16 pixels or more")
        need(set(self.lengths) == set(SPLITS), "lengths", "it names train, val and test")
        need(min(self.lengths.values()) >= 1, "lengths", "each split has one scene or more")
        need(self.seed >= 0, "seed", "it is 0 or more")
        need(0 <= self.digits[0] <= self.digits[1], "digits", "it is (fewest, most), from 0")
        need(
            self.target != "label" or self.digits == (1, 1), "digits", "a scene with one label has one digit"
        )
        need(0 < self.scale[0] <= self.scale[1] <= 1, "scale", "it is (least, largest), within 0 and 1")
        need(
            self.scale[0] * min(self.size) >= 6, "scale", f"a digit has 6 pixels or more, also of {self.size}"
        )
        low, high = self.contrast
        need(
            0 <= low <= 0.5 and low <= high <= 1,
            "contrast",
            "it is (least, largest), the least within 0 and 0.5",
        )

    def split(self, name: str) -> "Scenes":
        if name not in SPLITS:
            raise ValueError(f"digit_scenes has the splits {', '.join(SPLITS)}, and no {name!r}.")
        return self._splits[name]

    def draw(self, split: str, index: int) -> Sample:
        """Makes one scene."""
        rng = np.random.default_rng([self.seed, SPLITS.index(split), index])
        height, width = self.size
        image = _background(rng, _tiles_of(split), height, width, self.clutter).astype(np.float32)
        labels: list[int] = []
        shown: list[np.ndarray] = []  # the pixels that one sees of each digit, and
        inked: list[int] = []  # how many there were before others hid some
        for _ in range(rng.integers(self.digits[0], self.digits[1], endpoint=True)):
            label, ink = self._digit(rng, split)
            h, w = ink.shape
            for _ in range(20):  # attempts to find a place
                y, x = rng.integers(height - h, endpoint=True), rng.integers(width - w, endpoint=True)
                place = np.s_[y : y + h, x : x + w]
                new = ink >= 128
                lost = [np.count_nonzero(mask[place] & new) for mask in shown]
                left = [np.count_nonzero(mask) - n for mask, n in zip(shown, lost, strict=True)]
                if all(a >= (1 - self.overlap) * b for a, b in zip(left, inked, strict=True)):
                    break
            else:
                continue
            alpha = ink[..., None].astype(np.float32) / 255
            behind = np.sort(image[place][new] @ LUMA) / 255
            tenth = len(behind) // 10  # the darkest and the lightest spots do not count
            color = 255 * _color(rng, behind[tenth], behind[-1 - tenth], self.contrast)
            image[place] += alpha * (color - image[place])
            for mask in shown:
                mask[place] &= ~new
            mask = np.zeros((height, width), bool)
            mask[place] = new
            labels.append(label)
            shown.append(mask)
            inked.append(int(np.count_nonzero(new)))
        image += 255 * self.noise * rng.standard_normal(image.shape, np.float32)
        target = self._answer(labels, shown)
        return Sample(np.clip(image, 0, 255).astype(np.uint8), target, f"{split}/{index:06d}")

    def _digit(self, rng: np.random.Generator, split: str) -> tuple[int, np.ndarray]:
        """A digit in a random size and slant: its label and its ink, uint8 ``[h, w]``, trimmed."""
        ink, labels = _digits()
        members = _digits_of(split)
        which = members[rng.integers(len(members))]
        angle = math.radians(rng.uniform(-self.rotation, self.rotation))
        side = rng.uniform(*self.scale) * min(self.size)
        cos, sin = math.cos(angle), math.sin(angle)
        zoom = side / FRAME / (cos + abs(sin))  # so that the turned digit fits into the side
        narrow = rng.uniform(0.75, 1)
        linear = zoom * np.array([[cos, -sin], [sin, cos]]) @ np.diag([narrow, 1])
        edge = math.ceil(side)
        middle = (FRAME + 2 * MARGIN - 1) / 2
        shift = (edge - 1) / 2 - linear @ [middle, middle]
        drawn = cv2.warpAffine(
            ink[which], np.column_stack([linear, shift]), (edge, edge), flags=cv2.INTER_LINEAR
        )
        x, y, w, h = cv2.boundingRect((drawn >= 128).astype(np.uint8))
        x0, y0 = max(x - 1, 0), max(y - 1, 0)
        return int(labels[which]), drawn[y0 : y + h + 1, x0 : x + w + 1]

    def _answer(self, labels: list[int], shown: list[np.ndarray]) -> Any:
        if self.target == "label":
            return labels[0]
        if self.target == "labels":
            return np.isin(np.arange(10), labels).astype(np.float32)
        if self.target == "mask":
            mask = np.zeros(self.size, np.uint8)
            for label, pixels in zip(labels, shown, strict=True):
                mask[pixels] = label + 1
            return mask
        masks = np.array(shown, np.uint8).reshape(-1, *self.size)
        corners = [cv2.boundingRect(mask) for mask in masks]
        boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in corners], np.float32).reshape(-1, 4)
        return {"boxes": boxes, "labels": np.array(labels, np.int64), "masks": masks}


class Scenes:
    """One split of a DigitScenes."""

    def __init__(self, reader: DigitScenes, name: str, indices: range | list[int]):
        self.reader, self.name, self.indices = reader, name, indices
        drawn = {key: value for key, value in vars(reader).items() if not key.startswith("_")}
        self._memory = _memory(name, repr(drawn))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        number = self.indices[index]
        sample = self._memory.samples.get(number)
        if sample is None:
            sample = self.reader.draw(self.name, number)
            if self._memory.bytes < self.reader.remember:
                self._memory.samples[number] = sample
                self._memory.bytes += _size_of(sample)
        return sample

    def problems(self) -> list[Problem]:
        return []

    def without(self, indices: set[int]) -> "Scenes":
        kept = [number for i, number in enumerate(self.indices) if i not in indices]
        return Scenes(self.reader, self.name, kept)


class _Memory:
    """Scenes already drawn, and the bytes they take."""

    def __init__(self) -> None:
        self.samples: dict[int, Sample] = {}
        self.bytes = 0


@lru_cache(maxsize=len(SPLITS))  # of the last set: the runs of a sweep that share a process see the same one
def _memory(split: str, drawn: str) -> _Memory:
    return _Memory()


def _background(
    rng: np.random.Generator, tiles: list[np.ndarray], height: int, width: int, clutter: int
) -> np.ndarray:
    """A crop of a photograph with a few strokes that are no digit, uint8 ``[height, width, 3]``."""
    tile = tiles[rng.integers(len(tiles))]
    fit = min(tile.shape[0] / height, tile.shape[1] / width) * rng.uniform(0.4, 1)
    h, w = max(int(height * fit), 1), max(int(width * fit), 1)
    y, x = rng.integers(tile.shape[0] - h, endpoint=True), rng.integers(tile.shape[1] - w, endpoint=True)
    crop = tile[y : y + h, x : x + w][:, :: 2 * int(rng.integers(2)) - 1]
    interpolation = cv2.INTER_AREA if fit > 1 else cv2.INTER_CUBIC
    image = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=interpolation)
    light = rng.uniform(0.6, 1.2) * rng.uniform(0.8, 1.2, 3)  # another hour, another camera
    image = np.minimum(image * light, 255).astype(np.uint8)
    short = min(height, width)
    for _ in range(rng.integers(clutter, endpoint=True)):
        start = rng.uniform((0, 0), (width, height))
        bends = start + rng.uniform(-0.3, 0.3, (2, 2)) * short
        t = np.linspace(0, 1, 9)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bends[0] + t**2 * bends[1]
        color = rng.integers(256, size=3).tolist()
        thickness = max(1, round(short * rng.uniform(0.02, 0.05)))
        cv2.polylines(image, [np.rint(curve * 8).astype(np.int32)], False, color, thickness, cv2.LINE_AA, 3)
    return image


def _color(rng: np.random.Generator, dark: float, light: float, contrast: tuple[float, float]) -> np.ndarray:
    """A random RGB colour, in [0, 1], that much darker or lighter than all that is behind it."""
    difference = rng.uniform(*contrast)
    ways = [luma for luma in (dark - difference, light + difference) if 0 <= luma <= 1]
    luma = ways[rng.integers(len(ways))] if ways else float(dark < 1 - light)
    color = rng.uniform(size=3)
    own = color @ LUMA
    if own > luma:
        return (color * luma / own).astype(np.float32)
    return (1 - (1 - color) * (1 - luma) / (1 - own)).astype(np.float32)


def _pair(values: Sequence[T]) -> tuple[T, T]:
    first, second = values  # a list, if it comes from a YAML file
    return first, second


def _size_of(sample: Sample) -> int:
    target = sample.target
    arrays = target.values() if isinstance(target, dict) else [target]
    return sample.image.nbytes + sum(np.asarray(array).nbytes for array in arrays)
