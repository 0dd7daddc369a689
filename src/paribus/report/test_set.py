"""What the test set says: how far a difference between two levels could move with other images of the same kind.

The trained networks stay as they are and the images are drawn again, with replacement, the same ones for both levels
(the paired bootstrap; Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13). The metric is
computed anew from what the drawn images add to it, never as a mean of the images' values. Over several seeds it is
the mean of the seeds' metrics in each draw: the images are what is drawn, the seeds are fixed. So this is not the
uncertainty of training, which statistics.py tells.

It reads what judged_images.py has written. No torch, no lightning.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from paribus.report.comparison import Comparison, Level, Scale
from paribus.report.images import Images, read
from paribus.report.sentences import p_word

RESAMPLES, FEWEST = 2000, 200  # the fewest of a set so large that all would take too long
MOST_WORK = 1_000_000_000  # numbers that are summed over all resamples and runs: some 7 s
LEAST = 10  # images
CONFIDENCE = 0.95
Place = tuple[str, int]  # a level's label, and a seed


@dataclass(frozen=True)
class OverImages:
    """The difference of a level to its baseline over the images of the test set, in the metric's own unit.

    low and high: the 95 % percentile interval of the paired bootstrap. mcnemar: of each seed the exact two-sided p of
    McNemar's test; empty where the metric is not the accuracy of labels. why_not: why there is no number, then
    difference, low and high are None.
    """

    level: str
    baseline: str
    seeds: list[int]
    images: int
    resamples: int = 0
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    mcnemar: dict[int, float] = field(default_factory=dict)
    why_not: str = ""


# --- two levels ------------------------------------------------------------------------------------


def uncertainty(comparison: Comparison, resamples: int = RESAMPLES) -> list[OverImages]:
    """One entry for each level with a baseline, over the seeds of which both runs say what each image added; none
    where the runs do not say it of this metric, and of a set of fewer than 10 images.

    Runs that were judged on other images, or again on another set, are named in ``why_not``. Fewer resamples, 200
    at least, where these would take longer than some 7 s.
    """
    levels = {level.label: level for level in comparison.levels}
    pairs = [(level, levels[level.reference]) for level in comparison.levels if level.reference in levels]
    held = _held(comparison, {at.label: at for pair in pairs for at in pair}.values())
    seeds = {
        level.label: [s for s in sorted(level.values) if {(level.label, s), (to.label, s)} <= held.keys()]
        for level, to in pairs
    }
    pairs = [(level, to) for level, to in pairs if seeds[level.label]]
    if not pairs:
        return []
    [(same, _)] = Counter(images.same for images, _ in held.values()).most_common(1)
    number = next(images.number for images, _ in held.values() if images.same == same)
    if number < LEAST:
        return []
    refused = {place: _refused(images, same, value, place) for place, (images, value) in held.items()}
    used = {place: images for place, (images, _) in held.items() if not refused[place]}
    fewer = MOST_WORK // max(1, sum(images.work for images in used.values()))
    resamples = min(resamples, max(FEWEST, fewer))
    drawn: dict[Place, list[np.ndarray]] = {place: [] for place in used}
    for counts in draws(number, resamples):
        for place, images in used.items():
            drawn[place].append(images.metric(counts))
    values = {place: np.concatenate(parts) for place, parts in drawn.items()}

    found = []
    for level, to in pairs:
        mine = seeds[level.label]
        both = [((level.label, seed), (to.label, seed)) for seed in mine]
        one = OverImages(level.label, to.label, mine, number)
        if why_not := next((why for pair in both for place in pair if (why := refused[place])), ""):
            found.append(replace(one, why_not=why_not))
            continue
        low, high = interval(np.mean([values[a] - values[b] for a, b in both], axis=0))
        tests = {seed: _mcnemar(used[a], used[b]) for seed, (a, b) in zip(mine, both, strict=True)}
        found.append(
            replace(
                one,
                resamples=resamples,
                difference=math.fsum(held[a][1] - held[b][1] for a, b in both) / len(both),
                low=low,
                high=high,
                mcnemar={seed: p for seed, p in tests.items() if p is not None},
            )
        )
    return found


def _held(comparison: Comparison, levels: Iterable[Level]) -> dict[Place, tuple[Images, float]]:
    """What the runs have written, and the values in their results."""
    return {
        (level.label, seed): (images, value)
        for level in levels
        for seed, value in level.values.items()
        if (images := read(level.runs[seed], comparison.metric))
    }


def _refused(images: Images, same: str, value: float, place: Place) -> str:
    run = f"{place[0]} seed {place[1]}"
    if images.same != same:
        return f"{run} was judged on other images than most, or by other labels"
    own = float(images.metric(np.ones((1, images.number)))[0])
    if not abs(own - value) < 1e-6:  # judged again since, on another set or in another way
        return f"the images of {run} make {own:.6g}, and its result is {value:.6g}"
    return ""


# --- of all metrics --------------------------------------------------------------------------------


def draws(images: int, resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each image was drawn, float64 ``[some resamples, images]`` at a time, ``resamples`` in all."""
    generator = np.random.default_rng(seed)
    size = max(1, min(500, 2_000_000 // images))
    for first in range(0, resamples, size):
        rows = range(first, min(first + size, resamples))
        # A row at a time stays in the cache: four times as fast as all at once, or as a multinomial.
        yield np.array(
            [np.bincount(generator.integers(0, images, images), minlength=images) for _ in rows], np.float64
        )


def interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentiles that hold `confidence` of them; a resample in which the metric is not defined is left out."""
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p of McNemar's test (1947): whether images that one of two networks alone has right, ``gained``,
    are as likely as those that the other alone has right, ``lost``. 1 where there are none."""
    from scipy.special import (
        bdtr,
    )  # scipy.stats.binomtest is the same, and takes three times as long to import

    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def _mcnemar(level: Images, baseline: Images) -> float | None:
    if level.correct is None or baseline.correct is None:
        return None
    gained, lost = level.correct & ~baseline.correct, baseline.correct & ~level.correct
    return mcnemar(int(gained.sum()), int(lost.sum()))


# --- in words --------------------------------------------------------------------------------------


def table(comparison: Comparison, found: Sequence[OverImages]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: a row for each level with an interval, as the report's other tables are printed."""
    scale = Scale.of(comparison)
    tested = any(one.mcnemar for one in found)
    difference = "difference" + ", points" * scale.percent
    header = ["level", "baseline", "seeds", "images", difference, "95 % over images"]
    rows = [
        [
            one.level,
            one.baseline,
            str(len(one.seeds)),
            f"{one.images:,}",
            scale(one.difference, "+"),
            f"{scale(one.low, '+')} to {scale(one.high, '+')}",
            *([_ps(one.mcnemar)] * tested),
        ]
        for one in found
        if not one.why_not
    ]
    return header + ["McNemar's p by seed"] * tested, rows


def sentences(comparison: Comparison, found: Sequence[OverImages]) -> list[str]:
    """What the intervals are, which levels they leave open, and which have none; empty if nothing is known."""
    known = [one for one in found if not one.why_not]
    lines = []
    if known:
        one = known[0]
        split = comparison.metric.partition("/")[0]
        lines.append(
            f"Uncertainty of the {split} set, not of training: the trained networks stay, the {one.images:,} images are "
            f"drawn again, the same for both levels (paired bootstrap, {one.resamples:,} resamples, 95 % percentile "
            "interval; not corrected for the number of levels)."
        )
        for where, levels in _by_luck(known).items():
            lines.append(f"{where} the luck of these images: {', '.join(levels)}.")
        if any(one.mcnemar for one in known):
            lines.append(
                "McNemar's exact test asks of one seed's two networks whether each is right as often."
            )
    return lines + [f"{one.level}: nothing over images: {one.why_not}." for one in found if one.why_not]


def _by_luck(known: Sequence[OverImages]) -> dict[str, list[str]]:
    """The levels whose interval over the images leaves out 0, and those whose does not."""
    found: dict[str, list[str]] = {}
    for one in known:
        within = one.low is not None and one.high is not None and one.low <= 0 <= one.high
        found.setdefault("Within" if within else "Beyond", []).append(one.level)
    return found


def _ps(mcnemar: Mapping[int, float]) -> str:
    return ", ".join(map(p_word, mcnemar.values()))
