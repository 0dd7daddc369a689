"""Detections and objects of a whole set: what a process keeps of an image, and what is judged at the end."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

END = b"\n"  # between two run-length codes, which are ASCII from 48 on


class Found(NamedTuple):
    """What was found. boxes float64 ``[N, 4]`` (x1, y1, x2, y2, pixels), labels int64 ``[N]``, scores float64
    ``[N]``; images int64 ``[N]``, the place of each one's image in the set, ascending; masks: None, or COCO's
    run-length code of each."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    images: np.ndarray
    masks: list[bytes] | None


class Truth(NamedTuple):
    """What there is; as in `Found`. crowd and difficult bool ``[N]``, area float64 ``[N]``, marked: whether the set
    says what is difficult."""

    boxes: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    area: np.ndarray
    masks: list[bytes] | None


class Judged(NamedTuple):
    """A whole set. sizes int64 ``[images, 2]``: (height, width), 0 where it is not known."""

    found: Found
    truth: Truth
    sizes: np.ndarray


# --- of an image -----------------------------------------------------------------------------------


def found_table(image: dict[str, Any]) -> Tensor:
    """float32 ``[N, 6]``: x1, y1, x2, y2, label, score."""
    return _table(image, {"labels": 0.0, "scores": 0.0})


def truth_table(image: dict[str, Any]) -> Tensor:
    """float32 ``[N, 8]``: x1, y1, x2, y2, label, iscrowd, difficult, area (NaN: that of the box)."""
    return _table(image, {"labels": 0.0, "iscrowd": 0.0, "difficult": 0.0, "area": torch.nan})


def _table(image: dict[str, Any], columns: dict[str, float]) -> Tensor:
    boxes = tensor(image["boxes"]).reshape(-1, 4).float()
    given = [
        tensor(image[key]).float() if key in image else torch.full_like(boxes[:, 0], value)
        for key, value in columns.items()
    ]
    return torch.cat([boxes, torch.stack(given, dim=1)], dim=1)


def tensor(values: Any) -> Tensor:
    """Of an array, which may be part of a packed file and read-only, a copy."""
    return values if isinstance(values, Tensor) else torch.tensor(values)


def encoded(masks: Any) -> Tensor:
    """Masks ``[N, H, W]``, nonzero inside, as uint8 ``[bytes]``: a bitmap of one object would take more than all."""
    from faster_coco_eval.core import mask as coco_masks

    bitmaps = np.asarray(masks.cpu() if isinstance(masks, Tensor) else masks).astype(bool, copy=False)
    count, *size = bitmaps.shape
    runs = [{"counts": counts, "size": size} for counts in _runs(bitmaps)] if count else []
    codes = coco_masks.frPyObjects(runs, *size) if count else []
    return torch.from_numpy(np.frombuffer(END.join(code["counts"] for code in codes), np.uint8).copy())


def _runs(bitmaps: np.ndarray) -> list[list[int]]:
    """Of each mask, column by column: how many pixels outside, how many inside, and so on.

    The library's encode goes through all pixels, and wants the masks transposed, where few pixels differ from the one
    above. From those alone the codes are the same, bit for bit, in a fifth to a third of the time (480 x 640).
    """
    count, height, width = bitmaps.shape
    mask, inner = np.divmod(np.flatnonzero(bitmaps[:, 1:] != bitmaps[:, :-1]), (height - 1) * width or 1)
    row, column = np.divmod(inner, width)
    # Above a column lies the end of the one before it, above the first the outside.
    above = np.concatenate([np.zeros((count, 1), bool), bitmaps[:, -1, :-1]], axis=1)
    top_mask, top_column = np.nonzero(bitmaps[:, 0] != above)
    size = height * width
    below, tops = mask * size + column * height + row + 1, top_mask * size + top_column * height
    changes = np.sort(np.concatenate([below, tops]))
    ends = np.searchsorted(changes, np.arange(1, count) * size)
    return [
        np.diff(part - i * size, prepend=0, append=size).tolist()
        for i, part in enumerate(np.split(changes, ends))
    ]


# --- of the set ------------------------------------------------------------------------------------


def judged(
    found: Sequence[Tensor],
    truth: Sequence[Tensor],
    sizes: Sequence[Tensor] = (),
    found_masks: Sequence[Tensor] = (),
    true_masks: Sequence[Tensor] = (),
) -> Judged:
    """The tables of all images as one; sizes int64 ``[1, 2]`` each. One transfer from the device."""
    f, t = _rows(found, 6), _rows(truth, 8)
    sides = t[:, 2:4] - t[:, :2]
    return Judged(
        Found(f[:, :4], f[:, 4].astype(int), f[:, 5], _images(found), _codes(found_masks)),
        Truth(
            t[:, :4],
            t[:, 4].astype(int),
            _images(truth),
            t[:, 5] != 0,
            t[:, 6] != 0,
            np.where(np.isnan(t[:, 7]), sides.prod(1), t[:, 7]),
            _codes(true_masks),
        ),
        torch.cat(list(sizes)).cpu().numpy() if sizes else np.zeros((len(found), 2), np.int64),
    )


def _rows(images: Sequence[Tensor], columns: int) -> np.ndarray:
    return torch.cat(list(images)).cpu().double().numpy() if images else np.zeros((0, columns))


def _images(images: Sequence[Tensor]) -> np.ndarray:
    return np.repeat(np.arange(len(images)), [len(image) for image in images])


def _codes(images: Sequence[Tensor]) -> list[bytes] | None:
    if not images:
        return None
    return [code for image in images if len(image) for code in image.cpu().numpy().tobytes().split(END)]
