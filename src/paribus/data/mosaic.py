"""Mosaic: four training samples in the place of one (Bochkovskiy et al. 2020, YOLOv4, section 3.3).

albumentations' Mosaic leaves instance masks and areas behind, and shows objects at one size only.
"""

from collections.abc import Sequence

import numpy as np

from paribus.data.geometry import Size, moved_objects, moved_proposals, resize, resize_nearest
from paribus.data.samples import IGNORE, Sample

VISIBLE = 0.1  # least share of a box that the window shows: what less is of, nobody could say


def mosaic(samples: Sequence[Sample], size: Size, rng: np.random.Generator) -> Sample:
    """One sample of (height, width) `size` of four: a window on the four laid side by side, two by two.

    The window has the proportions of `size`, and once to twice its sides, so that an object is seen at its own size
    down to half of it. The four meet in it. Masks take the nearest pixel; boxes are cut at the window and at their own
    image, and those of which less than a tenth is left go, with all that belongs to them; proposals alike, the best of
    each first. The id is the first's.
    """
    height, width = size
    wider = rng.uniform(1, 2)
    h, w = round(height * wider), round(width * wider)
    top, left = rng.integers(2 * height - h, endpoint=True), rng.integers(2 * width - w, endpoint=True)
    window = np.s_[top : top + h, left : left + w]
    corners = [(y, x) for y in (0, height) for x in (0, width)]
    image = np.zeros((2 * height, 2 * width, 3), np.uint8)
    for sample, corner in zip(samples, corners, strict=True):
        _lay(image, sample.image, corner, size)
    first = samples[0]
    if not isinstance(first.target, dict):
        mask = np.full((2 * height, 2 * width), IGNORE, first.target.dtype)
        for sample, corner in zip(samples, corners, strict=True):
            _lay(mask, sample.target, corner, size)
        return Sample(resize(image[window], size), resize_nearest(mask[window], size), first.id)
    ratio = np.array([width / w, height / h] * 2, np.float32)
    parts, proposals = [], []
    for sample, (y, x) in zip(samples, corners, strict=True):
        limit = np.array([left, top, left + w, top + h], np.float32) - np.array([x, y, x, y], np.float32)
        index, boxes = _shown(sample.target["boxes"], limit, size)
        masks = sample.target.get("masks")
        if masks is not None:
            whole = np.zeros((2 * height, 2 * width, len(index)), np.uint8)
            _lay(whole, masks[index].transpose(1, 2, 0), (y, x), size)
            masks = resize_nearest(whole[window].transpose(2, 0, 1), size)
        parts.append(moved_objects(sample.target, index, boxes * ratio, masks, size, least=1.0))
        if "proposals" in sample.target:
            proposals.append(
                moved_proposals(_shown(sample.target["proposals"], limit, size)[1] * ratio, size)
            )
    target = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if proposals:
        ranks = np.concatenate([np.arange(len(part)) for part in proposals])
        target["proposals"] = np.concatenate(proposals)[np.argsort(ranks, kind="stable")]
    return Sample(resize(image[window], size), target, first.id)


def _shown(boxes: np.ndarray, limit: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes of an image the window shows, and what it shows of them, from its corner. limit: the window, from the
    image's corner.
    """
    low, high = (
        np.maximum(limit[[0, 1, 0, 1]], 0),
        np.minimum(limit[[2, 3, 2, 3]], [*size[::-1], *size[::-1]]),
    )
    inside = np.clip(boxes, low, high)
    index = np.flatnonzero(_areas(inside) >= VISIBLE * _areas(boxes))
    return index, inside[index] - limit[[0, 1, 0, 1]]


def _lay(canvas: np.ndarray, array: np.ndarray, corner: tuple[int, int], size: Size) -> None:
    """Writes an image into its quarter, from the corner; what is larger is cut."""
    array = array[: size[0], : size[1]]
    canvas[corner[0] : corner[0] + array.shape[0], corner[1] : corner[1] + array.shape[1]] = array


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(1)
