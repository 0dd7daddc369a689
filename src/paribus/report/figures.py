"""The pictures of a comparison. Drawn without pyplot: it would look for a display, and keeps what it drew."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from paribus.report.comparison import Comparison, Level, Scale
from paribus.report.sentences import score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito: told apart by every common kind of colour vision. Everything coloured is also said in words.
COLORS = {"better": "#0072B2", "worse": "#D55E00", "baseline": "#111111"}
GREY, PALE = "#555555", "#d9d9d9"
SCORE, VERDICT, RIGHT = 0.2, 1.3, 2.85  # inches from the axes: the columns of words, and the edge
PANEL = (4.1, 3.1)  # inches
LONGEST = 34  # letters of a label

Draw = Callable[["Axes"], None]


@dataclass(frozen=True)
class Picture:
    """One picture as a file, and the panels of it that a page sets side by side or, on a phone, one below another.

    name: of the files. alt: what it shows, in words. caption: how it is read. narrow: instead of the panels, where the
    page is no broader than a phone.
    """

    name: str
    alt: str
    caption: str
    whole: "Figure"
    panels: "list[Figure]"
    narrow: "list[Figure]" = field(default_factory=list)


def blank(width: float, height: float) -> "Figure":
    """An empty figure, in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    # The same runs make the same SVG, byte for byte: it may be committed.
    matplotlib.rcParams["svg.hashsalt"] = "paribus"
    matplotlib.rcParams["text.parse_math"] = False  # a level may hold a $
    return Figure(figsize=(width, height), facecolor="white")


def short(labels: Sequence[str], longest: int = LONGEST) -> list[str]:
    """Labels that are not cut off at the edge, wherever they stand: their ends go, or, where that would leave them
    alike, as it does with the folders of runs, what they begin with."""
    cut = [label if len(label) <= longest else f"{label[: longest - 1]}…" for label in labels]
    if len(set(cut)) == len(set(labels)):
        return cut
    return [label if len(label) <= longest else f"…{label[1 - longest :]}" for label in labels]


def levels_picture(comparison: Comparison) -> Picture:
    baseline = _baseline(comparison)
    labels = ", ".join(level.label for level in comparison.levels)
    dashed = f" Dashed: {comparison.baseline}, the baseline." if baseline is not None else ""
    return Picture(
        "figure",
        f"{comparison.metric} of every seed, with mean and interval, by level: {labels}.",
        f"Small dots: seeds. Diamond and bar: mean and its 95 % t interval.{dashed}",
        levels_figure(comparison),
        [levels_figure(comparison, titled=False)],
        [narrow_levels_figure(comparison)],
    )


def levels_figure(comparison: Comparison, *, titled: bool = True) -> "Figure":
    """A row for each level: every seed a dot, above them the mean and its 95 % t interval, both in words at
    the right; the baseline's mean is the dashed line."""
    scale, levels = Scale.of(comparison), comparison.levels
    title = textwrap.wrap(comparison.title, 70) if titled else []
    # In inches: the margins keep their size whatever the number of levels.
    labels = short([level.label for level in levels])
    left = 0.3 + 0.085 * max(map(len, labels))
    bottom, top = 0.85 if titled else 0.55, (0.3 if titled else 0.1) + 0.24 * len(title)
    width, height = left + 4.0 + RIGHT, top + bottom + 0.46 * len(levels)
    figure = blank(width, height)
    inside = (left / width, bottom / height, 1 - (left + RIGHT) / width, 1 - (top + bottom) / height)
    axes = figure.add_axes(inside)
    _draw_levels(axes, comparison, scale, 1.0)
    edge = axes.get_yaxis_transform()
    for row, level in enumerate(levels):
        color, said = COLORS.get(level.verdict, GREY), score(level, scale) or "no finished run"
        for inches, text in ((SCORE, said), (VERDICT, level.verdict)):
            place: Any = {"va": "center", "fontsize": 9.5, "color": color}
            axes.annotate(text, (1, row), (72 * inches, 0), edge, "offset points", **place)
    axes.set_yticks(range(len(levels)), labels, fontsize=10)
    _finish(axes, comparison, scale)
    for line, text in enumerate(title):
        y = 1 - (0.24 + 0.24 * line) / height
        figure.text(0.12 / width, y, text, fontsize=12, fontweight="bold", va="center")
    legend = "Small dots: seeds.  Diamond and bar: mean and its 95 % t interval."
    legend += f"  Dashed: {comparison.baseline}, the baseline." if _baseline(comparison) is not None else ""
    if titled:
        figure.text(0.12 / width, 0.14 / height, legend, fontsize=8, color=GREY, va="center")
    return figure


