"""Learning curves: a level's training and validation, as a mean and a band over its seeds. No torch, no lightning."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from paribus.report.comparison import Comparison, Level, Scale
from paribus.report.figures import GREY, PALE, Draw, Picture, sheet, short
from paribus.results import curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE = "#0072B2"
LOSSES: dict[str, dict[str, Any]] = {
    "train/loss": {"color": GREY, "linestyle": (0, (4, 1.6))},
    "val/loss": {"color": BLUE},
}
POINTS = 60  # of a line; of more, neighbours are averaged
MOST = 12  # levels
PANEL, BOTTOM = (3.3, 1.95), 0.46  # inches
Rows = Mapping[str, Sequence[tuple[int, int, float]]]  # results.curves
Course = list[tuple[float, float, float, float]]  # step, mean, lowest, highest


@dataclass(frozen=True)
class Courses:
    """Of the levels that have any: {level: {metric: its course}}; metric is the one beside the losses, if any."""

    found: dict[str, dict[str, Course]]
    metric: str | None
    factor: int  # of the metric
    unit: str  # along the axis: step, or epoch where the levels' epochs are of unlike length

    def limits(self, *names: str) -> tuple[float, float]:
        """Of nearly all values of all levels: what diverges leaves the panel, and does not flatten the others."""
        every = (p for courses in self.found.values() for name in names for p in courses[name])
        values = sorted(value for _, *values in every for value in values)
        return (values[0], values[-1 - len(values) // 100]) if values else (0, 0)

    @property
    def last(self) -> float:
        return max(course[-1][0] for courses in self.found.values() for course in courses.values() if course)


def learning_picture(comparison: Comparison) -> Picture | None:
    """For each level its losses, and the metric with the other levels' behind it; None before anything is logged."""
    shown = _shown(comparison)
    of = read(comparison, shown)
    if not of.found:
        return None
    labels = list(of.found)
    losses = [_losses(label, title, of) for label, title in zip(labels, short(labels), strict=True)]
    others = [_metric(label, of) for label in labels] if of.metric else []
    columns = min(4, len(labels))
    grid: list[Draw | None] = []
    for start in range(0, len(labels), columns):
        for row in (losses, others) if others else (losses,):
            part: Sequence[Draw] = row[start : start + columns]
            grid += [*part, *[None] * (columns - len(part))]
    said = "Loss: dashed in training, solid in validation."
    said += f" {of.metric}: in validation, the other levels' in grey." if of.metric else ""
    said += " Band: from the lowest to the highest seed."
    rest = len(comparison.levels) - len(shown)
    said += f" Not shown: {rest} levels of lower rank." if rest else ""
    stacks = list(zip(losses, others, strict=True)) if others else [(draw,) for draw in losses]
    return Picture(
        "curves",
        f"Learning curves of {', '.join(labels)}.",
        said,
        sheet(grid, columns=columns, panel=PANEL, bottom=BOTTOM, title="Learning curves", foot=[said]),
        [sheet(stack, columns=1, panel=PANEL, bottom=BOTTOM) for stack in stacks],
    )


def read(comparison: Comparison, levels: Sequence[Level]) -> Courses:
    rows: dict[str, list[Rows]] = {
        level.label: [curves(run) for run in level.runs.values()] for level in levels
    }
    metric = _watched(comparison, [row for of in rows.values() for row in of])
    names = (*LOSSES, *([metric] if metric else []))
    found = {label: {name: over_seeds(of, name) for name in names} for label, of in rows.items()}
    found = {label: courses for label, courses in found.items() if any(courses.values())}
    lengths = {label: epoch_length(rows[label]) for label in found}
    known = [length for length in lengths.values() if length]
    by_epoch = len(known) == len(lengths) > 0 and max(known) > 1.2 * min(known)
    if by_epoch:
        for label, courses in found.items():
            for name, course in courses.items():
                courses[name] = [(step / (lengths[label] or 1), *rest) for step, *rest in course]  # type: ignore[misc]
    return Courses(found, metric, Scale.of(comparison).factor, "epoch" if by_epoch else "step")


