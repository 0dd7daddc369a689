"""Speed beside the metric: what a level's answers cost. No torch, no lightning."""

from statistics import median
from typing import TYPE_CHECKING

from paribus.report.comparison import Comparison, Level, Scale
from paribus.report.figures import COLORS, GREY, PALE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

APART = 1.2  # the slowest run of the fastest level by the fastest run of the slowest, at least
SIZE = 9  # points, of a label


def speeds(comparison: Comparison) -> dict[str, float]:
    """{level: images a second, the median of its seeds}, judged and without reading; empty where it says nothing:
    the levels are about as fast as the machine's moods, or their runs were judged on different machines.
    """
    of = {at.label: list(at.speeds.values()) for at in comparison.levels if at.speeds and at.summary}
    made = {
        tuple(run.result.get(key) for key in ("device", "processes", "threads"))
        for run in comparison.runs
        if run.status == "done"
    }
    if len(of) < 2 or len(made) > 1 or max(map(min, of.values())) < APART * min(map(max, of.values())):
        return {}
    return {label: median(rates) for label, rates in of.items()}


def said(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def speed_figure(comparison: Comparison) -> "Figure":
    """A point a level, its metric with the 95 % t interval over images a second; up and to the right is better."""
    from matplotlib.figure import Figure

    scale, rates = Scale.of(comparison), speeds(comparison)
    levels = [level for level in comparison.levels if level.label in rates and level.summary]
    figure = Figure(figsize=(7.2, 4.8), facecolor="white")
    axes = figure.add_axes((0.1, 0.18, 0.87, 0.71))
    axes.set_xscale("log")
    for level in levels:
        assert level.summary
        x, y = rates[level.label], scale.factor * level.summary.mean
        half, color = scale.factor * (level.summary.half or 0), COLORS.get(level.verdict, GREY)
        axes.plot([x, x], [y - half, y + half], color=color, linewidth=1.6, solid_capstyle="butt")
        axes.plot(x, y, "D", markersize=6.5, color=color, markeredgecolor="white")
    _finish(axes, comparison, scale, [rates[level.label] for level in levels])
    _name(
        axes,
        [(rates[level.label], scale.factor * level.summary.mean, level) for level in levels if level.summary],
    )
    figure.text(0.017, 0.95, f"{comparison.metric} and speed", fontsize=12, fontweight="bold", va="center")
    lines = [
        "Diamond and bar: mean and its 95 % t interval; images a second: the median of the seeds.",
        f"Blue: better than {comparison.baseline}; orange: worse; grey: no difference shown, or not tested.",
    ]
    for line, text in enumerate(lines):
        figure.text(0.017, 0.053 - 0.033 * line, text, fontsize=8, color=GREY, va="center")
    return figure


def _finish(axes: "Axes", comparison: Comparison, scale: Scale, rates: list[float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xlim(min(rates) / 1.6, max(rates) * 1.6)
    axes.margins(y=0.12)
    axes.autoscale_view(scalex=False)
    low, high = axes.get_ylim()
    if scale.percent:
        axes.set_ylim(max(low, -2), min(high, 102))
    if comparison.mode == "min":
        axes.invert_yaxis()  # better is up
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("images a second, judged, without reading", fontsize=9.5)
    axes.set_ylabel(f"{comparison.metric}{', ' + scale.unit if scale.unit else ''}", fontsize=9.5)
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, which="both", labelsize=8.5, labelcolor=GREY)
    for side in axes.spines.values():
        side.set_visible(False)


def _name(axes: "Axes", points: list[tuple[float, float, Level]]) -> None:
    """Each level beside its point: at the right, or wherever it hides no other point or word."""
    figure = axes.figure
    unit = figure.dpi / 72  # pixels of a point
    spots = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [(x - 5 * unit, y - 5 * unit, x + 5 * unit, y + 5 * unit) for x, y in spots]
    page = axes.bbox
    for (x, y, level), (across, up) in sorted(zip(points, spots, strict=True), key=lambda p: -p[1][1]):
        width, height = 0.62 * SIZE * unit * len(level.label), 1.25 * SIZE * unit
        choices = []
        for right, dy in ((1, 0), (0, 0), (1, 1), (0, 1), (1, -1), (0, -1), (1, 2), (0, 2), (1, -2), (0, -2)):
            left = across + 7 * unit if right else across - 7 * unit - width
            bottom = up + dy * height - height / 2
            box = (left, bottom, left + width, bottom + height)
            outside = max(0, page.x0 - box[0]) + max(0, box[2] - page.x1)
            hidden = sum(_shared(box, other) for other in taken)
            choices.append((hidden + height * outside, right, dy, box))
        _, right, dy, box = min(choices, key=lambda choice: choice[0])
        taken.append(box)
        axes.annotate(
            level.label,
            (x, y),
            (7 if right else -7, dy * height / unit),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=SIZE,
            color=COLORS.get(level.verdict, GREY),
        )


def _shared(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The area that two boxes have in common."""
    across, up = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, across) * max(0.0, up)
