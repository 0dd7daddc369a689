"""Is all else equal? What differs between runs beside the factors and the seed: the check that a comparison stands on.

It reads the resolved configs of all runs, and the machines and packages that made them. No torch, no lightning.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paribus.results import ABSENT, NOT_LEARNED, Run, within

IGNORED = (*NOT_LEARNED, "seed")
MOST = 6  # keys that are said one by one
MADE_WITH: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "commit": lambda result: (
        (result.get("commit") or "")[:10] + (" with changes" if result.get("dirty") else "")
    ),
    "device": lambda result: result.get("device"),
    "threads": lambda result: result.get("threads"),
    "processes": lambda result: result.get("processes"),
    "replicates": lambda result: "stacked" if result.get("stacked_with") else "separate",
}


def unequal(runs: Sequence[Run], factors: Sequence[str], label: Callable[[Run], str]) -> list[str]:
    """In sentences, each key of the configs that differs between the runs and is neither a factor, nor the seed, nor
    follows from a factor; empty if all else is equal.

    A key follows from a factor if it has the value of one of the factor's own keys in every run: an interpolation,
    as a model's norm that is its backbone's. A factor that is a group (``backbone``) owns all keys of it; a
    whole recipe (``experiment``) owns every key, and what it changed is said.

    label: the words for a run's level.
    """
    flats = [run.flat for run in runs]
    keys = [key for key in dict.fromkeys(key for flat in flats for key in flat) if not within(key, IGNORED)]
    columns = {key: tuple(_comparable(flat.get(key, ABSENT)) for flat in flats) for key in keys}
    varied = {key: column for key, column in columns.items() if len(set(column)) > 1}
    if "experiment" in factors:
        said = ", ".join(f"`{key}`" for key in varied)
        return [f"the levels are whole recipes, which differ in {said}."] if varied else []
    owned = {key for key in varied if within(key, factors)}
    explained = {varied[key] for key in owned} | {tuple(_comparable(run.seed) for run in runs)}
    found = []
    for key, column in varied.items():
        if key in owned or column in explained or _follows(column, explained):
            continue
        found.append(f"not all else equal: `{key}` differs: {_said(column, runs, label)}.")
    if len(found) > MOST:
        rest = len(found) - MOST
        found[MOST:] = [f"not all else equal: and {rest} more keys differ; see the runs' config.yaml."]
    return found


def made_differently(runs: Sequence[Run], label: Callable[[Run], str]) -> list[str]:
    """In sentences, where finished runs were made with other code, packages or machines."""
    done = [run for run in runs if run.status == "done"]
    reads = dict(MADE_WITH)
    for name in dict.fromkeys(name for run in done for name in run.result.get("versions") or {}):
        reads[name] = lambda result, name=name: (result.get("versions") or {}).get(name)  # type: ignore[misc]
    found = []
    for name, read in reads.items():
        column = tuple(read(run.result) for run in done)
        if len({value for value in column if value}) > 1:
            found.append(f"not all else equal: made with different {name}: {_said(column, done, label)}.")
    return found


def _said(column: Sequence[Any], runs: Sequence[Run], label: Callable[[Run], str]) -> str:
    """Which value which runs have: "0.1 in none (3 runs), 0.2 in group seed 1"."""
    parts = []
    for value in dict.fromkeys(column):
        where: dict[str, list[Any]] = {}
        for run, held in zip(runs, column, strict=True):
            if held == value:
                where.setdefault(label(run), []).append(run.seed)
        places = [
            f"{words} seed {seeds[0]}" if len(seeds) == 1 else f"{words} ({len(seeds)} runs)"
            for words, seeds in where.items()
        ]
        shown = ", ".join(places[:3]) + (f" and {len(places) - 3} more levels" if len(places) > 3 else "")
        parts.append(f"{_word(value)} in {shown}")
    return "; ".join(parts)


def _follows(column: Sequence[Any], explained: set[tuple[Any, ...]]) -> bool:
    """Whether it is a factor's key wherever it is anything: a backbone without norms gives its model none."""
    return any(
        all(a == b or {_word(a), _word(b)} <= {"null", ABSENT} for a, b in zip(column, other, strict=True))
        for other in explained
    )


def _comparable(value: Any) -> Any:
    """Hashable, and told apart as a config does: true is not 1, 1 is 1.0."""
    if isinstance(value, bool):
        return ("bool", value)
    return repr(value) if isinstance(value, list | dict) else value


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return str(value[1]).lower()
    return "null" if value is None else str(value)
