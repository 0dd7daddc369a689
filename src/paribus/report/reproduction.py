"""Tables that were committed, beside the runs that were made again: do they say the same?"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paribus.report.comparison import Level, compare
from paribus.results import find_runs, natural


@dataclass(frozen=True)
class Row:
    """One level of one table, as it was and as it is.

    tolerance: of the mean: the half widths of both 95 % intervals, as the sides of a right angle; 0 where either is a
    single seed, which must come out the same.
    """

    table: str
    level: str
    was: float
    now: float | None  # None: no finished run
    tolerance: float
    was_said: str  # the verdicts
    now_said: str

    @property
    def outcome(self) -> str:
        """missing, equal (to 1e-9), within, or outside."""
        if self.now is None:
            return "missing"
        off = abs(self.now - self.was)
        return (
            "equal"
            if off <= 1e-9 * max(1, abs(self.was))
            else "within"
            if off <= self.tolerance
            else "outside"
        )


def tables(folder: Path) -> list[Path]:
    """The committed tables, ``<folder>/<name>/table.csv``."""
    found = sorted(folder.glob("*/table.csv"), key=lambda path: natural(path.parent.name))
    if not found:
        raise ValueError(f"{folder} holds no tables (<name>/table.csv)")
    return found


def reproduced(table: Path, root: Path) -> list[Row]:
    """Each level of a committed table beside the runs in ``root/<name>``."""
    name = table.parent.name
    with open(table, encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    runs = find_runs(root / name)
    comparison = compare(runs) if runs else None
    now = {level.key: level for level in comparison.levels} if comparison else {}
    end = header.index("n")
    rows = []
    for line in lines:
        was = dict(zip(header, line, strict=True))
        if not was["mean"]:
            continue
        level = now.get(tuple(line[:end]))
        rows.append(_row(name, ", ".join(line[:end]), was, level))
    return rows


def _row(name: str, label: str, was: dict[str, str], level: Level | None) -> Row:
    mean = float(was["mean"])
    of = level.summary if level else None
    halves = (float(was["high"]) - mean if was["high"] else 0.0, (of.half or 0.0) if of else 0.0)
    tolerance = math.hypot(*halves) if all(halves) else 0.0
    said = level.verdict if level and of else ""
    return Row(name, label, mean, of.mean if of else None, tolerance, was["verdict"], said)


def run(*, folder: Path, root: Path, name: str | None = None) -> bool:
    """Prints every level of the committed tables beside the runs made again, and whether all are the same within
    their tolerance."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    chosen = [table for table in tables(folder) if name in (None, table.parent.name)]
    if not chosen:
        raise ValueError(
            f"{folder} holds no table of {name}; there are: {', '.join(t.parent.name for t in tables(folder))}"
        )
    console, rows = Console(highlight=False), [row for table in chosen for row in reproduced(table, root)]
    shown = Table("table", "level", "was", "is", "tolerance", "", "verdict", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        changed = row.now is not None and row.now_said != row.was_said
        verdict = f"{row.was_said}, now {row.now_said}" if changed else row.was_said
        now = "" if row.now is None else f"{row.now:.4f}"
        bad = row.outcome in ("missing", "outside")
        cells = (row.table, row.level, f"{row.was:.4f}", now, f"{row.tolerance:.4f}", row.outcome, verdict)
        shown.add_row(*map(Text, cells), style="bold dark_orange" if bad else "")
    console.print(shown)
    console.print(f"\n{summary(rows)}", soft_wrap=True)
    return all(row.outcome in ("equal", "within") for row in rows)


def summary(rows: Sequence[Row]) -> str:
    counts = {
        word: sum(row.outcome == word for row in rows) for word in ("equal", "within", "outside", "missing")
    }
    changed = sum(row.now is not None and row.now_said != row.was_said for row in rows)
    said = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    return f"{len(rows)} levels: {said}; {changed} verdict{'s' * (changed != 1)} changed."