def over_seeds(runs: Sequence[Rows], name: str) -> Course:
    """The mean, lowest and highest of the seeds, at each step that any of them has; of more than 60 steps as many
    stretches, each seed's values in one averaged. What is not finite is left out."""
    by_step: dict[int, dict[int, float]] = {}
    for seed, rows in enumerate(runs):
        for step, _, value in rows.get(name, []):
            if math.isfinite(value):
                by_step.setdefault(step, {})[seed] = value
    steps = sorted(by_step)
    size = -(-len(steps) // POINTS) or 1
    found = []
    for start in range(0, len(steps), size):
        stretch = steps[start : start + size]
        seeds = sorted({seed for step in stretch for seed in by_step[step]})
        values = [fmean(by_step[step][seed] for step in stretch if seed in by_step[step]) for seed in seeds]
        found.append((fmean(stretch), fmean(values), min(values), max(values)))
    return found


def epoch_length(runs: Sequence[Rows]) -> float | None:
    """Steps of an epoch, by the last validation, which comes at the end of one; None before there is any."""
    for rows in runs:
        for name, course in rows.items():
            if name.startswith("val/"):
                step, epoch, _ = course[-1]
                return step / (epoch + 1)
    return None


def _shown(comparison: Comparison) -> list[Level]:
    """All levels; of more than 12 the baseline and those with the best means, in the order of the table."""
    sign = -1 if comparison.mode == "max" else 1

    def rank(level: Level) -> tuple[bool, bool, float]:
        mean = level.summary.mean if level.summary else 0.0
        return level.verdict != "baseline", level.summary is None, sign * mean

    kept = {level.label for level in sorted(comparison.levels, key=rank)[:MOST]}
    return [level for level in comparison.levels if level.label in kept]


def _watched(comparison: Comparison, rows: Sequence[Rows]) -> str | None:
    """The compared metric's course in validation, else that of what is monitored; None where it is the loss."""
    monitor = (comparison.runs[0].config.get("task") or {}).get("monitor")
    for name in (re.sub("^test/", "val/", comparison.metric), monitor):
        if name and name not in LOSSES and any(name in of for of in rows):
            return str(name)
    return None


def _losses(label: str, title: str, of: Courses) -> Draw:
    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import NullFormatter

        for name, style in LOSSES.items():
            _line(axes, of.found[label][name], 1, **style)
        # All panels have one scale: then a gap or a rise is as large in one as in another.
        low, high = of.limits(*LOSSES)
        if low > 0 and high > 30 * low:
            axes.set_yscale("log")
            axes.set_ylim(low / 1.1, high * 1.1)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        elif high > low:
            axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.set_title(title, fontsize=9.5, loc="left", pad=5, fontweight="bold")
        axes.set_ylabel("loss", fontsize=9)
        _along(axes, of, named=of.metric is None)

    return draw


def _metric(label: str, of: Courses) -> Draw:
    assert of.metric
    name = of.metric

    def draw(axes: "Axes") -> None:
        for courses in of.found.values():
            course = courses[name]
            axes.plot([p[0] for p in course], [of.factor * p[1] for p in course], color=PALE, linewidth=1.2)
        _line(axes, of.found[label][name], of.factor, color=BLUE)
        low, high = of.limits(name)
        if high > low:
            room = 0.05 * of.factor * (high - low)
            axes.set_ylim(of.factor * low - room, of.factor * high + room)
        axes.set_ylabel(f"{name}{', %' if of.factor == 100 else ''}", fontsize=9)
        _along(axes, of, named=True)

    return draw


def _line(axes: "Axes", course: Course, factor: int, **style: Any) -> None:
    steps = [point[0] for point in course]
    mean, low, high = ([factor * point[i] for point in course] for i in (1, 2, 3))
    axes.fill_between(steps, low, high, color=style["color"], alpha=0.18, linewidth=0)
    marker = "o" if len(course) < 8 else None
    axes.plot(steps, mean, linewidth=1.6, marker=marker, markersize=3, **style)


def _along(axes: "Axes", of: Courses, *, named: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.02 * of.last, 1.03 * of.last)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_xlabel(of.unit if named else "", fontsize=9)
