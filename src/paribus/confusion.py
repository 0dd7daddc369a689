"""What a judged split's classes were taken for: confusion_<split>.csv and figures/<split>_confusion.png."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from lightning import Trainer
from PIL import Image, ImageDraw

from paribus.callbacks import Judging
from paribus.pictures import BLACK, WHITE, Color, font_of, save
from paribus.results import write_text
from paribus.tables import csv_text

# Okabe and Ito: told apart by every common kind of colour vision.
RIGHT, WRONG = (0, 114, 178), (213, 94, 0)
PAPER, INK, GREY, EDGE = 246, (34, 34, 34), (85, 85, 85), (153, 153, 153)
MOST_NAMED, MOST_NUMBERED = 64, 42  # classes, of a picture with their names, with numbers in its cells
INCH = 160  # pixels
POINT = INCH / 72


class Confusion(Judging):
    """Writes the matrix of a validation or a test whose metric counts one (label, mask), over all processes.

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
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / f"confusion_{name}.csv", table(counts, data.classes))
        unit = "pixels" if data.target == "mask" else "images"
        title = " ".join([split, *self.named])
        picture = figure(counts, data.classes, title=title, unit=unit, palette=data.reader.palette)
        save(picture, self.folder / "figures" / f"{name}_confusion.png")


def table(counts: np.ndarray, classes: Sequence[str]) -> str:
    """CSV of integers ``[C, C]``: a row for each true class, a column for each predicted one."""
    rows = [[name, *row] for name, row in zip(classes, counts.tolist(), strict=True)]
    return csv_text([["truth \\ prediction", *classes], *rows])


class Word(NamedTuple):
    """What is written at a place of the picture. at: pixels (x, y) of the text's anchor (as Pillow names it: left,
    middle or right, then middle or descender); that of upright text, which is read from below, is its lower middle.
    size: points."""

    text: str
    at: tuple[float, float]
    anchor: str
    size: float
    color: Color = BLACK
    bold: bool = False
    upright: bool = False


class Layout(NamedTuple):
    """Where the picture has what, in pixels. corner: of the cells, left and top. side: of all cells together."""

    width: int
    height: int
    corner: tuple[int, int]
    side: int
    cell: float

    @classmethod
    def of(cls, classes: Sequence[str]) -> "Layout":
        number = len(classes)
        cell = min(0.52, max(0.24, 10 / number)) if number <= MOST_NAMED else 9 / number
        names = 0.085 * max(map(len, classes)) + 0.5 if number <= MOST_NAMED else 0.6
        left, top, right, bottom, side = names, names + 0.7, 0.95, 0.15, round(INCH * cell * number)
        width, height = max(INCH * (left + right) + side, 5.2 * INCH), INCH * (top + bottom) + side
        return cls(round(width), round(height), (round(INCH * left), round(INCH * top)), side, side / number)

    @property
    def names(self) -> float:
        """The size of the classes' names, in points."""
        return min(10.0, self.cell / POINT / 2)

    def middle(self, row: int, column: int) -> tuple[float, float]:
        """Of a cell; row or column -1 is where the names begin, and column C where the cells end."""
        x, y = self.corner
        across = min(max(0.0, (column + 0.5) * self.cell), self.side)
        return x + across, y + max(0.0, (row + 0.5) * self.cell)


