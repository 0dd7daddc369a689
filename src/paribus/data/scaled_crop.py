"""A crop of an image at a random scale, of which nothing is resized but the crop."""

from collections.abc import Sequence
from typing import Any

import albumentations as A
import numpy as np
from albumentations.core.transforms_interface import BaseTransformInitSchema
from albumentations.core.type_definitions import Targets

from paribus.data.geometry import resize, resize_nearest


class ScaledCrop(A.DualTransform):
    """The image at a random scale, and of it a crop of one size; the usual augmentation of segmentation (Chen et al.
    2017, Rethinking Atrous Convolution, section 4: 0.5 to 2).

    At scale 1 the whole image just fits the size. Where it is smaller than that, it lies anywhere within black, 255 in
    masks. albumentations' RandomScale, PadIfNeeded and RandomCrop make such crops of whole images that were resized,
    which takes several times as long; its RandomResizedCrop changes the aspect, and pads nothing.

    size: (height, width) of the crop. scale: least and largest.
    """

    _targets = (Targets.IMAGE, Targets.MASK, Targets.BBOXES)

    class InitSchema(
        BaseTransformInitSchema
    ):  # by which albumentations knows its own parameters from mistakes
        size: Sequence[int]
        scale: Sequence[float]

    def __init__(self, *, size: Sequence[int], scale: Sequence[float] = (0.5, 2.0), p: float = 1.0):
        super().__init__(p=p)
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"ScaledCrop: scale={[*scale]}: the least and the largest, above 0")
        self.size, self.scale = (size[0], size[1]), (scale[0], scale[1])
        self.fill_mask: float | None = 255

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """window: of each axis where the crop begins and ends in the image, and where that lies in the result."""
        shape = params["shape"][:2]
        fits = min(new / old for new, old in zip(self.size, shape, strict=True))
        factor = fits * self.py_random.uniform(*self.scale)
        window = []
        for old, new in zip(shape, self.size, strict=True):
            scaled = max(1, round(old * factor))
            place = self.py_random.random()
            if scaled <= new:  # all of it, somewhere in the result
                start = round(place * (new - scaled))
                window.append((0, old, start, start + scaled))
                continue
            length = min(old, max(1, round(new / factor)))
            start = round(place * (old - length))
            window.append((start, start + length, 0, new))
        return {"window": window}

    def apply(self, img: np.ndarray, window: Any, **params: Any) -> np.ndarray:
        return self._cut(img, window, 0, resize)

    def apply_to_mask(self, mask: np.ndarray, window: Any, **params: Any) -> np.ndarray:
        return self._cut(mask, window, self.fill_mask or 0, resize_nearest)

    def _cut(self, array: np.ndarray, window: Any, fill: float, fitted: Any) -> np.ndarray:
        (y0, y1, top, bottom), (x0, x1, left, right) = window
        part = fitted(array[y0:y1, x0:x1], (bottom - top, right - left))
        if part.shape[:2] == self.size:
            return part
        result = np.full((*self.size, *array.shape[2:]), fill, array.dtype)
        result[top:bottom, left:right] = part
        return result

    def apply_to_bboxes(self, bboxes: np.ndarray, window: Any, **params: Any) -> np.ndarray:
        """Both in shares of their image's sides, as albumentations has them."""
        found = bboxes.copy()
        for axis, (old, new, (start, end, first, last)) in enumerate(
            zip(params["shape"], self.size, window, strict=False)
        ):
            columns = [1 - axis, 3 - axis]
            found[:, columns] = (
                (bboxes[:, columns] * old - start) * ((last - first) / (end - start)) + first
            ) / new
        return found
