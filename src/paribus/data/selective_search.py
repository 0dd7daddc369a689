"""Selective search (Uijlings et al. 2013, Selective Search for Object Recognition, IJCV 104): boxes that may hold
an object, of segments that are grouped bottom-up.

Ours because the known implementation, OpenCV's, is in opencv-contrib-python, which takes the place of
opencv-python-headless, on which Paribus and albumentations stand; two of the family in one environment overwrite one
another's files. The segments it begins with are scikit-image's (Felzenszwalb and Huttenlocher 2004).
"""

import heapq
from collections.abc import Callable
from typing import Literal, NamedTuple

import cv2
import numpy as np
from scipy.ndimage import find_objects
from skimage.segmentation import felzenszwalb

VERSION = 1  # another one, whenever other boxes come out
Strategy = Literal["single", "fast", "quality"]
COLOUR_BINS, TEXTURE_BINS, ORIENTATIONS = 25, 10, 8  # section 3.2
SIGMA = 0.8  # of the Gaussian before the segmentation, as Felzenszwalb and Huttenlocher


class Strategies(NamedTuple):
    """What is varied, each with each (table 5 of the paper): colour spaces, measures of similarity (Colour, Texture,
    Size, Fill), and the k of the first segments, which is also the pixels that one has at least.
    """

    spaces: tuple[str, ...]
    measures: tuple[str, ...]
    scales: tuple[int, ...]


STRATEGIES: dict[str, Strategies] = {
    "single": Strategies(("hsv",), ("CTSF",), (100,)),
    "fast": Strategies(("hsv", "lab"), ("CTSF", "TSF"), (50, 100)),
    "quality": Strategies(
        ("hsv", "lab", "rgi", "hue", "grey"), ("CTSF", "TSF", "F", "S"), (50, 100, 150, 300)
    ),
}


def selective_search(
    image: np.ndarray,
    *,
    strategy: Strategy = "fast",
    side: int | None = 320,
    smallest: int | None = None,
    least: float = 4.0,
    most: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """uint8 RGB [H, W, 3] -> boxes xyxy in its pixels, float32 [P, 4], none twice, the best guess first; there is
    always one.

    strategy: single, fast or quality: 1, 8 or 80 groupings.
    side: the longest of the image as it is searched; larger ones are shrunk to it, None: none is.
    smallest: pixels of the first segments; None is the paper's, their k.
    least: shorter sides, in pixels of the image as it is searched, are left out.
    most: boxes of an image.
    seed: of the ranking (section 4): a box has its place in the hierarchy times a random number, the lowest of
        all groupings first.
    """
    height, width = image.shape[:2]
    ratio = 1.0 if side is None else min(1.0, side / max(height, width))
    h, w = (max(round(n * ratio), 1) for n in (height, width))
    if ratio < 1:
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    spaces, measures, scales = STRATEGIES[strategy]
    rng = np.random.default_rng(seed)
    boxes, ranks = [np.array([[0, 0, w, h]])], [np.zeros(1)]
    for space in spaces:
        colours = SPACES[space](image)
        bins = _colour_bins(colours), _texture_bins(colours)
        for scale in scales:
            segments = felzenszwalb(
                colours, scale=scale, sigma=SIGMA, min_size=smallest or scale, channel_axis=-1
            )
            regions = _regions(segments, *bins)
            for measure in measures:
                found = _grouped(regions, measure)[::-1]  # the whole image, the last, has rank 1
                boxes.append(found)
                ranks.append(rng.random(len(found)) * np.arange(1, len(found) + 1))
    every = np.concatenate(boxes)[np.argsort(np.concatenate(ranks), kind="stable")]
    _, first = np.unique(every, axis=0, return_index=True)
    ranked = every[np.sort(first)]
    sides = (ranked[:, 2:] - ranked[:, :2]).min(1)
    large = ranked[sides >= min(least, h, w)][:most]
    return (large * np.array([width / w, height / h] * 2)).astype(np.float32)


# --- colours ---------------------------------------------------------------------------------------


def _rgi(image: np.ndarray) -> np.ndarray:
    """Red and green by the sum of all three, and intensity."""
    sums = image.sum(-1, dtype=np.float32)
    chroma = 255.0 * image[..., :2].astype(np.float32) / np.maximum(sums, 1)[..., None]
    return np.concatenate([chroma, sums[..., None] / 3], axis=-1).round().astype(np.uint8)


# To uint8 [H, W, channels], each from 0 to 255.
SPACES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hsv": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL),
    "lab": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2LAB),
    "rgi": _rgi,
    "hue": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)[..., :1],
    "grey": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None],
}


