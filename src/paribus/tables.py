"""Rows of cells as text: CSV for programs, Markdown for pages."""

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from typing import Any


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
