"""Which detection finds which object.

faster-coco-eval tells how many are right, and of which detection only whether it is right at one IoU; VOC's rule
and the kinds of errors need every overlap, between classes too.
"""

from typing import Any, NamedTuple

import numpy as np

from paribus.metrics.coco import MOST
from paribus.metrics.judged import Judged, found_table, judged, truth_table

NONE, IGNORED = -1, -2  # in place of an object
ENOUGH = 0.5  # IoU


class Overlaps(NamedTuple):
    """Pairs of a detection and an object in one image, both by their place in the set, and their IoU; of a crowd the
    share of the detection that lies in it. By detection, then by object."""

    found: np.ndarray
    truth: np.ndarray
    iou: np.ndarray


def overlaps(judged: Judged, least: float = ENOUGH) -> Overlaps:
    """All pairs that overlap by ``least`` or more, whatever their classes."""
    found, truth, sizes = judged
    ends = np.arange(len(sizes) + 1)
    first_found, first_true = np.searchsorted(found.images, ends), np.searchsorted(truth.images, ends)
    parts = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    for i in np.flatnonzero((np.diff(first_found) > 0) & (np.diff(first_true) > 0)):
        mine, theirs = slice(*first_found[i : i + 2]), slice(*first_true[i : i + 2])
        iou = _ious(found.boxes[mine], truth.boxes[theirs], truth.crowd[theirs])
        rows, columns = np.nonzero(iou >= least)
        parts.append((rows + mine.start, columns + theirs.start, iou[rows, columns]))
    return Overlaps(*map(np.concatenate, zip(*parts, strict=True)))


def _ious(found: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    high = np.minimum(found[:, None, 2:], truth[None, :, 2:])
    inside = (high - low).clip(0).prod(2)
    mine, theirs = (found[:, 2:] - found[:, :2]).prod(1), (truth[:, 2:] - truth[:, :2]).prod(1)
    union = mine[:, None] + np.where(crowd, 0, theirs - inside)
    return inside / np.maximum(union, np.finfo(float).tiny)


def matches(judged: Judged, pairs: Overlaps) -> np.ndarray:
    """COCO's at IoU 0.5, int64 ``[N]``: of each detection the object that it finds; NONE; or IGNORED, in a crowd or
    not among the first 100 of its class in its image.

    The surest detection chooses first, of the objects of its class that nobody has found the one that it overlaps
    most.
    """
    found, truth, _ = judged
    order = np.argsort(-found.scores, kind="stable")
    which = np.full(len(order), NONE)
    which[_beyond(found.images, found.labels, order)] = IGNORED
    enough = (pairs.iou >= ENOUGH) & (found.labels[pairs.found] == truth.labels[pairs.truth])
    candidates: dict[int, list[tuple[int, float]]] = {}
    for mine, theirs, iou in zip(*(column[enough].tolist() for column in pairs), strict=True):
        candidates.setdefault(mine, []).append((theirs, iou))
    taken: set[int] = set()
    for mine in order.tolist():
        if mine not in candidates or which[mine] == IGNORED:
            continue
        best, most = NONE, 0.0
        for theirs, iou in candidates[mine]:
            if truth.crowd[theirs]:
                best = IGNORED if best == NONE else best
            elif theirs not in taken and iou >= most:  # of equal ones the last
                best, most = theirs, iou
        which[mine] = best
        taken.add(best)
    return which


def _beyond(images: np.ndarray, labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Which detections come after the first 100 of their class in their image."""
    groups = (images * (labels.max(initial=0) + 1) + labels)[order]
    sorted_by = np.argsort(groups, kind="stable")
    groups = groups[sorted_by]
    places = np.arange(len(groups)) - np.searchsorted(groups, groups)
    return order[sorted_by[places >= MOST[-1]]]


def wrong_and_missed(found: dict[str, Any], truth: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Of one image, as `DetectionMetrics.update` has it: which detections find nothing, and which objects are not
    found, both bool ``[N]``. Crowds are not missed, and what lies in them is not wrong.
    """
    whole = judged([found_table(found)], [truth_table(truth)])
    which = matches(whole, overlaps(whole))
    missed = ~whole.truth.crowd
    missed[which[which >= 0]] = False
    return which == NONE, missed
