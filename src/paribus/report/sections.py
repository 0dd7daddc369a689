"""A report as sections, each a heading with sentences, a table and a picture; the pages only set them.
No torch, no lightning."""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paribus.report import sentences, test_set
from paribus.report.comparison import Comparison, Scale
from paribus.report.figures import Picture
from paribus.report.sentences import score
from paribus.report.table import csv_rows, each_seed, rows
from paribus.results import NOT_LEARNED, Run, within
from paribus.tables import Cell

UNEQUAL = ("not all else equal", "the levels are whole recipes")


@dataclass(frozen=True)
class Table:
    """left: the titles of the columns of words. marks: a class for each row, of the page's style."""

    header: list[str]
    rows: Sequence[Sequence[Cell]]
    left: Sequence[str]
    marks: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """sentences: one paragraph; notes: one line each. code: commands. folded: of a page, to be opened; left out of
    Markdown."""

    title: str = ""
    sentences: Sequence[str] = ()
    table: Table | None = None
    legend: str = ""
    picture: Picture | None = None
    notes: Sequence[str] = ()
    code: Sequence[str] = ()
    folded: bool = False


def sections(comparison: Comparison, pictures: Mapping[str, Picture], command: str) -> list[Section]:
    """All of a report, in its order. A further one is added here, and is in all pages.

    pictures: by name, those that could be drawn. command: what makes the report again.
    """
    found: list[Section | None] = [
        _table(comparison, pictures.get("figure")),
        _factors(comparison, pictures.get("interaction")),
        _test_set(comparison),
        _published(comparison),
        _learning(pictures.get("curves")),
        _cost(pictures.get("frontier")),
        _failed(comparison),
        _equal(comparison),
        _each_seed(comparison),
        _made(comparison, command),
        _held(comparison),
        _numbers(comparison),
    ]
    return [section for section in found if section]


def _table(comparison: Comparison, picture: Picture | None) -> Section:
    header, cells = rows(comparison)
    marks = [level.verdict.split()[0] if level.verdict else "" for level in comparison.levels]
    unequal = set(filter(_is_unequal, comparison.warnings))
    return Section(
        sentences=sentences.answer(comparison),
        table=Table(header, cells, (header[0], "verdict"), marks),
        legend=sentences.legend(comparison),
        picture=picture,
        notes=[
            *sentences.progress(comparison),
            *(line for line in comparison.warnings if line not in unequal),
            *([f"{_count(len(unequal), 'warning')}: see All else equal."] if unequal else []),
        ],
    )


def _factors(comparison: Comparison, picture: Picture | None) -> Section | None:
    lines = sentences.effects(comparison)
    if not lines and not picture:
        return None
    return Section("Each factor, and both together", picture=picture, notes=lines)


def _test_set(comparison: Comparison) -> Section | None:
    """What other test images would have said."""
    found = test_set.uncertainty(comparison)
    if not found:
        return None
    header, cells = test_set.table(comparison, found)
    said = test_set.sentences(comparison, found)
    table = Table(header, cells, header[:2]) if cells else None
    return Section("The test set's images", said[:1], table, notes=said[1:])


def _published(comparison: Comparison) -> Section | None:
    """The source's values beside ours."""
    newest = max(comparison.runs, key=lambda run: str(run.result.get("started") or ""))
    published = (newest.config.get("ablation") or {}).get("published") or {}
    values = {str(key): value for key, value in (published.get("values") or {}).items()}
    if not values:
        return None
    scale = Scale.of(comparison)
    ours = {level.label: score(level, scale) for level in comparison.levels}
    header = [
        comparison.by,
        f"here:\n{scale.named(comparison.metric)}",
        f"published:\n{published.get('metric', '')}",
    ]
    labels = list(dict.fromkeys([*ours, *values]))
    cells = [[label, ours.get(label, ""), _word(values.get(label, ""))] for label in labels]
    source = f" ({comparison.source})" if comparison.source else ""
    said = [
        f"The last column is what the source published{source}, from other data and another budget; nothing of it was "
        "measured here.",
        "Compare the order of the levels, not the values.",
    ]
    return Section("The published result", said, Table(header, cells, header[:1]))


