"""Why detections are wrong, and what each kind of error costs (Bolya et al. 2020, TIDE, sections 2.2 and 2.3)."""

import numpy as np

from paribus.metrics.coco import RECALLS
from paribus.metrics.judged import Judged
from paribus.metrics.matching import ENOUGH, IGNORED, NONE, matches, overlaps

KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
SOME = 0.1  # IoU: below it a detection is of the background


def errors(judged: Judged, classes: int) -> dict[str, list]:
    """A table of the kinds: how many there are, and how much AP50 would gain if these alone were mended.

    A detection that COCO's protocol counts as wrong at IoU 0.5 is held against the object that it overlaps most, of
    equal ones one of its own class: the paper leaves open what it is where several kinds apply. With an IoU of 0.5
    or more it is a ``duplicate``, or of another class: ``classification``; with 0.1 or more ``localization``, or, of
    another class, ``both``; else ``background``. ``missed`` are the objects that no detection has found, nor would
    if its class or its place were right.

    Mended, a wrong class or place becomes that of the object; of several detections of an object the surest stays.
    What is of both, a duplicate or of the background goes. Missed objects go, and a class of which none is left.
    AP50 is that of COCO's protocol. Crowds, and what lies in them, are no errors.
    """
    found, truth, _ = judged
    pairs = overlaps(judged, SOME)
    which = matches(judged, pairs)
    nearest, kinds = _kinds(judged, pairs, which)
    objects = np.flatnonzero(~truth.crowd)
    tried = nearest[np.isin(kinds, ["classification", "localization"])]
    missed = np.setdiff1d(objects, np.concatenate([which[which >= 0], tried]))
    there = np.bincount(truth.labels[objects], minlength=classes)
    counted, right = which != IGNORED, which >= 0
    plain = _ap50(found.scores, found.labels, right, counted, there)
    gained = []
    for kind in KINDS[:-1]:
        mended = kinds == kind
        if kind in ("classification", "localization"):
            at = np.where(mended, nearest, which)
            stays = _surest(at, found.scores)
            labels = np.where(mended, truth.labels[nearest] if len(truth.labels) else 0, found.labels)
            value = _ap50(found.scores, labels, right | mended, counted & (stays | (at < 0)), there)
        else:
            value = _ap50(found.scores, found.labels, right, counted & ~mended, there)
        gained.append(value - plain)
    left = there - np.bincount(truth.labels[missed], minlength=classes)
    gained.append(_ap50(found.scores, found.labels, right, counted, left) - plain)
    counts = [int((kinds == kind).sum()) for kind in KINDS[:-1]]
    return {"error": list(KINDS), "count": [*counts, len(missed)], "ap50_gained": gained}


def _kinds(judged: Judged, pairs: tuple, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each detection the object that it overlaps most (NONE), and the kind of its error ("": none)."""
    found, truth, _ = judged
    there = ~truth.crowd[pairs[1]]
    mine, theirs, iou = (column[there] for column in pairs)
    other = found.labels[mine] != truth.labels[theirs]
    best = np.lexsort((theirs, other, -iou, mine))
    mine, first = np.unique(mine[best], return_index=True)
    best = best[first]
    nearest = np.full(len(which), NONE)
    nearest[mine] = theirs[best]
    kinds = np.full(len(which), "background", dtype="U14")
    near = iou[best] >= ENOUGH
    kinds[mine] = np.where(
        other[best],
        np.where(near, "classification", "both"),
        np.where(near, "duplicate", "localization"),
    )
    kinds[which != NONE] = ""
    return nearest, kinds


def _surest(objects: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """bool ``[N]``: whether a detection is the surest of its object, of equal ones the first."""
    order = np.lexsort((-scores, objects))
    surest = np.zeros(len(objects), bool)
    surest[order[np.unique(objects[order], return_index=True)[1]]] = True
    return surest


def _ap50(
    scores: np.ndarray, labels: np.ndarray, right: np.ndarray, counted: np.ndarray, objects: np.ndarray
) -> float:
    """COCO's: the mean over 101 recalls and over the classes with objects."""
    order = np.argsort(-scores, kind="stable")
    order = order[counted[order]]
    found = []
    for label in np.flatnonzero(objects):
        hits = np.cumsum(right[order[labels[order] == label]])
        precision = hits / np.arange(1, len(hits) + 1)
        largest = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        found.append(largest[np.searchsorted(hits / objects[label], RECALLS)].mean())
    return float(np.mean(found)) if found else float("nan")
