"""Precision over recall of a judged split: curves_<split>.csv and figures/<split>_curves.png."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paribus.metrics.coco import IOUS, RECALLS, Curves, mean
from paribus.tables import csv_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = (0, 5)  # of COCO's IoUs: 0.5 and 0.75
# Okabe and Ito's, dark enough on white; beside each a line of its own, so that none needs to be told by colour.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
MOST_NAMED, ENDS = 12, 3  # of more classes the best and the worst have a line of their own
GREY, PALE = "#555555", "#d9d9d9"


def table(curves: Curves, classes: Sequence[str]) -> str:
    """CSV of the classes with objects and of their mean: at each of COCO's recalls the largest precision at it or
    beyond, and the score at which it is reached; empty where it is not."""
    rows: list[list[Any]] = [["class", "iou", "recall", "precision", "score"]]
    for place in SHOWN:
        lines = _lines(curves, place)
        labels: list[tuple[str, int | None]] = [(classes[c], c) for c in lines]
        for name, label in [*labels, ("mean", None)] if lines else ():
            precision = _mean(lines) if label is None else lines[label]
            for at, recall in enumerate(RECALLS):
                reached = label is not None and precision[at] > 0
                score = f"{curves.scores[place, at, label, 0]:.6g}" if reached else None
                rows.append([name, float(IOUS[place]), round(float(recall), 2), float(precision[at]), score])
    return csv_text(rows)


def figure(curves: Curves, classes: Sequence[str], *, title: str) -> "Figure":
    """IoU 0.5 and 0.75 side by side: a line a class and, broad, their mean, with their average precisions in words.

    Of more than 12 classes the three best and worst are named, the others grey.
    """
    from matplotlib.figure import Figure

    half, quarters = (_lines(curves, place) for place in SHOWN)
    ranked = sorted(half, key=lambda label: -half[label].mean())
    named = ranked if len(ranked) <= MOST_NAMED else [*ranked[:ENDS], *ranked[-ENDS:]]
    longest = max((len(classes[label]) for label in named), default=4)
    side, left, gap, top, bottom, right = 3.6, 0.65, 0.55, 0.85, 0.6, 1.9 + 0.075 * max(longest, 8)
    width, height = left + 2 * side + gap + right, top + side + bottom
    drawn = Figure(figsize=(width, height), facecolor="white")
    styles: dict[int, dict[str, Any]] = {
        label: {"color": COLORS[i % len(COLORS)], "linestyle": STYLES[i % len(STYLES)]}
        for i, label in enumerate(named)
    }
    handles: list[Any] = []
    for column, (place, lines) in enumerate(zip(SHOWN, (half, quarters), strict=True)):
        x = left + column * (side + gap)
        axes = drawn.add_axes((x / width, bottom / height, side / width, side / height))
        for label in [*(c for c in lines if c not in styles), *named]:
            style = styles.get(label, {"color": PALE})
            (line,) = axes.plot(100 * RECALLS, 100 * lines[label], linewidth=1.5, **style)
            if column == 0 and label in styles:
                handles.append((line, classes[label], half[label], quarters[label]))
        if lines:
            (line,) = axes.plot(100 * RECALLS, 100 * _mean(lines), color="black", linewidth=2.8, zorder=3)
            if column == 0:
                handles.append((line, "mean", _mean(half), _mean(quarters)))
        _finish(axes, f"IoU {IOUS[place]:.2f}", first=column == 0)
    names = [f"{100 * a.mean():5.1f}  {100 * b.mean():5.1f}  {name}" for _, name, a, b in handles]
    drawn.legend(
        [line for line, *_ in handles],
        names,
        title="average precision, %\nat 0.50 and at 0.75",
        loc="upper left",
        bbox_to_anchor=(1 - (right - 0.1) / width, 1 - (top - 0.12) / height),
        frameon=False,
        fontsize=9,
        title_fontsize=9,
        alignment="left",
        handlelength=2.6,
    )
    rest = f"; {len(ranked) - len(named)} more classes in grey" if len(named) < len(ranked) else ""
    drawn.text(
        0.12 / width,
        1 - 0.2 / height,
        f"{title}: precision over recall",
        fontsize=12,
        fontweight="bold",
        va="center",
    )
    said = f"of the objects of all sizes, by COCO's protocol{rest}" if half else "no object in the set"
    drawn.text(0.12 / width, 1 - 0.42 / height, said, fontsize=9, color=GREY, va="center")
    return drawn


def _lines(curves: Curves, place: int) -> dict[int, np.ndarray]:
    """Of each class that has objects."""
    precision = curves.precision[place, :, :, 0]
    return {c: precision[:, c] for c in range(precision.shape[1]) if not np.isnan(mean(precision[:, c]))}


def _mean(lines: dict[int, np.ndarray]) -> np.ndarray:
    return np.mean(list(lines.values()), axis=0)


def _finish(axes: "Axes", title: str, *, first: bool) -> None:
    axes.set_title(title, fontsize=10.5, loc="left", pad=6)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 102)
    axes.set_xlabel("recall, %", fontsize=9.5)
    axes.set_ylabel("precision, %" if first else "", fontsize=9.5)
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=GREY)
    for edge in axes.spines.values():
        edge.set_visible(False)
