"""Images, masks and boxes resized and cut: the arithmetic that transforms and mosaics share."""

import cv2
import numpy as np

Size = tuple[int, int]  # (height, width)


def moved_objects(
    target: dict[str, np.ndarray],
    index: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray | None,
    size: Size,
    least: float,
) -> dict[str, np.ndarray]:
    """The instances of ``index``, at their new ``boxes``, that still show ``least`` pixels each way."""
    boxes = clip_boxes(boxes, *size)
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = (sides > 0).all(1) & (sides >= least).all(1)
    if masks is not None and least:
        keep &= masks.any((1, 2))
    boxes, sides, index = boxes[keep], sides[keep], index[keep]
    apart = ("boxes", "masks", "proposals")
    kept = {key: values[index] for key, values in target.items() if key not in apart}
    kept["boxes"] = boxes
    if masks is not None:
        kept["masks"] = masks[keep]
    if "area" in kept:
        before = target["boxes"][index]
        before_area = (before[:, 2:] - before[:, :2]).prod(1)
        kept["area"] = (kept["area"] * sides.prod(1) / np.maximum(before_area, 1e-9)).astype(np.float32)
    return kept


def moved_proposals(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Proposals at their new places, in their order, without those of which no whole pixel is left."""
    boxes = clip_boxes(boxes, *size)
    return boxes[(boxes[:, 2:] - boxes[:, :2] >= 1).all(1)]


def clip_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)


def zoom(old: Size, new: Size) -> np.ndarray:
    """What box coordinates are multiplied by, ``[4]``."""
    y, x = new[0] / old[0], new[1] / old[1]
    return np.array([x, y, x, y], np.float32)


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """Linearly, of four pixels, down to more than half of each side; from there on the mean of each area.

    The mean takes ten times as long, but where sides are divided by a whole number, and four pixels miss none there.
    """
    halved = size[0] * 2 <= image.shape[0] or size[1] * 2 <= image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if halved else cv2.INTER_LINEAR)


def resize_nearest(array: np.ndarray, size: Size) -> np.ndarray:
    """Resizes the last two axes; a pixel's value is that of the pixel its centre falls into."""
    for axis, new in zip((-2, -1), size, strict=True):
        old = array.shape[axis]
        if old != new:
            array = array.take(((np.arange(new) + 0.5) * old / new).astype(np.int64), axis)
    return array
