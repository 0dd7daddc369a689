"""From a sample as read to a sample as the network sees it: random changes, and one size.

The only file that imports albumentations, and not before a list of its transforms is given.
"""

import copy
import inspect
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch.nn.functional as F
from torch import Tensor

from paribus.data.samples import IGNORE, Sample

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or its import asks the package index for news
cv2.setNumThreads(0)  # the loader's workers are the threads

if TYPE_CHECKING:
    from albumentations import BasicTransform, Compose

Size = tuple[int, int]  # (height, width)


class Transform:
    """``before_resize``, then the fit to ``size``, then ``after_resize``.

    Both lists hold albumentations transforms and run in training only. Before the resize they see
    the image at its own size: crops belong there, being cheaper and sharper; colour belongs after.

    target: what the samples' targets are: ``label``, ``labels``, ``mask`` or ``boxes``.
    size: (height, width) that the network sees; None leaves every image its own.
    fit: ``stretch`` changes the aspect; ``crop`` covers the size and cuts off what exceeds it, equally
        on both sides; ``pad`` fits inside, and fills the right and the bottom with black.
    native: masks stay as they are, and the image alone is fitted; what is answered on it is brought back
        to the mask's size by ``restore_logits``.

    Masks are resized to the nearest pixel; what lies outside the image is 255 in a mask and 0 in an
    instance's mask, whatever ``fill_mask`` a transform was given (one that leaves the mask alone,
    ``fill_mask=None``, still does). Boxes are cut at the border; an instance of which no whole
    pixel is left goes, with all that belongs to it. ``area`` grows and shrinks with its box, so that
    COCO's small, medium and large are sizes on the image as the network sees it.
    """

    def __init__(
        self,
        *,
        target: Literal["label", "labels", "mask", "boxes"],
        size: tuple[int, int] | None,
        fit: Literal["stretch", "crop", "pad"] = "stretch",
        native: bool = False,
        before_resize: Sequence["BasicTransform"] = (),
        after_resize: Sequence["BasicTransform"] = (),
    ):
        if fit not in ("stretch", "crop", "pad"):
            raise ValueError(f"`data.fit` is {fit!r}; it is one of stretch, crop, pad.")
        self.target = target
        self.size: Size | None = None if size is None else (size[0], size[1])
        self.fit, self.native = fit, native
        self.before = _compose(before_resize, target, "before_resize")
        self.after = _compose(after_resize, target, "after_resize")

    def __call__(self, sample: Sample, seed: int | None) -> Sample:
        """seed: made from (seed, epoch, index), all that chance depends on; None: no random change."""
        if seed is None or not (self.before or self.after):
            return self._fitted(sample)
        # One pair of generators for all. `set_random_seed` would give each transform its own, all with
        # this seed: whatever has p=0.5 would then happen together, or not at all.
        generators = np.random.default_rng(seed), random.Random(seed)
        sample = self._changed(sample, self.before, generators)
        sample = self._fitted(sample)
        return self._changed(sample, self.after, generators)

    def restore_logits(self, logits: Tensor, original: Size) -> Tensor:
        """Logits ``[B, C, h, w]`` on fitted images as those on the original, float32 ``[B, C, H, W]``: bilinear.

        Logits and not decisions, which would keep the steps of the coarser pixels (Long et al. 2015 and its
        successors enlarge so too). Where ``crop`` has cut, the border's are repeated: see ``unseen``.
        """
        logits = logits.float()
        if self.size is None or self.size == original:
            return logits[..., : original[0], : original[1]]  # a batch may have padded it
        (height, width), top, left = self._place(original)
        logits = logits[..., : height - top, : width - left]
        below, right = height - top - logits.shape[-2], width - left - logits.shape[-1]
        if self.fit == "crop":
            logits = F.pad(logits, (left, right, top, below), mode="replicate")
        return F.interpolate(logits, original, mode="bilinear", antialias=True)

    def restore_image(self, image: np.ndarray, original: Size) -> np.ndarray:
        """A fitted image ``[h, w, 3]``, of which nothing was cut off, at the size of the original."""
        if self.size is None or self.size == original:
            return image[: original[0], : original[1]]
        height, width = self._place(original)[0]
        return _resized(image[:height, :width], original)

    def unseen(self, original: Size) -> np.ndarray:
        """bool ``[H, W]``: the pixels of the original that the network did not see, cut off by ``crop``."""
        unseen = np.zeros(original, bool)
        if self.size is not None and self.size != original and self.fit == "crop":
            (height, width), top, left = self._place(original)
            whole = np.ones((height, width), bool)
            whole[top : top + self.size[0], left : left + self.size[1]] = False
            unseen = _nearest(whole, original)
        return unseen

    def restore_boxes(self, boxes: np.ndarray, original: Size) -> np.ndarray:
        """Boxes ``[N, 4]`` found on the fitted image, in pixels of the original, cut at its border."""
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        height, width = original
        if self.size is not None and self.size != original:
            resized, top, left = self._place(original)
            boxes = boxes + np.array([left, top, left, top], np.float32)
            boxes = boxes * _scale(resized, original)
        return _clipped(boxes, height, width)

    def _place(self, original: Size) -> tuple[Size, int, int]:
        """The size an image is resized to, and how many rows and columns are then cut off before it."""
        assert self.size is not None
        if self.fit == "stretch":
            return self.size, 0, 0
        ratios = self.size[0] / original[0], self.size[1] / original[1]
        ratio = max(ratios) if self.fit == "crop" else min(ratios)
        height, width = (max(1, round(n * ratio)) for n in original)
        if self.fit == "pad":
            return (height, width), 0, 0
        return (height, width), (height - self.size[0]) // 2, (width - self.size[1]) // 2

    def _fitted(self, sample: Sample) -> Sample:
        original: Size = sample.image.shape[:2]
        if self.size is None or original == self.size:
            return sample
        resized, top, left = self._place(original)
        image = self._placed(_resized(sample.image, resized), top, left, 0)
        target = sample.target
        if self.target == "mask" and not self.native:
            target = self._placed(_nearest(target, resized), top, left, IGNORE)
        elif self.target == "boxes":
            boxes = target["boxes"] * _scale(original, resized) - np.array([left, top, left, top], np.float32)
            masks = target.get("masks")
            if masks is not None:
                resized_masks = _nearest(masks, resized).transpose(1, 2, 0)
                masks = np.ascontiguousarray(self._placed(resized_masks, top, left, 0).transpose(2, 0, 1))
            # A resize hides nothing: what is tiny then is still there to be found, and judged.
            least = 1.0 if self.fit == "crop" else 0.0
            target = _kept(target, np.arange(len(boxes)), boxes, masks, self.size, least)
        return Sample(image, target, sample.id)

    def _placed(self, array: np.ndarray, top: int, left: int, fill: int) -> np.ndarray:
        """Cuts or fills the first two axes to the size."""
        assert self.size is not None
        height, width = self.size
        array = array[top : top + height, left : left + width]
        missing = [(0, height - array.shape[0]), (0, width - array.shape[1])] + [(0, 0)] * (array.ndim - 2)
        if any(after for _, after in missing):
            return np.pad(array, missing, constant_values=fill)
        return np.ascontiguousarray(array)

    def _changed(
        self,
        sample: Sample,
        compose: "Compose | None",
        generators: tuple[np.random.Generator, random.Random],
    ) -> Sample:
        if compose is None:
            return sample
        compose.set_random_state(*generators)
        target = sample.target
        if self.target == "mask":
            # OpenCV turns no int64. Class numbers are small.
            mask = target if target.dtype == np.uint8 else target.astype(np.int16)
            out = compose(image=sample.image, mask=mask)
            return Sample(out["image"], out["mask"].astype(target.dtype, copy=False), sample.id)
        if self.target != "boxes":
            return Sample(compose(image=sample.image)["image"], target, sample.id)
        count = len(target["boxes"])
        data = {"image": sample.image, "bboxes": target["boxes"], "index": np.arange(count)}
        masks = target.get("masks")
        if masks is not None and count:
            data["masks"] = masks
        out = compose(**data)
        size: Size = out["image"].shape[:2]
        # Which boxes are left. Empty results have had the shape (0,), and labels come back as floats.
        index = np.asarray(out["index"], np.int64).reshape(-1)
        boxes = np.asarray(out["bboxes"], np.float32).reshape(-1, 4)
        if masks is not None:
            masks = np.asarray(out["masks"], np.uint8)[index] if count else np.zeros((0, *size), np.uint8)
        return Sample(out["image"], _kept(target, index, boxes, masks, size, least=1.0), sample.id)


