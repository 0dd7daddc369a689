"""Two factors in one picture: parallel lines add up, others interact. No torch, no lightning."""

from collections.abc import Mapping
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING

from paribus.report.comparison import Comparison, Scale
from paribus.report.figures import GREY, Draw, Picture, sheet, short
from paribus.report.statistics import Summary, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#111111", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (5, 1.6, 1.4, 1.6)))
MOST = 6  # pairs of factors
PANEL = (4.3, 3.6)
Cells = dict[tuple[str, str], Summary]


def interaction_picture(comparison: Comparison) -> Picture | None:
    """A panel for every two factors; None for one factor, or where a cell of the full table is missing."""
    if not comparison.effects:
        return None
    pairs = list(combinations(range(len(comparison.factors)), 2))[:MOST]
    draws = []
    for i, j in pairs:
        found = cells(comparison, i, j)
        if found:
            draws.append(_panel(comparison, (i, j), found))
    if not draws:
        return None
    names = ", ".join(f"{comparison.factors[i]} and {comparison.factors[j]}" for i, j in pairs)
    lines = [
        "Points and bars: means over the seeds and their 95 % t intervals.",
        "Parallel lines: the factors add up.",
    ]
    columns = min(2, len(draws))
    return Picture(
        "interaction",
        f"{comparison.metric} by {names}.",
        " ".join(lines),
        sheet(
            draws, columns=columns, panel=(5.2, 4.0), top=0.62, title="Two factors at a time",
            foot=[" ".join(lines)] if columns == 2 else lines,
        ),
        [sheet([draw], columns=1, panel=PANEL, top=0.62) for draw in draws],
    )  # fmt: skip


def cells(comparison: Comparison, i: int, j: int) -> Cells:
    """{(level of factor i, level of factor j): the metric over the seeds}, each seed's the mean over the other
    factors' levels; a cell without a seed that has all of these is left out."""
    inside: dict[tuple[str, str], list[Mapping[int, float]]] = {}
    for level in comparison.levels:
        inside.setdefault((level.key[i], level.key[j]), []).append(level.values)
    found = {}
    for key, values in inside.items():
        seeds = sorted(set.intersection(*(set(held) for held in values)))
        if seeds:
            found[key] = summary([fmean(held[seed] for held in values) for seed in seeds])
    return found


def _panel(comparison: Comparison, pair: tuple[int, int], found: Cells) -> Draw:
    """The factor with more levels along the axis, a line for each level of the other."""
    scale = Scale.of(comparison)
    orders = [list(dict.fromkeys(key[place] for key in found)) for place in (0, 1)]
    across = 1 if len(orders[1]) >= len(orders[0]) else 0
    places, lines = orders[across], orders[1 - across]
    names = [comparison.factors[place].split(".")[-1] for place in pair]

    def draw(axes: "Axes") -> None:
        for row, line in enumerate(lines):
            points = [
                (x, of)
                for x, place in enumerate(places)
                if (of := found.get((line, place) if across else (place, line)))
            ]
            shift = 0.05 * (row - (len(lines) - 1) / 2)  # so that intervals stand side by side
            color = COLORS[row % len(COLORS)]
            for x, of in points:
                half, mean = scale.factor * (of.half or 0), scale.factor * of.mean
                axes.plot([x + shift] * 2, [mean - half, mean + half], color=color, linewidth=1.4)
            axes.plot(
                [x + shift for x, _ in points],
                [scale.factor * of.mean for _, of in points],
                color=color, linewidth=1.6, linestyle=DASHES[row % len(DASHES)], marker="o", markersize=5,
                label=line,
            )  # fmt: skip
        axes.set_xticks(range(len(places)), short(places, max(4, 48 // len(places))))
        axes.set_xlim(-0.35, len(places) - 0.65)
        axes.margins(y=0.08)
        axes.set_xlabel(names[across], fontsize=9.5)
        axes.set_ylabel(scale.named(comparison.metric), fontsize=9.5)
        axes.legend(
            title=names[1 - across], loc="lower left", bbox_to_anchor=(0, 1.02), ncols=min(4, len(lines)),
            frameon=False, fontsize=8.5, title_fontsize=8.5, alignment="left", borderaxespad=0, labelcolor=GREY,
        )  # fmt: skip

    return draw
