"""Means, differences and what may be said of them, over a few seeds.

t intervals and paired t tests: with three seeds a nominal 95 % interval covers 94.5 % by t and 74 % by
the percentile bootstrap (tests/test_statistics.py simulates it), and the exact sign-flip test cannot go
below p = 0.25. Differences are paired by seed: the seed sets the initial weights
and the order of the data, so what two levels share of its luck cancels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

CONFIDENCE = 0.95
SIGNIFICANT = 0.05
MOST_PAIRS = 40
POWER = 0.8  # the probability with which a plan wants to show a true difference
Mode = Literal["max", "min"]


@dataclass(frozen=True)
class Summary:
    """Of n values: their mean, standard deviation (n - 1), and half the width of the t interval of the
    mean; std and half are None for one value, which says nothing of its spread."""

    n: int
    mean: float
    std: float | None
    half: float | None


@dataclass(frozen=True)
class Paired:
    """The mean difference to a baseline over the n seeds that both have, half the width of its t interval,
    and two-sided p of the paired t test and of the exact sign-flip test.

    half and p are None where the t test does not apply: one pair, or n differences equal to the last digit
    (scores of a small test set are steps; a spread of 0 is then luck, and t would be infinite). Differences
    that are all 0 have p = 1.
    """

    n: int
    difference: float
    half: float | None
    p: float | None
    p_sign_flip: float | None  # None past 40 pairs, where the t test is as good


def summary(values: Sequence[float], confidence: float = CONFIDENCE) -> Summary:
    """Mean, standard deviation and t interval of a sample that is not empty."""
    n = len(values)
    if n == 0:
        raise ValueError("a summary needs at least one value")
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(n, mean, None, None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Summary(n, mean, std, _t_quantile(n - 1, confidence) * std / math.sqrt(n))


def paired(
    values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Paired | None:
    """Compare two levels, each {seed: value}, over the seeds that both have; None if they share none."""
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        return None
    found = [values[seed] - baseline[seed] for seed in seeds]
    of = summary(found, confidence)
    p_sign_flip = sign_flip(found) if len(found) <= MOST_PAIRS else None
    if of.std is None or of.half is None:
        return Paired(of.n, of.mean, None, None, p_sign_flip)
    # Rounding leaves equal differences a spread of some 1e-17 of what was subtracted.
    scale = max(abs(values[seed]) + abs(baseline[seed]) for seed in seeds)
    if of.std <= 1e-12 * scale:
        same = abs(of.mean) <= 1e-12 * scale
        return Paired(of.n, of.mean, 0.0 if same else None, 1.0 if same else None, p_sign_flip)
    t = of.mean / (of.std / math.sqrt(of.n))
    return Paired(of.n, of.mean, of.half, _t_two_sided(of.n - 1, t), p_sign_flip)


def sign_flip(differences: Sequence[float]) -> float:
    """Exact two-sided p of the paired sign-flip (Fisher's randomization) test: the share of the 2^n ways to
    sign the differences whose sum is as far from 0 as the one seen. At least 2 / 2^n."""
    import numpy as np

    n = len(differences)
    if n > MOST_PAIRS:
        raise ValueError(f"the exact sign-flip test is for at most {MOST_PAIRS} pairs, not {n}")

    def sums(part: Sequence[float]) -> np.ndarray:
        totals = np.zeros(1)
        for difference in part:
            totals = np.concatenate([totals - difference, totals + difference])
        return np.sort(totals)

    # Meet in the middle: 2 x 2^(n/2) sums stand for all 2^n.
    left, right = sums(differences[: n // 2]), sums(differences[n // 2 :])
    seen = abs(math.fsum(differences))
    edge = seen - 1e-12 * math.fsum(abs(difference) for difference in differences)
    if edge <= 0:
        return 1.0
    # By symmetry, those at or above the edge are half of the extreme ones.
    above = left.size * right.size - int(np.searchsorted(right, edge - left, side="left").sum())
    return min(1.0, 2 * above / 2**n)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction; None, a test that could not be made, stays and does not count."""
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[i] = largest
    return corrected


def verdict(difference: float, p: float | None, mode: Mode = "max") -> str:
    """ "better", "worse" or "no difference shown" at the corrected p; "not tested" without one."""
    if p is None:
        return "not tested"
    if p >= SIGNIFICANT:
        return "no difference shown"
    return "better" if (difference > 0) == (mode == "max") else "worse"


def power(effect: float, n: int, significant: float = SIGNIFICANT) -> float:
    """The probability that the two-sided paired t test of n pairs finds a true difference of `effect` standard
    deviations (of the differences): by the noncentral t distribution (Cohen 1988, section 2.3)."""
    from scipy.special import nctdtr, stdtrit

    if n < 2:
        return 0.0
    limit, noncentral = float(stdtrit(n - 1, 1 - significant / 2)), abs(effect) * math.sqrt(n)
    above = 1 - float(nctdtr(n - 1, noncentral, limit))
    below = float(nctdtr(n - 1, noncentral, -limit))  # NaN where it is nothing to double precision
    return min(1.0, above + (0.0 if math.isnan(below) else below))


def seeds_needed(difference: float, std: float, wanted: float = POWER, most: int = 1000) -> int | None:
    """The fewest seeds with which a true difference, of differences that vary by `std`, is shown with probability
    `wanted`; None if that takes more than `most`."""
    if difference == 0:
        return None
    if std == 0:
        return 2
    if power(difference / std, most) < wanted:
        return None
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference / std, middle) >= wanted else (middle, high)
    return high


def detectable(std: float, n: int, wanted: float = POWER) -> float | None:
    """The smallest true difference that n seeds show with probability `wanted`, where differences vary by `std`;
    None for one seed, which shows none."""
    if n < 2:
        return None
    low, high = 0.0, 1.0
    while power(high, n) < wanted:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, n) >= wanted else (middle, high)
    return high * std


# scipy.special and not scipy.stats: the same two functions, imported in a third of the time.


def _t_quantile(degrees: int, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + confidence / 2))


def _t_two_sided(degrees: int, t: float) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(degrees, -abs(t)))