def _colour_bins(colours: np.ndarray) -> np.ndarray:
    """The bin of every pixel, of each channel: uint8 [H, W, channels]."""
    return (colours.astype(np.uint16) * COLOUR_BINS // 256).astype(np.uint8)


def _texture_bins(colours: np.ndarray) -> np.ndarray:
    """As uint8 [H, W, channels * 8]: of Gaussian derivatives of sigma 1 in eight directions, up to the largest."""
    smooth = cv2.GaussianBlur(colours.astype(np.float32), (0, 0), 1.0).reshape(colours.shape)
    dy, dx = np.gradient(smooth, axis=(0, 1)) if min(colours.shape[:2]) > 1 else (smooth * 0, smooth * 0)
    angles = np.arange(ORIENTATIONS) * (2 * np.pi / ORIENTATIONS)
    responses = np.concatenate([np.cos(a) * dx + np.sin(a) * dy for a in angles], axis=-1)
    scale = TEXTURE_BINS / max(float(responses.max()), 1e-6)
    return np.clip(responses * scale, 0, TEXTURE_BINS - 1).astype(np.uint8)


# --- regions ---------------------------------------------------------------------------------------


class Regions(NamedTuple):
    """Segments as they are grouped: pixels [N], boxes [N, 4], histograms [N, bins] of sum 1, pairs that touch."""

    sizes: np.ndarray
    boxes: np.ndarray
    colour: np.ndarray
    texture: np.ndarray
    pairs: np.ndarray  # [pairs, 2], the lower number first
    area: int  # of the image


def _regions(segments: np.ndarray, colour: np.ndarray, texture: np.ndarray) -> Regions:
    count = int(segments.max()) + 1
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in find_objects(segments + 1)]
    touching = []
    for one, other in (
        (segments[:-1], segments[1:]),
        (segments[:, :-1], segments[:, 1:]),
        (segments[:-1, :-1], segments[1:, 1:]),
        (segments[:-1, 1:], segments[1:, :-1]),
    ):
        border = one != other
        a, b = one[border].astype(np.int64), other[border].astype(np.int64)
        touching.append(np.minimum(a, b) * count + np.maximum(a, b))
    pairs = np.unique(np.concatenate(touching))
    return Regions(
        np.bincount(segments.ravel(), minlength=count).astype(np.float64),
        np.array(boxes),
        _histograms(segments, colour, COLOUR_BINS, count),
        _histograms(segments, texture, TEXTURE_BINS, count),
        np.stack([pairs // count, pairs % count], axis=1),
        segments.size,
    )


def _histograms(segments: np.ndarray, bins: np.ndarray, size: int, count: int) -> np.ndarray:
    """Of each segment all channels' histograms in a row, float32 [N, channels * size] of sum 1."""
    channels = bins.shape[-1]
    start = segments.astype(np.int64).ravel() * size
    found = [
        np.bincount(start + bins[..., c].ravel(), minlength=count * size).reshape(count, size)
        for c in range(channels)
    ]
    table = np.concatenate(found, axis=1).astype(np.float32)
    return table / table.sum(1, keepdims=True)


def _grouped(regions: Regions, measure: str) -> np.ndarray:
    """The boxes of the regions and of all that are made of them, int [2 N - 1, 4], in the order in which they came:
    the two most alike of those that touch become one, until one is left (algorithm 1).
    """
    count = len(regions.sizes)
    sizes = np.concatenate([regions.sizes, np.zeros(count - 1)])
    boxes = np.concatenate([regions.boxes, np.zeros((count - 1, 4), regions.boxes.dtype)])
    kinds = [regions.colour] * ("C" in measure) + [regions.texture] * ("T" in measure)
    tables = np.concatenate(kinds, axis=1) if kinds else np.zeros((count, 0), np.float32)
    tables = np.concatenate([tables, np.zeros((count - 1, tables.shape[1]), np.float32)])

    def alike(a: np.ndarray | int, b: np.ndarray) -> np.ndarray:
        """Equations 2 to 6."""
        similarity = np.minimum(tables[a], tables[b]).sum(1)
        both = sizes[a] + sizes[b]
        if "S" in measure:
            similarity = similarity + 1 - both / regions.area
        if "F" in measure:
            one, other = boxes[a], boxes[b]
            ends = np.maximum(one[..., 2:], other[:, 2:]) - np.minimum(one[..., :2], other[:, :2])
            similarity = similarity + 1 - (ends.prod(1) - both) / regions.area
        return similarity

    neighbours: list[set[int]] = [set() for _ in range(count)]
    for a, b in regions.pairs.tolist():
        neighbours[a].add(b)
        neighbours[b].add(a)
    a, b = regions.pairs.T
    waiting = list(zip((-alike(a, b)).tolist(), a.tolist(), b.tolist(), strict=True))
    heapq.heapify(waiting)
    gone = [False] * (2 * count - 1)
    for new in range(count, 2 * count - 1):
        while True:
            _, a, b = heapq.heappop(waiting)
            if not (gone[a] or gone[b]):
                break
        gone[a] = gone[b] = True
        sizes[new] = sizes[a] + sizes[b]
        tables[new] = (sizes[a] * tables[a] + sizes[b] * tables[b]) / sizes[new]
        boxes[new, :2] = np.minimum(boxes[a, :2], boxes[b, :2])
        boxes[new, 2:] = np.maximum(boxes[a, 2:], boxes[b, 2:])
        around = (neighbours[a] | neighbours[b]) - {a, b}
        neighbours.append(around)
        for other in around:
            neighbours[other] -= {a, b}
            neighbours[other].add(new)
        if around:
            others = sorted(around)
            for similarity, other in zip(alike(new, np.array(others)).tolist(), others, strict=True):
                heapq.heappush(waiting, (-similarity, other, new))
    return boxes
