"""The table of a comparison: in the terminal, as CSV, as LaTeX, and its rows for the pages. No torch, no lightning."""

import textwrap
from typing import TYPE_CHECKING, Any

from paribus.report.comparison import Comparison, Scale
from paribus.report.costs import said, speeds
from paribus.report.sentences import best, legend, p_word
from paribus.tables import csv_text, latex, latex_table

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {"better": "bold blue", "worse": "bold dark_orange", "baseline": "bold"}


def rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table as it is printed, the ± of each column one below another."""
    scale = Scale.of(comparison)

    def plus_minus(values: list[tuple[float | None, float | None]], sign: str) -> list[str]:
        means, halves = [scale(mean, sign) for mean, _ in values], [scale(half) for _, half in values]
        left, right = max(map(len, means), default=0), max(map(len, halves), default=0)
        return [
            f"{mean:>{left}} ± {half:>{right}}" if half else f"{mean:>{left}}   {'':{right}}"
            for mean, half in zip(means, halves, strict=True)
        ]

    levels = comparison.levels
    of = [level.summary for level in levels]
    scores = plus_minus([(s.mean, s.half) if s else (None, None) for s in of], "")
    changes = plus_minus(
        [(p.difference, p.half) if (p := level.paired) else (None, None) for level in levels], "+"
    )
    units = ["", "", scale.unit, scale.unit, "points" * scale.percent, "", ""]
    names = [comparison.by, "n", comparison.metric, "std", "difference", "p", "verdict"]
    cells = []
    for level, s, score, change in zip(levels, of, scores, changes, strict=True):
        std = scale(s.std if s else None)
        cells.append(
            [level.label, str(len(level.values)), score, std, change, p_word(level.p), level.verdict]
        )
    if rates := speeds(comparison):
        units.insert(-1, "")
        names.insert(-1, "images/s")
        for level, row in zip(levels, cells, strict=True):
            row.insert(-1, said(rates.get(level.label)))
    return [f"{name}\n{unit}".strip() for name, unit in zip(names, units, strict=True)], cells


def each_seed(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and cells: the metric of every run."""
    seeds = sorted({seed for level in comparison.levels for seed in level.values})
    scale = Scale.of(comparison)
    cells = [[level.label, *(scale(level.values.get(seed)) for seed in seeds)] for level in comparison.levels]
    return [comparison.by, *(f"seed {seed}" for seed in seeds)], cells


def format_table(comparison: Comparison) -> "Table":
    """The comparison as a rich table, at most 80 columns wide for levels of up to 15 characters."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    header, cells = rows(comparison)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1), header_style="bold")
    for title in header:
        middle = title not in (header[0], "verdict")
        table.add_column(title, justify="right" if middle else "left", no_wrap=middle)
    for level, row in zip(comparison.levels, cells, strict=True):
        table.add_row(*map(Text, row), style=STYLES.get(level.verdict, ""))  # a label may hold [brackets]
    return table


def table_csv(comparison: Comparison) -> str:
    """The table in full precision and in the metric's own unit, and every seed's value."""
    return csv_text(csv_rows(comparison))


def csv_rows(comparison: Comparison) -> list[list[Any]]:
    """The header and a row a level; None and "" are empty."""
    seeds = sorted({seed for level in comparison.levels for seed in level.values})
    of_mean = ["n", "mean", "std", "low", "high"]
    of_difference = ["pairs", "difference", "difference_low", "difference_high", "p", "p_holm", "p_sign_flip"]
    rates = speeds(comparison)
    of_speed = ["images_per_second"] * bool(rates)
    header = [*comparison.factors, *of_mean, *of_difference, "verdict", *of_speed]
    found: list[list[Any]] = [[*header, *(f"seed {seed}" for seed in seeds)]]
    for level in comparison.levels:
        s, d = level.summary, level.paired
        mean = [s.n, s.mean, s.std, *_ends(s.mean, s.half)] if s else [0, *[""] * 4]
        tests = (
            [d.n, d.difference, *_ends(d.difference, d.half), d.p, level.p, d.p_sign_flip] if d else [""] * 7
        )
        speed = [rates.get(level.label)] * bool(rates)
        each = [level.values.get(seed) for seed in seeds]
        found.append([*level.key, *mean, *tests, level.verdict, *speed, *each])
    return found


def _ends(center: float, half: float | None) -> tuple[float | None, float | None]:
    return (None, None) if half is None else (center - half, center + half)


def table_tex(comparison: Comparison) -> str:
    r"""The table for a paper: \input it in a document with \usepackage{booktabs}."""
    header, cells = rows(comparison)
    first = best(comparison)
    for level, row in zip(comparison.levels, cells, strict=True):
        if level is first and len(cells) > 1:
            row[-1] = ", ".join(filter(None, [row[-1], "best mean"]))
    left = (header[0], "verdict")
    head = [r"% \usepackage{booktabs}", f"% {' '.join(comparison.title.split())}"]
    head += [f"% {line}" for line in textwrap.wrap(latex(legend(comparison)), 100)]
    return "\n".join([*head, latex_table(header, cells, left)]) + "\n"
