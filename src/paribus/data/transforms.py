"""From a sample as read to a sample as the network sees it: random changes, and one size.

With scaled_crop.py the only file that imports albumentations, and not before a list of its transforms is given.
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
import torch
import torch.nn.functional as F
from torch import Tensor

from paribus.data.geometry import Size, moved_objects, moved_proposals, resize, resize_nearest, zoom
from paribus.data.samples import IGNORE, Sample

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or its import asks the package index for news
cv2.setNumThreads(0)  # the loader's workers are the threads

if TYPE_CHECKING:
    from albumentations import BasicTransform, Compose


class Transform:
    """``before_resize``, then the fit to ``size``, then ``after_resize``.

    Both lists hold albumentations transforms and run in training only. Before the resize they see
    the image at its own size: crops belong there, being cheaper and sharper; colour belongs after.

    target: what the samples' targets are: ``label``, ``labels``, ``mask`` or ``boxes``.
    size: (height, width) that the network sees; None leaves every image its own.
    fit: ``stretch`` changes the aspect; ``crop`` covers the size and cuts off what exceeds it, equally
        on both sides; ``pad`` fits inside, and fills the right and the bottom with black.
    side: without a size, larger images are shrunk until their shorter side has so many pixels.
    native: masks stay as they are, and the image alone is fitted; what is answered on it is brought back
        to the mask's size by ``restore_logits``. Boxes come twice: fitted, and as the file has them among
        ``judged``, with the file's ``size``, int64 (height, width); what is found is brought back to it by
        ``restoring``.

    Masks are resized to the nearest pixel; what lies outside the image is 255 in a mask and 0 in an
    instance's mask, whatever ``fill_mask`` a transform was given (one that leaves the mask alone,
    ``fill_mask=None``, still does). Boxes are cut at the border; an instance of which no whole
    pixel is left goes, with all that belongs to it. ``area`` grows and shrinks with its box, so that
    COCO's small, medium and large are sizes on the image as the network sees it. ``proposals`` move with the
    image; those of which no whole pixel is left go.
    """

    def __init__(
        self,
        *,
        target: Literal["label", "labels", "mask", "boxes"],
        size: tuple[int, int] | None,
        fit: Literal["stretch", "crop", "pad"] = "stretch",
        native: bool = False,
        side: int | None = None,
        before_resize: Sequence["BasicTransform"] = (),
        after_resize: Sequence["BasicTransform"] = (),
    ):
        if fit not in ("stretch", "crop", "pad"):
            raise ValueError(f"`data.fit` is {fit!r}; it is one of stretch, crop, pad.")
        self.target = target
        self.size: Size | None = None if size is None else (size[0], size[1])
        self.fit, self.native, self.side = fit, native, side
        self.before = _compose(before_resize, target, "before_resize")
        self.after = _compose(after_resize, target, "after_resize")

    def __call__(self, sample: Sample, seed: int | None) -> Sample:
        """seed: made from (seed, epoch, index), all that chance depends on; None: no random change."""
        if self.target == "boxes" and "judged" in sample.target:  # it has been here, and was packed
            return sample
        if seed is None or not (self.before or self.after):
            fitted = self._fitted(sample)
            if self.native and self.target == "boxes":
                judged = sample.target | {"size": np.array(sample.image.shape[:2], np.int64)}
                judged.pop("proposals", None)
                fitted = fitted._replace(target=fitted.target | {"judged": judged})
            return fitted
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

    def restore_masks(self, masks: Tensor, original: Size) -> Tensor:
        """Masks of instances on a fitted image, bool or shares in [0, 1] ``[N, h, w]``, as those on the original, bool
        ``[N, H, W]``; empty where ``crop`` has cut.
        """
        parts = [masks.new_zeros((0, *original), dtype=torch.bool)]
        for part in masks.split(16) if len(masks) else ():  # as numbers they take 32 times the memory
            parts.append(self.restore_logits(part[None], original)[0] > 0.5)
        restored = torch.cat(parts)
        unseen = self.unseen(original)
        return restored.logical_and_(~torch.from_numpy(unseen).to(masks.device)) if unseen.any() else restored

    def restore_image(self, image: np.ndarray, original: Size) -> np.ndarray:
        """A fitted image ``[h, w, 3]`` at the size of the original; black where ``crop`` has cut."""
        if self.size is None or self.size == original:
            return image[: original[0], : original[1]]
        (height, width), top, left = self._place(original)
        seen = image[: height - top, : width - left]
        whole = np.zeros((height, width, 3), image.dtype)
        whole[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
        return resize(whole, original)

    def unseen(self, original: Size) -> np.ndarray:
        """bool ``[H, W]``: the pixels of the original that the network did not see, cut off by ``crop``."""
        unseen = np.zeros(original, bool)
        if self.size is not None and self.size != original and self.fit == "crop":
            (height, width), top, left = self._place(original)
            whole = np.ones((height, width), bool)
            whole[top : top + self.size[0], left : left + self.size[1]] = False
            unseen = resize_nearest(whole, original)
        return unseen

    def restore_boxes(self, boxes: np.ndarray, original: Size) -> np.ndarray:
        """Boxes ``[N, 4]`` found on the fitted image, in pixels of the original, cut at its border."""
        offset, scale, border = self.restoring(original)
        return np.clip((np.asarray(boxes, np.float32).reshape(-1, 4) + offset) * scale, 0, border)

    def restoring(self, original: Size) -> np.ndarray:
        """What is added to the corners of a box on the fitted image, then multiplied with, and where it is then
        cut, to be a box on the original: float32 ``[3, 4]``.
        """
        offset, scale = np.zeros(4, np.float32), np.ones(4, np.float32)
        if self.size is not None and self.size != original:
            resized, top, left = self._place(original)
            offset, scale = np.array([left, top, left, top], np.float32), zoom(resized, original)
        return np.stack([offset, scale, np.array([*original[::-1]] * 2, np.float32)])

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
        if self.size is None and self.side and min(original) > self.side:
            height, width = (max(1, round(n * self.side / min(original))) for n in original)
            return Transform(target=self.target, size=(height, width), native=self.native)._fitted(sample)
        if self.size is None or original == self.size:
            return sample
        resized, top, left = self._place(original)
        image = self._placed(resize(sample.image, resized), top, left, 0)
        target = sample.target
        if self.target == "mask" and not self.native:
            target = self._placed(resize_nearest(target, resized), top, left, IGNORE)
        elif self.target == "boxes":
            factor, offset = zoom(original, resized), np.array([left, top, left, top], np.float32)
            boxes, proposals = target["boxes"] * factor - offset, target.get("proposals")
            masks = target.get("masks")
            if masks is not None:
                resized_masks = resize_nearest(masks, resized).transpose(1, 2, 0)
                masks = np.ascontiguousarray(self._placed(resized_masks, top, left, 0).transpose(2, 0, 1))
            # A resize hides nothing: what is tiny then is still there to be found, and judged.
            least = 1.0 if self.fit == "crop" else 0.0
            target = moved_objects(target, np.arange(len(boxes)), boxes, masks, self.size, least)
            if proposals is not None:
                target["proposals"] = moved_proposals(proposals * factor - offset, self.size)
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
        # Which box is which, in a column of its own. Proposals go beside the boxes, and decide nothing.
        count = len(target["boxes"])
        data = {"image": sample.image, "bboxes": np.column_stack([target["boxes"], np.arange(count)])}
        masks, proposals = target.get("masks"), target.get("proposals")
        if masks is not None and count:
            data["masks"] = masks
        if proposals is not None:
            data["proposals"] = proposals
        out = compose(**data)
        size: Size = out["image"].shape[:2]
        table = np.asarray(out["bboxes"]).reshape(-1, 5)  # empty results have had the shape (0,)
        index, boxes = table[:, 4].astype(np.int64), table[:, :4].astype(np.float32)
        if masks is not None:
            masks = np.asarray(out["masks"], np.uint8)[index] if count else np.zeros((0, *size), np.uint8)
        target = moved_objects(target, index, boxes, masks, size, least=1.0)
        if proposals is not None:
            moved = np.asarray(out["proposals"], np.float32).reshape(-1, 4)
            target["proposals"] = moved_proposals(moved, size)
        return Sample(out["image"], target, sample.id)


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
        if target != "boxes" and isinstance(transform, A.BBoxSafeRandomCrop | A.AtLeastOneBBoxRandomCrop):
            raise ValueError(
                f"`augmentation.{key}`: albumentations.{name} crops around boxes, and here is `{target}`: "
                "augmentation=color, say"
            )
        if getattr(transform, "fill_mask", None) is not None:
            transform.fill_mask = IGNORE if target == "mask" else 0
    boxes = A.BboxParams("pascal_voc", clip=True, filter_invalid_bboxes=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Got processor for bboxes")  # fine: colour moves no box
        if target != "boxes":
            return A.Compose(transforms)
        return A.Compose(transforms, bbox_params=boxes, additional_targets={"proposals": "bboxes"})


def _every(transforms: Iterable[Any]) -> Iterator[Any]:
    """Those in a list and, for ``OneOf`` and its like, those in them."""
    from albumentations import BaseCompose

    for transform in transforms:
        yield transform
        if isinstance(transform, BaseCompose):
            yield from _every(transform.transforms)