def _compose(transforms: Sequence["BasicTransform"], target: str, key: str) -> "Compose | None":
    if not transforms:
        return None
    import albumentations as A

    transforms = copy.deepcopy(list(transforms))
    for transform in _every(transforms):
        name = type(transform).__name__
        if not isinstance(transform, A.BasicTransform | A.BaseCompose):
            raise ValueError(f"`augmentation.{key}` holds a {name}; it takes albumentations transforms only.")
        unknown = getattr(transform, "invalid_args", None)
        if unknown:  # albumentations only warns
            known = ", ".join(inspect.signature(type(transform)).parameters)
            raise ValueError(
                f"`augmentation.{key}`: albumentations.{name} has no parameter "
                f"{', '.join(map(repr, unknown))}; it has: {known}."
            )
        if getattr(transform, "fill_mask", None) is not None:
            transform.fill_mask = IGNORE if target == "mask" else 0
    boxes = A.BboxParams("pascal_voc", label_fields=["index"], clip=True, filter_invalid_bboxes=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Got processor for bboxes")  # fine: colour moves no box
        return A.Compose(transforms, bbox_params=boxes if target == "boxes" else None)


def _every(transforms: Iterable[Any]) -> Iterator[Any]:
    """Those in a list and, for ``OneOf`` and its like, those in them."""
    from albumentations import BaseCompose

    for transform in transforms:
        yield transform
        if isinstance(transform, BaseCompose):
            yield from _every(transform.transforms)


def _kept(
    target: dict[str, np.ndarray],
    index: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray | None,
    size: Size,
    least: float,
) -> dict[str, np.ndarray]:
    """The instances of ``index``, at their new ``boxes``, that still show ``least`` pixels each way."""
    boxes = _clipped(boxes, *size)
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = (sides > 0).all(1) & (sides >= least).all(1)
    if masks is not None and least:
        keep &= masks.any((1, 2))
    boxes, sides, index = boxes[keep], sides[keep], index[keep]
    kept = {key: values[index] for key, values in target.items() if key not in ("boxes", "masks")}
    kept["boxes"] = boxes
    if masks is not None:
        kept["masks"] = masks[keep]
    if "area" in kept:
        before = target["boxes"][index]
        before_area = (before[:, 2:] - before[:, :2]).prod(1)
        kept["area"] = (kept["area"] * sides.prod(1) / np.maximum(before_area, 1e-9)).astype(np.float32)
    return kept


def _clipped(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)


def _scale(old: Size, new: Size) -> np.ndarray:
    """What box coordinates are multiplied by, ``[4]``."""
    y, x = new[0] / old[0], new[1] / old[1]
    return np.array([x, y, x, y], np.float32)


def _resized(image: np.ndarray, size: Size) -> np.ndarray:
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size[1], size[0]), interpolation=interpolation)


def _nearest(array: np.ndarray, size: Size) -> np.ndarray:
    """Resizes the last two axes; a pixel's value is that of the pixel its centre falls into."""
    for axis, new in zip((-2, -1), size, strict=True):
        old = array.shape[axis]
        if old != new:
            array = array.take(((np.arange(new) + 0.5) * old / new).astype(np.int64), axis)
    return array
