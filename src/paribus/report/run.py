"""Answer an ablation's question: a table in the terminal, and on disk the same table as Markdown, HTML, CSV and LaTeX,
with pictures. Works while the runs are still being made. No torch, no lightning."""

import difflib
import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING

from paribus.garbage import uncollected
from paribus.report.comparison import Comparison, compare
from paribus.report.sentences import ALARMS, legend, notes
from paribus.report.table import format_table, table_csv, table_tex
from paribus.results import find_runs, natural, write_text
from paribus.tables import wide_console

if TYPE_CHECKING:
    from rich.console import Console

    from paribus.report.figures import Picture


@uncollected()  # the runs that are read stay
def run(*, folder: str | Path, metric: str | None = None, output: str | Path | None = None) -> Path:
    """Report the runs in `folder`: print the table, write report.html, report.md, table.csv, table.tex and each picture
    as PNG and SVG into `output` (default: `report` inside the folder), and return that folder.

    `metric` is a name in the runs' results; by default the ablation's.
    """
    folder = Path(folder)
    runs = find_runs(folder)
    if not runs:
        raise ValueError(f"{folder} holds no runs (folders with a config.yaml); train some first")
    comparison = compare(runs, metric=metric)
    console = wide_console()
    _print(comparison, console)

    output = Path(output) if output else folder / "report"
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "table.csv", table_csv(comparison))
    write_text(output / "table.tex", table_tex(comparison))
    # After the table is on the screen: matplotlib takes a second.
    from paribus.report.markdown import markdown
    from paribus.report.page import page
    from paribus.report.sections import report_command, sections

    drawn = pictures(comparison)
    # A fork has the figures as they are: half of the time goes into these files, and the other into the pages.
    saving = multiprocessing.get_context("fork").Process(target=_save, args=(drawn, output))
    saving.start()
    parts = sections(comparison, drawn, report_command(folder, runs, metric))
    write_text(output / "report.md", markdown(comparison.title, comparison.source, parts))
    write_text(output / "report.html", page(comparison.title, comparison.source, parts))
    saving.join()
    if saving.exitcode:
        _save(drawn, output)  # raises what has gone wrong there
    if "figure" not in drawn:
        console.print("\nNo run is finished yet: no picture of the levels.")
    console.print(f"\nReport: {output / 'report.html'}", markup=False, soft_wrap=True)
    return output


def _save(drawn: "dict[str, Picture]", output: Path) -> None:
    for picture in drawn.values():
        picture.whole.savefig(output / f"{picture.name}.svg", metadata={"Date": None})
        picture.whole.savefig(output / f"{picture.name}.png", dpi=200)


def pictures(comparison: Comparison) -> "dict[str, Picture]":
    """All that can be drawn by now, by name."""
    from paribus.report.figures import levels_picture
    from paribus.report.frontier import frontier_picture
    from paribus.report.interaction import interaction_picture
    from paribus.report.learning import learning_picture

    drawn = [frontier_picture(comparison), interaction_picture(comparison), learning_picture(comparison)]
    if any(level.values for level in comparison.levels):
        drawn.insert(0, levels_picture(comparison))
    return {picture.name: picture for picture in drawn if picture}


def _print(comparison: Comparison, console: "Console") -> None:
    from rich.markup import escape

    console.print(f"\n[bold]{escape(comparison.title)}[/]")
    if comparison.source:
        console.print(comparison.source, style="dim", markup=False)
    console.print()
    console.print(format_table(comparison))
    console.print()
    console.print(legend(comparison), style="dim", markup=False)
    console.print()
    for note in notes(comparison):
        console.print(note, style="red" if note.startswith(ALARMS) else "", markup=False)


def find_folder(
    *, name: str | None = None, runs: str | Path | None = None, root: str | Path = "runs"
) -> Path:
    """The folder to report, `root`/`name` or `runs`. None or both given, or one that is absent, is a
    ValueError that names those there are."""
    if (name is None) == (runs is None):
        raise ValueError(f"say `ablation=<name>` or `runs=<folder>`{_choices(Path(root), '')}")
    folder = Path(root) / name if name else Path(str(runs))
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist{_choices(folder.parent, folder.name)}")
    return folder


def _choices(folder: Path, name: str) -> str:
    there = sorted((path.name for path in folder.glob("[!.]*") if path.is_dir()), key=natural)
    if not there:
        return f"; there are no runs in {folder} yet"
    near = difflib.get_close_matches(name, there, n=1)
    hint = f"; did you mean {folder / near[0]}?" if near else "."
    return f"{hint} In {folder} there are: {', '.join(there)}"
