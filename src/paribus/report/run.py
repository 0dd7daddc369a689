"""Answer an ablation's question: a table in the terminal, and on disk the same table as Markdown and CSV,
with a picture. Works while the runs are still being made. No torch, no lightning."""

import difflib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paribus.report.comparison import Comparison, Scale, compare
from paribus.report.speed import said, speed_figure, speeds
from paribus.results import Run, find_runs, natural, write_text
from paribus.tables import csv_text, markdown_table

if TYPE_CHECKING:
    from rich.table import Table

STATES = ("done", "failed", "interrupted", "running", "missing")
STYLES = {"better": "bold blue", "worse": "bold dark_orange", "baseline": "bold"}
MOST_FAILURES = 5


# The table


def _p(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
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
    factor = comparison.factors[0] if len(comparison.factors) == 1 else "level"
    units = ["", "", scale.unit, scale.unit, "points" * scale.percent, "", ""]
    names = [factor, "n", comparison.metric, "std", "difference", "p", "verdict"]
    cells = []
    for level, s, score, change in zip(levels, of, scores, changes, strict=True):
        std = scale(s.std if s else None)
        cells.append([level.label, str(len(level.values)), score, std, change, _p(level.p), level.verdict])
    if rates := speeds(comparison):
        units.insert(-1, "")
        names.insert(-1, "images/s")
        for level, row in zip(levels, cells, strict=True):
            row.insert(-1, said(rates.get(level.label)))
    return [f"{name}\n{unit}".strip() for name, unit in zip(names, units, strict=True)], cells


def format_table(comparison: Comparison) -> "Table":
    """The comparison as a rich table, at most 80 columns wide for levels of up to 15 characters."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    header, rows = _rows(comparison)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1), header_style="bold")
    for title in header:
        middle = title not in (header[0], "verdict")
        table.add_column(title, justify="right" if middle else "left", no_wrap=middle)
    for level, row in zip(comparison.levels, rows, strict=True):
        table.add_row(*map(Text, row), style=STYLES.get(level.verdict, ""))  # a label may hold [brackets]
    return table


# In sentences


def legend(comparison: Comparison) -> str:
    """What the columns of the table mean."""
    scale, tests = Scale.of(comparison), sum(level.p is not None for level in comparison.levels)
    unit = "percentage points" if scale.percent else f"the unit of {comparison.metric}"
    lines = ["n: seeds. ±: 95 % t interval over seeds."]
    if any(level.paired for level in comparison.levels):
        better = "higher" if comparison.mode == "max" else "lower"
        lines.append(f"Difference to {comparison.baseline}, paired by seed, in {unit}; {better} is better.")
    if tests:
        lines.append(f"p: paired t test, Holm-corrected for {tests} comparison{'s' * (tests > 1)}.")
    if speeds(comparison):
        lines.append("images/s: judged, without reading; the median of the seeds.")
    return " ".join(lines)


def notes(comparison: Comparison) -> list[str]:
    """How far the runs are, and what keeps the table from being whole."""
    levels, baseline = comparison.levels, comparison.baseline
    counts = Counter(run.status for run in comparison.runs)
    counts["missing"] = sum(why == "missing" for level in levels for why in level.lacking.values())
    said = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    unfinished = any(counts[state] for state in ("interrupted", "running", "missing"))
    more = " The verdicts may change when the rest is done." * unfinished
    lines = [f"{sum(counts[state] for state in STATES)} runs: {said}.{more}"]

    for level in levels:
        by_reason: dict[str, list[str]] = {}
        for seed, why in level.lacking.items():
            by_reason.setdefault(why, []).append(str(seed))
        if by_reason:
            seeds = "; ".join(f"{', '.join(which)} ({why})" for why, which in by_reason.items())
            lines.append(f"{level.label} lacks seed {seeds}.")
    if single := [level.label for level in levels if len(level.values) == 1]:
        lines.append(f"One seed gives no interval and no test: {', '.join(single)}.")
    for level in levels:
        if level.paired and level.paired.n > 1 and level.paired.p is None:
            lines.append(
                f"{level.label} differs from {baseline} alike in every seed: no spread for a t test."
            )

    for level in levels:
        if level.needed:
            seen = Scale.of(comparison)(level.paired.difference if level.paired else None, "+")
            lines.append(
                f"{level.label}: {level.needed} seeds would show a difference of {seen}, if it is one, four times in "
                "five."
            )
    lines += _effects(comparison)

    failed = [run for run in comparison.runs if run.status == "failed"]
    for run in failed[:MOST_FAILURES]:
        error = run.result.get("error") or {}
        message = (str(error.get("message") or "").strip().splitlines() or ["no message"])[0]
        lines.append(f"failed: {run.job}: {error.get('type', 'error')}: {message}")
    if len(failed) > MOST_FAILURES:
        lines.append(f"failed: and {len(failed) - MOST_FAILURES} more.")
    return lines + comparison.warnings


def _effects(comparison: Comparison) -> list[str]:
    """Main effects and interactions, in sentences."""
    scale = Scale.of(comparison)
    lines = []
    for effect in comparison.effects:
        of = effect.paired
        if of is None:
            continue
        half = f" ± {scale(of.half)}" if of.half else ""
        words = [
            f"{factor.split('.')[-1]} {level}"
            for factor, level in zip(effect.factors, effect.levels, strict=True)
        ]
        size = f"{scale(of.difference, '+')}{half}" + (f", p {_p(effect.p)}" if effect.p is not None else "")
        if len(words) == 1:
            lines.append(f"{words[0]} against {effect.to[0]}, over the other factors: {size}.")
        else:
            lines.append(f"{' with '.join(words)}: {size} beyond what the two add up to.")
    if lines:
        lines.append(f"p of these {len(comparison.effects)} effects: paired t tests, Holm-corrected.")
    return lines


def _origin(runs: Sequence[Run]) -> str:
    """Commits, versions, devices and time of the finished runs, in a sentence."""
    commits, versions, devices, seconds = set(), set(), set(), 0.0
    for result in (run.result for run in runs if run.status == "done"):
        if result.get("commit"):
            commits.add(f"commit {result['commit'][:10]}" + " with changes" * bool(result.get("dirty")))
        held = result.get("versions") or {}
        versions |= {f"{name} {held[name]}" for name in ("torch", "lightning") if name in held}
        devices |= {str(result["device"])} if result.get("device") else set()
        seconds += result.get("seconds") or 0
    time = {f"{seconds / 60:.1f} minutes of training"} if seconds else set()
    return "; ".join(", ".join(sorted(part)) for part in (commits, versions, devices, time) if part)


def markdown(comparison: Comparison) -> str:
    """The report as a page of Markdown beside figure.png."""
    header, rows = _rows(comparison)
    seeds = sorted({seed for level in comparison.levels for seed in level.values})
    scale = Scale.of(comparison)
    each = [[level.label, *(scale(level.values.get(seed)) for seed in seeds)] for level in comparison.levels]
    parts = [f"# {comparison.title}"]
    if comparison.source:
        parts.append(f"Source of the question: {comparison.source}")
    parts += [
        markdown_table(header, rows, left=(header[0], "verdict")),
        legend(comparison),
        "![Every seed, mean and interval](figure.png)",
    ]
    if speeds(comparison):
        parts.append("![The metric over images a second](speed.png)")
    parts.append("\n".join(f"- {note}" for note in notes(comparison)))
    unit = f", {scale.unit}" * bool(scale.unit)
    parts += [f"## Every seed: {comparison.metric}{unit}"]
    parts.append(
        markdown_table([header[0], *(f"seed {seed}" for seed in seeds)], each, left=(header[0], "verdict"))
    )
    if origin := _origin(comparison.runs):
        parts.append(f"Made with {origin}.")
    return "\n\n".join(parts) + "\n"


def table_csv(comparison: Comparison) -> str:
    """The table in full precision and in the metric's own unit, and every seed's value."""
    seeds = sorted({seed for level in comparison.levels for seed in level.values})
    of_mean = ["n", "mean", "std", "low", "high"]
    of_difference = ["pairs", "difference", "difference_low", "difference_high", "p", "p_holm", "p_sign_flip"]
    rates = speeds(comparison)
    of_speed = ["images_per_second"] * bool(rates)
    rows: list[list[Any]] = [
        [
            *comparison.factors,
            *of_mean,
            *of_difference,
            "verdict",
            *of_speed,
            *(f"seed {seed}" for seed in seeds),
        ]
    ]
    for level in comparison.levels:
        s, d = level.summary, level.paired
        mean = [s.n, s.mean, s.std, *_ends(s.mean, s.half)] if s else [0, *[""] * 4]
        tests = (
            [d.n, d.difference, *_ends(d.difference, d.half), d.p, level.p, d.p_sign_flip] if d else [""] * 7
        )
        speed = [rates.get(level.label)] * bool(rates)
        each = [level.values.get(seed) for seed in seeds]
        rows.append([*level.key, *mean, *tests, level.verdict, *speed, *each])
    return csv_text(rows)


def _ends(center: float, half: float | None) -> tuple[float | None, float | None]:
    return (None, None) if half is None else (center - half, center + half)


# The command


def run(*, folder: str | Path, metric: str | None = None, output: str | Path | None = None) -> Path:
    """Report the runs in `folder`: print the table, write report.md, table.csv, figure.png and figure.svg, and
    where the levels differ in speed speed.png, into `output` (default: `report` inside the folder), and return
    that folder.

    `metric` is a name in the runs' results; by default the ablation's.
    """
    from rich.console import Console
    from rich.markup import escape

    folder = Path(folder)
    runs = find_runs(folder)
    if not runs:
        raise ValueError(f"{folder} holds no runs (folders with a config.yaml); train some first")
    comparison = compare(runs, metric=metric)
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 100  # a file has no width, and rich would take 80, which breaks long levels
    console.print(f"\n[bold]{escape(comparison.title)}[/]")
    if comparison.source:
        console.print(comparison.source, style="dim", markup=False)
    console.print()
    console.print(format_table(comparison))
    console.print()
    console.print(legend(comparison), style="dim", markup=False)
    console.print()
    for note in notes(comparison):
        alarm = note.startswith(("failed", "not all else equal", "two runs"))
        console.print(note, style="red" if alarm else "", markup=False)

    output = Path(output) if output else folder / "report"
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "report.md", markdown(comparison))
    write_text(output / "table.csv", table_csv(comparison))
    if any(level.values for level in comparison.levels):
        from paribus.report.figures import (
            levels_figure,
        )  # after the table is on the screen: matplotlib takes a second

        figure = levels_figure(comparison)
        figure.savefig(output / "figure.svg", metadata={"Date": None})
        figure.savefig(output / "figure.png", dpi=200)
        console.print(f"\nPicture: {output / 'figure.png'}", markup=False, soft_wrap=True)
        if speeds(comparison):
            speed_figure(comparison).savefig(output / "speed.png", dpi=200)
            console.print(f"Speed:   {output / 'speed.png'}", markup=False, soft_wrap=True)
    else:
        console.print("\nNo run is finished yet: no picture.")
    return output


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
