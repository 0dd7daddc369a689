"""Rows of cells as text: CSV for programs, Markdown, LaTeX and HTML for pages."""

import csv
import io
import os
import re
from collections.abc import Collection, Iterable, Sequence
from html import escape
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
    "±": r"$\pm$", "×": r"$\times$", "→": r"$\to$", **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}  # fmt: skip


class Link(NamedTuple):
    """A cell that leads somewhere, where a cell can: in HTML."""

    text: str
    href: str


Cell = str | Link


def wide_console() -> "Console":
    """Where tables are printed: as broad as the terminal; a file has no width, and the 80 that rich would take break
    long levels."""
    from rich.console import Console

    found = Console(highlight=False)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = 100
    return found


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """A line a row, the header among them; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[str]) -> str:
    """A table whose columns with these titles are set to the left, and all others, numbers, to the right."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in [header, *rows]]
    rule = [":--" if title in left else "--:" for title in header]
    return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]])


def latex_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[str]) -> str:
    r"""A tabular with the rules of booktabs; needs ``\usepackage{booktabs}`` and nothing else. A title of two lines
    takes two rows."""
    heads = list(zip_longest(*(title.splitlines() for title in header), fillvalue=""))
    lines = [" & ".join(map(latex, row)) + r" \\" for row in [*heads, *rows]]
    places = "".join("l" if title in left else "r" for title in header)
    body = [r"\toprule", *lines[: len(heads)], r"\midrule", *lines[len(heads) :], r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{@{{}}{places}@{{}}}}", *body, r"\end{tabular}"])


def latex(text: str) -> str:
    """Words and numbers as LaTeX prints them: its own characters escaped, a minus that is one."""
    parts = re.split(r"(?<![\w.-])-(?=\d)", " ".join(text.split()))
    return "$-$".join("".join(LATEX.get(letter, letter) for letter in part) for part in parts)


def html_table(
    header: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    left: Collection[str],
    *,
    label: str,
    marks: Sequence[str] = (),
) -> str:
    """A table that scrolls by itself where the page is narrower; the first cell of a row heads it.

    label: what it holds, for who does not see it. marks: a class for each row.
    """
    kinds = ["" if title in left else ' class="number"' for title in header]
    head = "".join(
        f'<th scope="col"{kind}>{"<br>".join(escape(title).splitlines())}</th>'
        for title, kind in zip(header, kinds, strict=True)
    )
    lines = []
    for place, row in enumerate(rows):
        cells = [
            f'<th scope="row"{kind}>{html_cell(cell)}</th>' if i == 0 else f"<td{kind}>{html_cell(cell)}</td>"
            for i, (cell, kind) in enumerate(zip(row, kinds, strict=True))
        ]
        mark = f' class="{escape(marks[place])}"' if marks and marks[place] else ""
        lines.append(f"<tr{mark}>{''.join(cells)}</tr>")
    inside = "\n".join([f"<thead><tr>{head}</tr></thead>", "<tbody>", *lines, "</tbody>"])
    region = f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">'
    return f"{region}<table>\n{inside}\n</table></div>"


def html_cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f'<a href="{escape(cell.href)}">{escape(cell.text)}</a>'
    # What pads a number to its column, so that each ± is below another, is as wide as a figure.
    return escape(re.sub(r"(?<= ) ", "\u2007", cell.rstrip() and cell.lstrip()))
