"""What a judged split's classes were taken for: confusion_<split>.csv and figures/<split>_confusion.png."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning import Trainer

from paribus.callbacks import Judging
from paribus.results import write_text
from paribus.tables import csv_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito: told apart by every common kind of colour vision.
RIGHT, WRONG = (0, 114, 178), (213, 94, 0)
PAPER, GREY = 246, "#555555"
MOST_NAMED, MOST_NUMBERED = 64, 42  # classes, of a picture with their names, with numbers in its cells


class Confusion(Judging):
    """Writes the matrix of a validation or a test whose metric counts one (label, mask), over all processes.

    Drawing takes 0.2 s for 11
    classes and 1.3 s for 40.

    named: words for the files' names, as those of Examples: confusion_test_flip.csv.
    """

    def __init__(self, folder: str | Path, named: Sequence[str] = ()):
        self.folder, self.named = Path(folder), named

    def conclude(self, split: str, trainer: Trainer, task: Any) -> None:
        metric = task.metrics[split]
        if not hasattr(type(metric), "confusion"):
            return
        counts = metric.confusion.numpy()  # of all processes: each asks
        if not trainer.is_global_zero:
            return
        data, name = trainer.datamodule, "_".join([split, *self.named])  # type: ignore[attr-defined]
        (self.folder / "figures").mkdir(parents=True, exist_ok=True)
        write_text(self.folder / f"confusion_{name}.csv", table(counts, data.classes))
        unit = "pixels" if data.target == "mask" else "images"
        title = " ".join([split, *self.named])
        picture = figure(counts, data.classes, title=title, unit=unit, palette=data.reader.palette)
        picture.savefig(self.folder / "figures" / f"{name}_confusion.png", dpi=160)


def table(counts: np.ndarray, classes: Sequence[str]) -> str:
    """CSV of integers ``[C, C]``: a row for each true class, a column for each predicted one."""
    rows = [[name, *row] for name, row in zip(classes, counts.tolist(), strict=True)]
    return csv_text([["truth \\ prediction", *classes], *rows])


def figure(
    counts: np.ndarray,
    classes: Sequence[str],
    *,
    title: str,
    unit: str,
    palette: Sequence[Sequence[int]] | None = None,
) -> "Figure":
    """A cell for each pair of truth (rows) and prediction (columns), in percent of the row: what is right on
    the diagonal in blue, what is wrong in orange, by the root of the share, so that small ones show.

    At the right of each row how many there are, and beside the names the palette's colours. Above 42 classes
    cells have no numbers, above 64 classes no names.
    """
    from matplotlib.figure import Figure

    number = len(classes)
    cell = min(0.52, max(0.24, 10 / number)) if number <= MOST_NAMED else 9 / number
    names = 0.085 * max(map(len, classes)) + 0.5 if number <= MOST_NAMED else 0.6
    left, top, right, bottom, side = names, names + 0.7, 0.95, 0.15, cell * number
    width, height = max(left + side + right, 5.2), top + side + bottom
    drawn = Figure(figsize=(width, height), facecolor="white")
    axes = drawn.add_axes((left / width, bottom / height, side / width, side / height))
    total = counts.sum(1)
    share = counts / np.maximum(total, 1)[:, None]
    axes.imshow(_colours(share, total), interpolation="nearest", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for edge in axes.spines.values():
        edge.set_visible(False)
    if number <= MOST_NAMED:
        for place in np.arange(number + 1) - 0.5:
            axes.axhline(place, color="white", linewidth=0.8)
            axes.axvline(place, color="white", linewidth=0.8)
        _name(drawn, axes, classes, palette, min(10.0, 36 * cell))
        _count(axes, total, min(8.5, 32 * cell))
    if number <= MOST_NUMBERED:
        _number(axes, share, total, min(9.5, 25 * cell))
    hits = counts.trace() / counts.sum() if counts.sum() else float("nan")
    lines = [
        f"{100 * hits:.1f} % of {_amount(int(counts.sum()))} {unit} are right",
        "rows: truth, columns: prediction, % of the row",
    ]
    drawn.text(0.12 / width, 1 - 0.2 / height, title, fontsize=12, fontweight="bold", va="center")
    for line, text in enumerate(lines):
        y = 1 - (0.42 + 0.18 * line) / height
        drawn.text(0.12 / width, y, text, fontsize=9, color=GREY, va="center")
    return drawn


def _colours(share: np.ndarray, total: np.ndarray) -> np.ndarray:
    """uint8 RGB ``[C, C, 3]``; white where the truth has none of the class."""
    ink = np.where(np.eye(len(share), dtype=bool)[..., None], RIGHT, WRONG)
    colours = PAPER - np.sqrt(share)[..., None] * (PAPER - ink)
    colours[total == 0] = 255
    return colours.round().astype(np.uint8)


def _name(
    drawn: "Figure",
    axes: "Axes",
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None,
    size: float,
) -> None:
    """The classes at the left and on top, each beside a square of its colour."""
    from matplotlib.transforms import offset_copy

    room = 1.5 * size if palette else 0.45 * size
    left: Any = {"xycoords": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
    above: Any = {"xycoords": axes.get_xaxis_transform(), "ha": "center", "va": "bottom", "rotation": 90}
    for place, name in enumerate(classes):
        for spot, (x, y), style in (((0, place), (-1, 0), left), ((place, 1), (0, 1), above)):
            offset = (room * x, room * y)
            axes.annotate(name, spot, offset, textcoords="offset points", fontsize=size, **style)
            if palette:
                beside = offset_copy(
                    style["xycoords"], drawn, 0.85 * size * x, 0.85 * size * y, units="points"
                )
                colour = tuple(value / 255 for value in palette[place])
                square: Any = {"marker": "s", "markersize": 0.8 * size, "clip_on": False, "mew": 0.5}
                axes.plot(*spot, color=colour, mec="#999999", transform=beside, **square)


def _count(axes: "Axes", total: np.ndarray, size: float) -> None:
    """How many there are of each class, at the right; absent ones are said to be so."""
    for place, many in enumerate(total.tolist()):
        text = _amount(many) if many else "none"
        axes.annotate(
            text,
            (1, place),
            (4, 0),
            axes.get_yaxis_transform(),
            "offset points",
            va="center",
            fontsize=size,
            color=GREY,
        )


def _number(axes: "Axes", share: np.ndarray, total: np.ndarray, size: float) -> None:
    """Percent, where it rounds to 1 or more."""
    for row, column in zip(*np.nonzero(share >= 0.005), strict=True):
        dark = share[row, column] > (0.3 if row == column else 0.42)
        text = f"{100 * share[row, column]:.0f}"
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=size,
            color="white" if dark else "#222222",
            fontweight="bold" if row == column else "normal",
        )


def _amount(many: int) -> str:
    """1,234 or 12.3 M."""
    for unit, size in (("G", 10**9), ("M", 10**6)):
        if many >= size:
            return f"{many / size:#.3g} {unit}".replace(". ", " ")
    return f"{many:,}"
