"""What a run's judged images add to its metric, and the metric of any draw of them. No torch, no lightning.

A draw says how often each image is in it. The metric is computed anew from what the drawn images add to it, never as
a mean of the images' own values; an image that is drawn twice counts as two. The files are judged_images.py's.
"""

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paribus.results import Run

RECALLS = np.linspace(0, 1, 101)
# COCO's 0.57 is a little more than 57 of 100: those recalls that are not reached by being equal.
MISSED = np.arange(101) / 100 < RECALLS

# How often each image was drawn, float64 [draws, images] -> the metric of each draw, float64 [draws].
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Images:
    """A run's images, by their ids. same: equal for the same images with the same labels. correct: of labels, bool
    ``[images]``. work: how many numbers the metric of a draw sums."""

    number: int
    same: str
    metric: Statistic
    work: int
    correct: np.ndarray | None = None


def _same(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def read(run: Run, metric: str) -> Images | None:
    """The images of a run, for a metric such as test/accuracy; None if it has not written what that is made of."""
    split, _, name = metric.partition("/")
    table, arrays = run.path / f"images_{split}.csv", run.path / f"images_{split}.npz"
    if table.is_file():
        return _labels(table) if name == "accuracy" else None
    if not arrays.is_file():
        return None
    with np.load(arrays, allow_pickle=False) as held:
        if "hits" in held and name in OF_PIXELS:
            return _pixels(held, name)
        return _boxes(held, IOUS[name]) if "right" in held and name in IOUS else None


def _labels(path: Path) -> Images:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    columns = [np.array(column) for column in zip(*rows, strict=True)] or [np.zeros(0, "U1")] * 4
    correct = columns[3] == "1"
    hits = correct.astype(np.float64)
    return Images(len(rows), _same(*columns[:2]), lambda drawn: drawn @ hits / len(hits), 0, correct)


# Of hits, truth and predicted [resamples, C], as metrics/segmentation.py has them.
OF_PIXELS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "accuracy": lambda hits, truth, _: hits.sum(1) / truth.sum(1),
    "accuracy_macro": lambda hits, truth, _: _mean(hits / truth),
    "miou": lambda hits, truth, predicted: _mean(hits / (truth + predicted - hits)),
    "fwiou": lambda hits, truth, predicted: (
        (truth * np.nan_to_num(hits / (truth + predicted - hits))).sum(1) / truth.sum(1)
    ),
}


def _pixels(held: Mapping[str, np.ndarray], name: str) -> Images:
    counts = np.stack([held["hits"], held["truth"], held["predicted"]], axis=1).astype(np.float64)
    flat = counts.reshape(len(counts), -1)

    def statistic(drawn: np.ndarray) -> np.ndarray:
        sums = (drawn @ flat).reshape(len(drawn), 3, -1)
        with np.errstate(invalid="ignore"):  # 0 / 0 is a class that is not there
            return OF_PIXELS[name](*sums.transpose(1, 0, 2))

    return Images(len(counts), _same(held["ids"], held["truth"]), statistic, flat.size // 10)


def _mean(values: np.ndarray) -> np.ndarray:
    """Of each row, over what is defined; NaN if nothing is."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0.0).sum(1) / there.sum(1)


# --- average precision -----------------------------------------------------------------------------

IOUS = {"ap": range(10), "ap50": range(1), "ap75": range(5, 6)}  # of 0.5, 0.55, ..., 0.95


def _boxes(held: Mapping[str, np.ndarray], ious: Sequence[int]) -> Images:
    """COCO's average precision. An image that is drawn twice is there twice: each of its detections counts double
    where it stands, and its objects too. The order of the scores is that of the set, whatever is drawn."""
    objects = held["objects"].astype(np.float64)
    order = np.argsort(-held["score"], kind="stable")
    label, image = held["label"][order], held["image"][order]
    right, passed = held["right"][:, order], held["passed"][:, order]
    of_class = []
    for c in np.flatnonzero(objects.any(0)):
        mine = np.flatnonzero(label == c)
        hits = [np.flatnonzero(right[t, mine]) for t in ious]
        beside = [np.flatnonzero(passed[t, mine]) for t in ious]
        # Precision is asked for at hits alone, so what comes after the last one does not matter.
        mine = mine[: max((at[-1] + 1 for at in hits if len(at)), default=0)]
        of_class.append((c, image[mine], hits, [at[at < len(mine)] for at in beside]))

    def statistic(drawn: np.ndarray) -> np.ndarray:
        there = drawn @ objects
        counts = np.ascontiguousarray(drawn.T.astype(np.int32))  # a row an image
        values = np.full((len(drawn), objects.shape[1]), np.nan)
        for c, images, hits, beside in of_class:
            drawn_of = counts[images]  # how often each detection is there
            ranked = np.cumsum(drawn_of, axis=0, dtype=np.int32)
            precisions = []
            for at, aside in zip(hits, beside, strict=True):
                ranks = ranked[at]
                if len(aside):
                    left_out = np.cumsum(drawn_of[aside], axis=0, dtype=np.int32)
                    before = np.searchsorted(aside, at)
                    ranks = ranks - np.where((before > 0)[:, None], left_out[before - 1], 0)
                found = np.cumsum(drawn_of[at], axis=0, dtype=np.int32)
                precisions.append(_average_precision(found, ranks, there[:, c]))
            values[:, c] = np.where(there[:, c] > 0, np.mean(precisions, axis=0), np.nan)
        return _mean(values)

    work = sum(len(images) + 3 * sum(map(len, hits)) for _, images, hits, _ in of_class)
    return Images(len(objects), _same(held["ids"], held["objects"]), statistic, work)


def _average_precision(found: np.ndarray, ranks: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """The mean over COCO's 101 recalls of the largest precision at this or a larger recall.

    found and ranks int ``[hits, resamples]``: at each hit, how many there are up to it, and how many detections;
    objects ``[resamples]``.
    """
    if not len(found):
        return np.zeros(len(objects))
    largest = found / np.maximum(ranks, 1)
    for row in range(len(largest) - 2, -1, -1):  # np.maximum.accumulate takes twice as long
        np.maximum(largest[row], largest[row + 1], out=largest[row])
    percent = 100.0 * found / np.maximum(objects, 1)
    reached = np.floor(percent)
    reached -= (percent == reached) & MISSED[reached.astype(np.intp)]
    # Each recall is reached at one hit: that of 0 at the first.
    first = largest[0] * (reached[0] + 1)
    return (first + (largest[1:] * np.diff(reached, axis=0)).sum(0)) / len(RECALLS)
