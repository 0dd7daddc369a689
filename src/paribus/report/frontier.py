"""The metric over each of its costs, and the levels that nothing beats in both. No torch, no lightning."""

from itertools import product
from typing import TYPE_CHECKING

from paribus.report.comparison import Comparison, Level, Scale
from paribus.report.costs import COSTS, Cost, costs
from paribus.report.figures import COLORS, GREY, Draw, Picture, sheet, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE, LONGEST = 9, 28  # points and letters of a label
MOST_NAMED = 8  # levels; of more, those that nothing beats, and the baseline
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
Point = tuple[float, float, float, Level]  # cost, mean, half the interval


def frontier_picture(comparison: Comparison) -> Picture | None:
    """A panel for each cost in which the levels differ; None where they differ in none."""
    differing = [(cost, spent) for cost in COSTS if (spent := costs(comparison, cost))]
    if not differing:
        return None
    draws: list[Draw] = [_panel(comparison, cost, spent) for cost, spent in differing]
    title = f"{comparison.metric} and what it costs"
    lines = [
        "Diamond and bar: mean and its 95 % t interval; costs: the median of the seeds.",
        "Line: the levels that no other beats in both, by their means.",
        f"Blue: better than {comparison.baseline}; orange: worse; grey: no difference shown, or not tested.",
    ]
    if len(comparison.levels) > MOST_NAMED:
        lines[1] += " They and the baseline are named."
    columns = min(2, len(draws))
    foot = [f"{lines[0]}  {lines[1]}", lines[2]] if columns == 2 else lines
    names = ", ".join(cost.title for cost, _ in differing)
    return Picture(
        "frontier",
        f"{comparison.metric} of each level over {names}.",
        " ".join(lines),
        sheet(draws, columns=columns, title=title, foot=foot, panel=(4.8, 3.7), top=0.14),
        [sheet([draw], columns=1, panel=(4.3, 3.4), top=0.14) for draw in draws],
    )


def unbeaten(points: list[tuple[float, float]], *, more: bool) -> list[tuple[float, float]]:
    """Of (cost, value) those that no other equals or beats in both, by their cost; more: the higher cost is better."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (-point[0] if more else point[0], -point[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return sorted(found)


def _panel(comparison: Comparison, cost: Cost, spent: dict[str, float]) -> Draw:
    scale = Scale.of(comparison)
    sign = 1 if comparison.mode == "max" else -1

    def draw(axes: "Axes") -> None:
        points: list[Point] = []
        axes.set_xscale("log")
        for level in comparison.levels:
            if level.label not in spent or level.summary is None:
                continue
            x, y = spent[level.label], scale.factor * level.summary.mean
            half, color = scale.factor * (level.summary.half or 0), COLORS.get(level.verdict, GREY)
            axes.plot([x, x], [y - half, y + half], color=color, linewidth=1.6, solid_capstyle="butt")
            axes.plot(x, y, "D", markersize=6.5, color=color, markeredgecolor="white")
            points.append((x, y, half, level))
        edge = unbeaten([(x, sign * y) for x, y, *_ in points], more=cost.more)
        axes.plot([x for x, _ in edge], [sign * y for _, y in edge], color=GREY, linewidth=0.8, zorder=1)
        _finish(axes, comparison, scale, cost, [x for x, *_ in points])
        best = [
            point for point in points if point[3].verdict == "baseline" or (point[0], sign * point[1]) in edge
        ]
        _name(axes, points, points if len(points) <= MOST_NAMED else best)

    return draw


def _finish(axes: "Axes", comparison: Comparison, scale: Scale, cost: Cost, spent: list[float]) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    room = (max(spent) / min(spent)) ** 0.12 * 1.1  # at the sides, for names
    axes.set_xlim(min(spent) / room, max(spent) * room)
    axes.margins(y=0.12)
    axes.autoscale_view(scalex=False)
    low, high = axes.get_ylim()
    if scale.percent:
        axes.set_ylim(max(low, -2), min(high, 102))
    if comparison.mode == "min":
        axes.invert_yaxis()  # better is up
    if max(spent) / min(spent) > 8:
        subs = (1, 2, 5) if max(spent) / min(spent) < 300 else (1,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: amount(value))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{cost.title} ({'more' if cost.more else 'less'} is better)", fontsize=9.5)
    axes.set_ylabel(scale.named(comparison.metric), fontsize=9.5)


def amount(value: float) -> str:
    """A count in few letters: 74,874 is 74.9k."""
    for size, unit in UNITS:
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.4g}"


def _name(axes: "Axes", points: list[Point], named: list[Point]) -> None:
    """Levels beside their points: at the right, or wherever they hide no other point or word."""
    unit = axes.figure.dpi / 72  # pixels of a point
    spots = [axes.transData.transform((x, y)) for x, y, *_ in points]
    taken = [(x - 5 * unit, y - 5 * unit, x + 5 * unit, y + 5 * unit) for x, y in spots]
    bars = []
    for x, y, half, _ in points:
        (left, one), (_, other) = axes.transData.transform([(x, y - half), (x, y + half)])
        bars.append((left - 2 * unit, min(one, other), left + 2 * unit, max(one, other)))
    page = axes.bbox
    labels = short([level.label for *_, level in points], LONGEST)
    places = sorted(zip(points, spots, labels, strict=True), key=lambda place: -place[1][1])
    for (x, y, _, level), (across, up), label in places:
        if (x, y, _, level) not in named:
            continue
        width, height = 0.62 * SIZE * unit * len(label), 1.25 * SIZE * unit
        choices = []
        for dy, right in product(sorted(range(-6, 7), key=abs), (1, 0)):
            left = across + 7 * unit if right else across - 7 * unit - width
            bottom = up + dy * height - height / 2
            box = (left, bottom, left + width, bottom + height)
            outside = max(0, page.x0 - box[0]) + max(0, box[2] - page.x1)
            hidden = sum(_shared(box, other) for other in taken) + sum(_shared(box, bar) for bar in bars) / 4
            far = abs(dy) * height**2 / 4  # a name far from its point is another's
            choices.append((hidden + height * outside + far, right, dy, box))
        _, right, dy, box = min(choices, key=lambda choice: choice[0])
        taken.append(box)
        axes.annotate(
            label,
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