def _learning(picture: Picture | None) -> Section | None:
    if picture is None:
        return None
    said = [
        "A validation loss that rises while the training loss still falls is overfitting; where both stay high, the "
        "network underfits, or the training is too short."
    ]
    return Section("How the levels learn", said, picture=picture)


def _cost(picture: Picture | None) -> Section | None:
    return Section("What it costs", picture=picture) if picture else None


def _failed(comparison: Comparison) -> Section | None:
    lines = sentences.failures(comparison, most=None)
    said = ["They are counted, and in no mean."]
    return Section(f"Failed runs: {len(lines)}", said, notes=lines) if lines else None


def _equal(comparison: Comparison) -> Section:
    unequal = [line for line in comparison.warnings if _is_unequal(line)]
    if unequal:
        return Section("All else equal?", notes=unequal)
    factors = ", ".join(comparison.factors) or "nothing"
    said = f"Yes: the resolved configs of the {_count(len(comparison.runs), 'run')} differ in {factors}, in what "
    return Section(
        "All else equal?", [said + "follows from it, and in the seed; in nothing else that is learned."]
    )


def _each_seed(comparison: Comparison) -> Section:
    scale = Scale.of(comparison)
    header, cells = each_seed(comparison)
    return Section(f"Every seed: {scale.named(comparison.metric)}", table=Table(header, cells, header[:1]))


def _made(comparison: Comparison, command: str) -> Section:
    """Commit, versions, hardware and time of the runs, and the commands that make them again."""
    done = [run.result for run in comparison.runs if run.status == "done"]
    reads: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "commit": lambda result: result.get("commit") and sentences.commit(result),
        "versions": lambda result: ", ".join(f"{k} {v}" for k, v in (result.get("versions") or {}).items()),
        "platform": lambda result: result.get("platform"),
        "device": lambda result: result.get("device"),
        "processors": lambda result: result.get("cpus"),
        "processes": lambda result: result.get("processes"),
        "threads": lambda result: result.get("threads"),
    }
    cells = [[name, "; ".join(_distinct(map(read, done)))] for name, read in reads.items()]
    seconds = sum(result.get("seconds") or 0 for result in done)
    started = sorted(str(result["started"])[:10] for result in done if result.get("started"))
    cells.append(["made", " to ".join(dict.fromkeys([*started[:1], *started[-1:]]))])
    cells.append(["training, in all", f"{seconds / 60:.1f} minutes" if seconds else ""])
    header = ["of the finished runs", "value"]
    made = Table(header, [row for row in cells if row[1]], header)
    commands = _distinct(run.result.get("command") for run in comparison.runs)
    return Section("How it was made", table=made if made.rows else None, code=[*commands, command])


def _held(comparison: Comparison) -> Section | None:
    """The keys that all configs have alike."""
    flats = [run.flat for run in comparison.runs]
    cells = [
        [key, _word(value)]
        for key, value in flats[0].items()
        if not within(key, (*NOT_LEARNED, "seed"))
        and all(key in flat and flat[key] == value for flat in flats)
    ]
    if not cells:
        return None
    header = ["key", "value"]
    return Section(
        f"Held equal: {_count(len(cells), 'key')}", table=Table(header, cells, header), folded=True
    )


def _numbers(comparison: Comparison) -> Section:
    header, *cells = csv_rows(comparison)
    written = [["" if cell is None else str(cell) for cell in row] for row in cells]
    left = [*comparison.factors, "verdict"]
    said = ["As in table.csv, in the metric's own unit."]
    return Section("All numbers", said, Table(header, written, left), folded=True)


def report_command(folder: Path, runs: Sequence[Run], metric: str | None) -> str:
    """What was typed, as it can be typed again."""
    asks = any(run.config.get("ablation") for run in runs)
    which = f"ablation={folder.name}" if asks and folder.parent == Path("runs") else f"runs={folder}"
    words = ["python", "scripts/report.py", which, *([f"metric={metric}"] if metric else [])]
    return shlex.join(words)


def _is_unequal(line: str) -> bool:
    return line.startswith(UNEQUAL)


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value not in (None, "")))


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"
