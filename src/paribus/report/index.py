"""Everything under a root: its ablations and sweeps, and its plain runs, in the terminal and as index.html.
No torch, no lightning."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paribus.report.comparison import Comparison, Scale, compare
from paribus.report.page import page
from paribus.report.sections import Section, Table
from paribus.report.sentences import best, score, states
from paribus.results import Run, find_runs, write_text
from paribus.tables import Cell, Link, wide_console

if TYPE_CHECKING:
    from rich.table import Table as Printed

NUMBERS = ("levels", "seeds", "done", "failed", "left")


@dataclass(frozen=True)
class Entry:
    """A folder of runs. comparison is None where its runs cannot be compared; error says why."""

    folder: Path
    runs: list[Run]
    comparison: Comparison | None
    error: str = ""

    @property
    def best(self) -> str:
        """The level with the best mean, and its metric: "group, test/accuracy 91.0 ± 3.3 %"."""
        if self.comparison is None:
            return self.error
        level, scale = best(self.comparison), Scale.of(self.comparison)
        if level is None:
            return ""
        return f"{level.label}, {self.comparison.metric} {score(level, scale)} {scale.unit}".strip()

    @property
    def counts(self) -> list[str]:
        """The cells under NUMBERS."""
        if self.comparison is None:
            return ["", "", *_ended([run.status for run in self.runs])]
        seeds = {run.seed for run in self.runs}
        seeds |= {seed for level in self.comparison.levels for seed in level.lacking}
        every = [state for state, n in states(self.comparison).items() for _ in range(n)]
        return [str(len(self.comparison.levels)), str(len(seeds)), *_ended(every)]


def run(*, root: str | Path = "runs", output: str | Path | None = None) -> Path:
    """Print the index of all runs under `root`, write it as index.html into `output` (default: the root), and return
    that file. A root without runs is a ValueError."""
    root = Path(root)
    runs = find_runs(root)
    if not runs:
        raise ValueError(f"say `ablation=<name>` or `runs=<folder>`; there are no runs in {root} yet")
    compared, plain = entries(runs)
    console = wide_console()
    console.print()
    if compared:
        console.print(_printed(["runs", *NUMBERS, "best"], _rows(compared, root)))
        console.print()
    if plain:
        console.print(_printed(["run", "metric", "status"], _plain(plain, root)))
        console.print()
    file = (Path(output) if output else root) / "index.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, html(compared, plain, root, file.parent))
    console.print(f"Index: {file}", markup=False, soft_wrap=True)
    return file


def entries(runs: Sequence[Run]) -> tuple[list[Entry], list[Run]]:
    """The folders of ablations and of other runs that belong together, and the runs that stand alone."""
    by_folder: dict[Path, list[Run]] = {}
    for one in runs:
        by_folder.setdefault(one.path.parent, []).append(one)
    compared, plain = [], []
    for folder, together in by_folder.items():
        if len(together) == 1 and not together[0].config.get("ablation"):
            plain += together
            continue
        try:
            compared.append(Entry(folder, together, compare(together)))
        except ValueError as error:  # one folder of another kind does not keep the index from the others
            compared.append(Entry(folder, together, None, str(error)))
    return compared, plain


def html(compared: Sequence[Entry], plain: Sequence[Run], root: Path, at: Path) -> str:
    """at: the folder of the page, from which its links lead."""
    sections = []
    if compared:
        header = ["runs", "question", "best", "report", *NUMBERS]
        rows = [
            [
                row[0],
                entry.comparison.title if entry.comparison else "",
                row[-1],
                _report(entry, at),
                *row[1:-1],
            ]
            for entry, row in zip(compared, _rows(compared, root), strict=True)
        ]
        sections.append(Section("Ablations and sweeps", table=Table(header, rows, header[:4])))
    if plain:
        header = ["run", "metric", "status"]
        marks = ["failed" * (run.status == "failed") for run in plain]
        sections.append(Section("Single runs", table=Table(header, _plain(plain, root), header, marks)))
    return page(f"Runs in {root.name or root}", None, sections)


def _rows(compared: Sequence[Entry], root: Path) -> list[list[str]]:
    return [[_name(entry.folder, root), *entry.counts, entry.best] for entry in compared]


def _plain(plain: Sequence[Run], root: Path) -> list[list[str]]:
    """The run, what it is judged by, and how it stands."""
    rows = []
    for run in plain:
        comparison = compare([run])
        said = Entry(run.path, [run], comparison).best.removeprefix(f"{comparison.levels[0].label}, ")
        rows.append([_name(run.path, root), said, run.status])
    return rows


def _ended(states: list[str]) -> list[str]:
    """Done, failed, left."""
    done, failed = states.count("done"), states.count("failed")
    return [str(done), str(failed), str(len(states) - done - failed)]


def _report(entry: Entry, at: Path) -> Cell:
    path = entry.folder / "report" / "report.html"
    if path.is_file():
        return Link("report", Path(os.path.relpath(path, at)).as_posix())
    return ""


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path != root else path.name


def _printed(header: Sequence[str], rows: Sequence[Sequence[str]]) -> "Printed":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Printed
    from rich.text import Text

    table = Printed(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )
    for title in header:
        number = title in NUMBERS
        table.add_column(title, justify="right" if number else "left", no_wrap=number)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