def narrow_levels_figure(comparison: Comparison) -> "Figure":
    """The same for a phone: the words above each row."""
    scale, levels = Scale.of(comparison), comparison.levels
    width, bottom, top = PANEL[0], 0.55, 0.1
    height = top + bottom + 0.62 * len(levels)
    figure = blank(width, height)
    axes = figure.add_axes((0.12 / width, bottom / height, 1 - 0.24 / width, 1 - (top + bottom) / height))
    _draw_levels(axes, comparison, scale, 0.55)
    edge = axes.get_yaxis_transform()
    labels = short([level.label for level in levels])
    for row, level in enumerate(levels):
        words = f"{labels[row]}: {score(level, scale) or 'no finished run'}"
        if level.verdict and len(words) + len(level.verdict) < 46:  # letters of a row
            words += f", {level.verdict}"
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        color = COLORS.get(level.verdict, GREY)
        place: Any = {"va": "center", "fontsize": 9.5, "color": color, "bbox": behind}
        axes.annotate(words, (0, row - 0.36), (0, 0), edge, "offset points", **place)
    axes.set_yticks([])
    _finish(axes, comparison, scale)
    axes.set_ylim(len(levels) - 0.45, -0.62)
    return figure


def _baseline(comparison: Comparison) -> float | None:
    means = [at.summary.mean for at in comparison.levels if at.verdict == "baseline" and at.summary]
    return means[0] if len(means) == 1 else None


def _draw_levels(axes: "Axes", comparison: Comparison, scale: Scale, depth: float) -> None:
    """depth: how far below its mean the dots of a level reach."""
    seeds = sorted({seed for level in comparison.levels for seed in level.values})
    for row, level in enumerate(comparison.levels):
        _draw_level(axes, row, level, seeds, scale, depth)
    if (baseline := _baseline(comparison)) is not None:
        axes.axvline(scale.factor * baseline, color=GREY, linewidth=1, dashes=(4, 3), zorder=0)


def _draw_level(axes: "Axes", y: int, level: Level, seeds: list[int], scale: Scale, depth: float) -> None:
    color = COLORS.get(level.verdict, GREY)
    # A seed keeps its height from row to row, so that pairs can be followed.
    heights = [y + 0.2 + 0.2 * depth * seeds.index(seed) / max(1, len(seeds) - 1) for seed in level.values]
    values = [scale.factor * value for value in level.values.values()]
    axes.plot(values, heights, "o", markersize=4, color=color, alpha=0.6, mew=0)
    if level.summary:
        mean = scale.factor * level.summary.mean
        half = scale.factor * (level.summary.half or 0)
        axes.plot([mean - half, mean + half], [y, y], color=color, linewidth=2.2, solid_capstyle="butt")
        axes.plot(mean, y, "D", markersize=6.5, color=color, markeredgecolor="white")


def _finish(axes: "Axes", comparison: Comparison, scale: Scale) -> None:
    axes.set_ylim(len(comparison.levels) - 0.4, -0.6)
    low, high = axes.get_xlim()
    if scale.percent:  # an interval may reach past what is possible; the axis does not
        margin = 0.02 * (high - low)
        axes.set_xlim(max(low, -margin), min(high, 100 + margin))
    axes.set_xlabel(scale.named(comparison.metric), fontsize=10)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", color=PALE)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(PALE)


# Panels, of the other pictures


def sheet(
    panels: Sequence[Draw | None],
    *,
    columns: int,
    panel: tuple[float, float] = PANEL,
    top: float = 0.34,
    bottom: float = 0.56,
    title: str = "",
    foot: Sequence[str] = (),
) -> "Figure":
    """Panels of one size, row by row; None leaves a place empty.

    panel: inches, with the room for its words; top and bottom: of these, above and below
    the axes.
    """
    left, right = 0.68, 0.16
    wide, high = panel
    rows = -(-len(panels) // columns)
    foot = [
        line for text in foot for line in textwrap.wrap(text, int(14.5 * columns * wide))
    ]  # letters an inch
    above, below = (0.44 if title else 0.0), (0.16 + 0.18 * len(foot) if foot else 0.0)
    width, height = columns * wide, rows * high + above + below
    figure = blank(width, height)
    for place, draw in enumerate(panels):
        if draw is None:
            continue
        row, column = divmod(place, columns)
        x, y = column * wide + left, below + (rows - 1 - row) * high + bottom
        axes = figure.add_axes(
            (x / width, y / height, (wide - left - right) / width, (high - bottom - top) / height)
        )
        axes.grid(color=PALE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, which="both", labelsize=8.5, labelcolor=GREY)
        for side in axes.spines.values():
            side.set_visible(False)
        draw(axes)
    if title:
        figure.text(0.12 / width, 1 - 0.24 / height, title, fontsize=12, fontweight="bold", va="center")
    for line, text in enumerate(reversed(foot)):
        figure.text(0.12 / width, (0.16 + 0.18 * line) / height, text, fontsize=8, color=GREY, va="center")
    return figure