def figure(
    counts: np.ndarray,
    classes: Sequence[str],
    *,
    title: str,
    unit: str,
    palette: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """A cell for each pair of truth (rows) and prediction (columns), in percent of the row: what is right on
    the diagonal in blue, what is wrong in orange, by the root of the share, so that small ones show.

    At the right of each row how many there are, and beside the names the palette's colours. Above 42 classes
    cells have no numbers, above 64 classes no names. uint8 RGB ``[H, W, 3]``.

    Drawn by Pillow: every run draws two, and matplotlib takes 0.2 s for one of 11 classes, 1.3 s for one of 40.
    """
    number, place = len(classes), Layout.of(classes)
    drawn = np.full((place.height, place.width, 3), 255, np.uint8)
    (left, top), side = place.corner, place.side
    cells = cv2.resize(_colours(counts), (side, side), interpolation=cv2.INTER_NEAREST)
    drawn[top : top + side, left : left + side] = cells
    if number <= MOST_NAMED:  # lines between the cells
        edges = (np.arange(number + 1) * side / number).round().astype(int)
        drawn[top + edges - 1, left : left + side] = drawn[top + edges, left : left + side] = 255
        drawn[top : top + side, left + edges - 1] = drawn[top : top + side, left + edges] = 255
    canvas = Image.fromarray(drawn)
    draw = ImageDraw.Draw(canvas)
    if palette and number <= MOST_NAMED:
        _squares(draw, place, palette[:number])
    for word in words(counts, classes, title=title, unit=unit, beside=palette is not None):
        write(canvas, draw, word)
    return np.asarray(canvas)


def words(
    counts: np.ndarray, classes: Sequence[str], *, title: str, unit: str, beside: bool
) -> Iterator[Word]:
    """All that the picture says. beside: names leave room for a square of their colour."""
    number, place = len(classes), Layout.of(classes)
    points = place.cell / POINT
    if number <= MOST_NAMED:
        room = (1.5 if beside else 0.45) * place.names * POINT
        for i, name in enumerate(classes):
            x, y = place.middle(i, -1)
            yield Word(name, (x - room, y), "rm", place.names)
            x, y = place.middle(-1, i)
            yield Word(name, (x, y - room), "md", place.names, upright=True)
        for i, many in enumerate(counts.sum(1).tolist()):
            x, y = place.middle(i, number)
            text = _amount(many) if many else "none"
            yield Word(text, (x + 4 * POINT, y), "lm", min(8.5, 0.44 * points), GREY)
    if number <= MOST_NUMBERED:
        share, size = _share(counts), min(9.5, 0.35 * points)
        for row, column in zip(*np.nonzero(share >= 0.005), strict=True):  # rounds to 1 or more
            right = row == column
            dark = share[row, column] > (0.3 if right else 0.42)
            text, color = f"{100 * share[row, column]:.0f}", WHITE if dark else INK
            yield Word(text, place.middle(row, column), "mm", size, color, bold=bool(right))
    hits = counts.trace() / counts.sum() if counts.sum() else float("nan")
    yield Word(title, (0.12 * INCH, 0.2 * INCH), "lm", 12, bold=True)
    said = f"{100 * hits:.1f} % of {_amount(int(counts.sum()))} {unit} are right"
    yield Word(said, (0.12 * INCH, 0.42 * INCH), "lm", 9, GREY)
    yield Word("rows: truth, columns: prediction, % of the row", (0.12 * INCH, 0.6 * INCH), "lm", 9, GREY)


def write(canvas: Image.Image, draw: ImageDraw.ImageDraw, word: Word) -> None:
    font = font_of(max(1, round(word.size * POINT)), word.bold)
    if not word.upright:
        draw.text(word.at, word.text, word.color, font, anchor=word.anchor)
        return
    length, height = math.ceil(font.getlength(word.text)), sum(font.getmetrics())
    mask = Image.new("L", (max(1, length), height))
    ImageDraw.Draw(mask).text((0, 0), word.text, 255, font)
    corner = round(word.at[0] - height / 2), round(word.at[1]) - mask.width
    canvas.paste(word.color, corner, mask.transpose(Image.Transpose.ROTATE_90))


def _share(counts: np.ndarray) -> np.ndarray:
    """Of its row, float ``[C, C]``."""
    return counts / np.maximum(counts.sum(1), 1)[:, None]


def _colours(counts: np.ndarray) -> np.ndarray:
    """uint8 RGB ``[C, C, 3]``; white where the truth has none of the class."""
    ink = np.where(np.eye(len(counts), dtype=bool)[..., None], RIGHT, WRONG)
    colours = PAPER - np.sqrt(_share(counts))[..., None] * (PAPER - ink)
    colours[counts.sum(1) == 0] = 255
    return colours.round().astype(np.uint8)


def _squares(draw: ImageDraw.ImageDraw, place: Layout, palette: Sequence[Sequence[int]]) -> None:
    """A square of its colour between each name and the cells."""
    size = place.names * POINT
    for i, color in enumerate(palette):
        for (x, y), (across, down) in ((place.middle(i, -1), (-1, 0)), (place.middle(-1, i), (0, -1))):
            x, y = x + 0.85 * size * across, y + 0.85 * size * down
            box = (round(x - 0.4 * size), round(y - 0.4 * size), round(x + 0.4 * size), round(y + 0.4 * size))
            draw.rectangle(box, fill=(int(color[0]), int(color[1]), int(color[2])), outline=EDGE)


def _amount(many: int) -> str:
    """1,234 or 12.3 M."""
    for unit, size in (("G", 10**9), ("M", 10**6)):
        if many >= size:
            return f"{many / size:#.3g} {unit}".replace(". ", " ")
    return f"{many:,}"
