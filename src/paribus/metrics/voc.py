"""PASCAL VOC's average precision of boxes at IoU 0.5, of 2007 and of 2010 to 2012. No library of ours has them."""

import numpy as np

from paribus.metrics.judged import Judged
from paribus.metrics.matching import ENOUGH, IGNORED, NONE, Overlaps


def average_precisions(judged: Judged, pairs: Overlaps, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each class the area under the curve (VOC 2010 to 2012: devkit, section 3.4.1 and VOCap.m), and the mean of
    the largest precision at the recalls 0, 0.1, ..., 1 (2007: Everingham et al. 2010, IJCV, section 4.2); float64
    ``[classes]``, NaN without an object.

    All detections of a class are ranked by their scores, equal ones as they come. Each is held against the object of
    its class in its image that it overlaps most: the first that overlaps it by half or more finds it, later ones are
    wrong. Objects marked difficult need not be found, and what finds them is neither right nor wrong; so are COCO's
    crowds, and what lies in them.

    The devkit counts a box's pixels from xmin to xmax, both ends within, and so adds 1 to every difference; boxes
    here run between the pixels' edges, xmin - 1 to xmax, and nothing is to be added: the overlaps are the same.
    """
    found, truth, _ = judged
    which = _held_against(judged, pairs)
    wanted = ~(truth.difficult | truth.crowd)
    order = np.argsort(-found.scores, kind="stable")
    right = np.zeros(len(order), bool)
    at_object = order[which[order] >= 0]
    _, first = np.unique(which[at_object], return_index=True)
    right[at_object[first]] = True
    counted = which != IGNORED
    counted[which >= 0] = wanted[which[which >= 0]]
    results = []
    for label in range(classes):
        ranked = order[(found.labels[order] == label) & counted[order]]
        results.append(_areas(right[ranked], int((wanted & (truth.labels == label)).sum())))
    voc, voc07 = np.array(results).reshape(-1, 2).T
    return voc, voc07


def _held_against(judged: Judged, pairs: Overlaps) -> np.ndarray:
    """int64 ``[N]``: of each detection the object that it overlaps most, by half at least; NONE; IGNORED: a crowd."""
    found, truth, _ = judged
    which = np.full(len(found.scores), NONE)
    same = (found.labels[pairs.found] == truth.labels[pairs.truth]) & (pairs.iou >= ENOUGH)
    crowd = truth.crowd[pairs.truth]
    which[pairs.found[same & crowd]] = IGNORED
    mine, theirs, iou = (column[same & ~crowd] for column in pairs)
    best = np.lexsort((theirs, -iou, mine))  # of equal ones the first
    mine, first = np.unique(mine[best], return_index=True)
    which[mine] = theirs[best][first]
    return which


def _areas(right: np.ndarray, objects: int) -> tuple[float, float]:
    """Of one class's ranked detections."""
    if not objects:
        return float("nan"), float("nan")
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    largest = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)  # at this or a larger recall
    # In whole numbers: 0.1 is none of float64, and 3 of 10 objects would miss the recall 0.3.
    eleven = largest[np.searchsorted(10 * hits, objects * np.arange(11))]
    return float(largest[:-1][right].sum() / objects), float(eleven.mean())
