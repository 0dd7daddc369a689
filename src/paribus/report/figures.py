"""The pictures of a comparison. Drawn without pyplot: it would look for a display, and keeps what it drew."""

import textwrap
from typing import TYPE_CHECKING

from paribus.report.comparison import Comparison, Level, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito: told apart by every common kind of colour vision. Everything coloured is also said in words.
COLORS = {"better": "#0072B2", "worse": "#D55E00", "baseline": "#111111"}
GREY, PALE = "#555555", "#d9d9d9"
SCORE, VERDICT, RIGHT = 0.2, 1.3, 2.85  # inches from the axes: the columns of words, and the edge


def levels_figure(comparison: Comparison) -> "Figure":
    """A row for each level: every seed a dot, above them the mean and its 95 % t interval, both in words at
    the right; the baseline's mean is the dashed line."""
    import matplotlib
    from matplotlib.figure import Figure

    # The same runs make the same SVG, byte for byte: it may be committed.
    matplotlib.rcParams["svg.hashsalt"] = "paribus"
    scale, levels = Scale.of(comparison), comparison.levels
    title = textwrap.wrap(comparison.title, 70)
    # In inches: the margins keep their size whatever the number of levels.
    left = min(3.0, 0.3 + 0.085 * max(len(level.label) for level in levels))
    bottom, top = 0.85, 0.3 + 0.24 * len(title)
    width, height = left + 4.0 + RIGHT, top + bottom + 0.46 * len(levels)
    figure = Figure(figsize=(width, height), facecolor="white")
    inside = (left / width, bottom / height, 1 - (left + RIGHT) / width, 1 - (top + bottom) / height)
    axes = figure.add_axes(inside)
    seeds = sorted({seed for level in levels for seed in level.values})
    for row, level in enumerate(levels):
        _draw_level(axes, row, level, seeds, scale)
    baselines = [level.summary for level in levels if level.verdict == "baseline" and level.summary]
    if len(baselines) == 1:
        axes.axvline(scale.factor * baselines[0].mean, color=GREY, linewidth=1, dashes=(4, 3), zorder=0)
    _finish(axes, comparison, scale)
    for line, text in enumerate(title):
        y = 1 - (0.24 + 0.24 * line) / height
        figure.text(0.12 / width, y, text, fontsize=12, fontweight="bold", va="center")
    legend = "Small dots: seeds.  Diamond and bar: mean and its 95 % t interval."
    legend += f"  Dashed: {comparison.baseline}, the baseline." if len(baselines) == 1 else ""
    figure.text(0.12 / width, 0.14 / height, legend, fontsize=8, color=GREY, va="center")
    return figure


def _draw_level(axes: "Axes", y: int, level: Level, seeds: list[int], scale: Scale) -> None:
    color = COLORS.get(level.verdict, GREY)
    for seed, value in level.values.items():
        # A seed keeps its height from row to row, so that pairs can be followed.
        below = 0.2 + 0.2 * seeds.index(seed) / max(1, len(seeds) - 1)
        axes.plot(scale.factor * value, y + below, "o", markersize=4, color=color, alpha=0.6, mew=0)
    if level.summary:
        mean = scale.factor * level.summary.mean
        half = scale.factor * (level.summary.half or 0)
        axes.plot([mean - half, mean + half], [y, y], color=color, linewidth=2.2, solid_capstyle="butt")
        axes.plot(mean, y, "D", markersize=6.5, color=color, markeredgecolor="white")
        said = scale(level.summary.mean)
        said += f" ± {scale(level.summary.half)}" if level.summary.half is not None else ""
    else:
        said = "no finished run"
    edge = axes.get_yaxis_transform()
    for inches, text in ((SCORE, said), (VERDICT, level.verdict)):
        axes.annotate(
            text, (1, y), (72 * inches, 0), edge, "offset points", va="center", fontsize=9.5, color=color
        )


def _finish(axes: "Axes", comparison: Comparison, scale: Scale) -> None:
    levels = comparison.levels
    axes.set_ylim(len(levels) - 0.4, -0.6)
    axes.set_yticks(range(len(levels)), [level.label for level in levels], fontsize=10)
    low, high = axes.get_xlim()
    if scale.percent:  # an interval may reach past what is possible; the axis does not
        margin = 0.02 * (high - low)
        axes.set_xlim(max(low, -margin), min(high, 100 + margin))
    axes.set_xlabel(f"{comparison.metric}, {scale.unit}" if scale.unit else comparison.metric, fontsize=10)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", color=PALE)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
