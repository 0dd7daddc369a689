"""What a level costs: multiply-adds and parameters, which are counted, and times, which are a machine's.
No torch, no lightning."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from paribus.report.comparison import Comparison

APART = 1.2  # the cheapest run of the dearest level by the dearest run of the cheapest, at least


@dataclass(frozen=True)
class Cost:
    """key: in result.json. timed: by a clock, and so of one machine only. more: is better."""

    key: str
    title: str
    timed: bool = False
    more: bool = False


COSTS = (
    Cost("macs", "multiply-adds of an image"),
    Cost("parameters", "parameters"),
    Cost("seconds", "seconds of a run", timed=True),
    Cost("judged_images_per_second", "images a second", timed=True, more=True),
)
SPEED = COSTS[-1]


def costs(comparison: Comparison, cost: Cost) -> dict[str, float]:
    """{level: its cost, the median of its seeds}; empty where it says nothing.

    That is where the levels are about equal in it: less than 1.2 apart, or, of times, no more apart than their seeds.
    And where runs were timed on different machines, or some of them side by side.
    """
    found: dict[str, list[float]] = {}
    for level in comparison.levels:
        runs = [run for run in level.runs.values() if run.status == "done"]
        values = [value for run in runs if (value := run.result.get(cost.key))]
        if values and level.summary:
            found[level.label] = values
    made = {
        (
            *(run.result.get(key) for key in ("device", "processes", "threads")),
            cost.key == "seconds" and len(run.result.get("stacked_with") or ()),
        )
        for run in comparison.runs
        if run.status == "done"
    }
    if len(found) < 2 or (cost.timed and len(made) > 1):
        return {}
    low: Callable[[list[float]], float] = max if cost.timed else median
    high: Callable[[list[float]], float] = min if cost.timed else median
    if max(map(high, found.values())) < APART * min(map(low, found.values())):
        return {}
    return {label: median(values) for label, values in found.items()}


def speeds(comparison: Comparison) -> dict[str, float]:
    """{level: images a second}, judged and without reading."""
    return costs(comparison, SPEED)


def said(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
