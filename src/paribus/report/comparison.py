"""From run folders to levels: which runs belong together, what differs between them, and what may be said
of the difference. No torch, no lightning."""

import difflib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from paribus.report.equality import made_differently, unequal
from paribus.report.factorial import Effect, effects
from paribus.report.statistics import Mode, Paired, Summary, holm, paired, seeds_needed, summary, verdict
from paribus.results import ABSENT, NOT_LEARNED, Run, differences, natural

MOST_SEEDS = 100  # that anyone would be told to train
LOWER_IS_BETTER = re.compile(r"loss|error|\bece\b|seconds|bytes|parameters|macs")


@dataclass(frozen=True)
class Level:
    """One level: its finished runs' metric by seed, and what can be said of it."""

    key: tuple[str, ...]  # one value for each factor, as written
    label: str
    values: dict[int, float]
    lacking: dict[int, str]  # seeds without a value, and why not
    summary: Summary | None  # None: no run is finished
    paired: Paired | None  # None: the baseline itself, or no seed in common with it
    p: float | None  # of the paired t test, Holm-corrected over the levels
    verdict: str  # "baseline", statistics.verdict's words, or empty
    reference: (
        str | None
    )  # label of the level it is compared with; None: the baseline itself, or that has no run
    needed: int | None  # seeds that would show the difference seen, if it is true; None: shown, or too many
    runs: dict[int, Run]  # by seed


@dataclass(frozen=True)
class Comparison:
    """The runs of an ablation (or of a plain sweep: then without question and source) by level."""

    question: str | None
    source: str | None
    metric: str
    mode: Mode
    factors: list[str]
    baseline: str
    levels: list[Level]
    runs: list[Run]
    warnings: list[str]
    effects: list[Effect]  # of several factors: main effects and interactions
    spread: float | None  # standard deviation of the differences to the baseline, pooled over the levels

    @property
    def by(self) -> str:
        """The title of a column of levels."""
        return self.factors[0] if len(self.factors) == 1 else "level"

    @property
    def title(self) -> str:
        return self.question or f"{self.metric} by {', '.join(self.factors) or 'seed'}"


@dataclass(frozen=True)
class Scale:
    """How a metric is printed: shares as percentages, with as many decimals as the intervals deserve."""

    percent: bool
    decimals: int

    @classmethod
    def of(cls, comparison: Comparison) -> "Scale":
        values = [value for level in comparison.levels for value in level.values.values()]
        share = bool(values) and all(0 <= value <= 1 for value in values)
        percent = share and "loss" not in comparison.metric
        halves = [level.summary.half for level in comparison.levels if level.summary and level.summary.half]
        # Two digits of the uncertainty are worth reading; of a percentage, one or two decimals.
        spread = median(halves) if halves else max(map(abs, values), default=1) / 100
        digits = 1 - math.floor(math.log10(spread * (100 if percent else 1))) if spread else 1
        return cls(percent, min(max(digits, 1), 2) if percent else min(max(digits, 0), 6))

    @property
    def unit(self) -> str:
        return "%" if self.percent else ""

    @property
    def factor(self) -> int:
        return 100 if self.percent else 1

    def named(self, metric: str) -> str:
        """A metric with its unit, for an axis or a heading."""
        return f"{metric}, {self.unit}" if self.unit else metric

    def __call__(self, value: float | None, sign: str = "") -> str:
        if value is None:
            return ""
        text = f"{value * self.factor:{sign}.{self.decimals}f}"
        return text.replace("-", sign) if not text.strip("+-0.") else text  # no -0.00


def compare(runs: Sequence[Run], *, metric: str | None = None) -> Comparison:
    """Group runs by level, and compare each level with the baseline over the seeds that both have.

    A baseline that names only some of the factors stands, for each level, for the level with those factors
    set to it; a plain sweep, which names none, is compared with its first level.
    """
    newest = max(runs, key=_started)  # its question is the one asked last
    ablation = newest.config.get("ablation") or {}
    _one_question(runs)
    metric = _metric(runs, metric or ablation.get("metric"))
    mode = direction(newest, metric)
    wanted = ablation.get("factors") or {}
    factors = _factors(runs, list(wanted))

    cells, warnings = _cells(runs, factors)

    def of_level(run: Run) -> str:
        return _label(factors, _words(_held(run, factor) for factor in factors))

    warnings += unequal(runs, factors, of_level) + made_differently(runs, of_level)
    keys = sorted(cells, key=lambda key: [natural(word) for word in key])
    if factors == list(wanted):  # in the question's own order, with the levels that have no run yet
        asked = [_words(choice) for choice in itertools.product(*wanted.values())]
        keys = asked + [key for key in keys if key not in asked]
    seeds = sorted({*(ablation.get("seeds") or ()), *(seed for cell in cells.values() for seed in cell)})
    values: dict[tuple[str, ...], dict[int, float]] = {}
    for key in keys:
        found = {seed: _value(run, metric) for seed, run in sorted(cells.get(key, {}).items())}
        values[key] = {seed: value for seed, value in found.items() if value is not None}

    baseline = ablation.get("baseline") or {}
    named = {factor: _word(baseline[factor]) for factor in factors if factor in baseline}
    if not named and len(keys) > 1:
        named = dict(zip(factors, keys[0], strict=True))
        first = _label(factors, keys[0])
        warnings.append(f"no baseline is named: {first}, the first level, stands in for it.")
    reference = {key: tuple(named.get(f, word) for f, word in zip(factors, key, strict=True)) for key in keys}
    pairs = [
        None if reference[key] == key else paired(values[key], values.get(reference[key], {})) for key in keys
    ]
    corrected = holm([pair.p if pair else None for pair in pairs])
    levels = []
    for key, pair, p in zip(keys, pairs, corrected, strict=True):
        said = verdict(pair.difference, p, mode) if pair else "baseline" if reference[key] == key else ""
        held, cell = values[key], cells.get(key, {})
        lacking = {seed: _why_not(cell.get(seed)) for seed in seeds if seed not in held}
        of = summary(list(held.values())) if held else None
        needed = _needed(held, values[reference[key]]) if said == "no difference shown" else None
        to = _label(factors, reference[key]) if pair else None
        levels.append(Level(key, _label(factors, key), held, lacking, of, pair, p, said, to, needed, cell))
    return Comparison(
        question=ablation.get("question"),
        source=ablation.get("source"),
        metric=metric,
        mode=mode,
        factors=factors,
        baseline=_label(list(named), list(named.values()), alone=len(factors) == 1),
        levels=levels,
        runs=list(runs),
        warnings=warnings,
        effects=effects(factors, values, named),
        spread=_spread(
            [
                _differences(values[key], values.get(reference[key], {}))
                for key in keys
                if reference[key] != key
            ]
        ),
    )


def _differences(values: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    return [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]


def _spread(samples: Iterable[list[float]]) -> float | None:
    """By their degrees of freedom; None where no level has two seeds in common with its baseline."""
    found = [
        (of.std**2, of.n - 1) for sample in samples if sample and (of := summary(sample)).std is not None
    ]
    degrees = sum(d for _, d in found)
    return math.sqrt(sum(variance * d for variance, d in found) / degrees) if degrees else None


def _needed(values: Mapping[int, float], baseline: Mapping[int, float]) -> int | None:
    of = summary(_differences(values, baseline))
    return seeds_needed(of.mean, of.std, most=MOST_SEEDS) if of.std is not None else None


def _one_question(runs: Sequence[Run]) -> None:
    asked = {run.name: tuple((run.config.get("ablation") or {}).get("factors") or ()) for run in runs}
    if len({factors for factors in asked.values() if factors}) > 1:
        raise ValueError(f"these runs answer several questions, report one at a time: {', '.join(asked)}")


def _cells(
    runs: Sequence[Run], factors: list[str]
) -> tuple[dict[tuple[str, ...], dict[int, Run]], list[str]]:
    """{level: {seed: run}}, and where two runs are for one place."""
    cells: dict[tuple[str, ...], dict[int, Run]] = {}
    warnings = []
    for run in sorted(runs, key=lambda run: (run.status == "done", _started(run))):
        key = _words(_held(run, factor) for factor in factors)
        cell, seed = cells.setdefault(key, {}), run.seed or 0
        if seed in cell:
            where = f"{_label(factors, key)}, seed {seed}"
            warnings.append(f"two runs for {where}: {run.job} counts, {cell[seed].job} does not.")
        cell[seed] = run
    return cells, warnings


def _factors(runs: Sequence[Run], asked: list[str]) -> list[str]:
    """The question's factors and what was overridden beside them; for runs that name no factors, the keys
    in which their configs differ. Keys that divide the runs alike, as a model's norm and its backbone's do,
    are one factor."""
    overridden = dict.fromkeys(key for run in runs for key in run.factors if key not in asked)
    varied = [key for key in overridden if len({_word(_held(run, key)) for run in runs}) > 1]
    if asked or varied:
        return asked + varied
    divisions: dict[tuple[str, ...], str] = {}
    for key, words in _varied(runs).items():
        divisions.setdefault(words, key)
    return list(divisions.values())


def _varied(runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    """The keys in which the runs' configs differ, with each run's value; not the seed, nor what equals it."""
    ignored = (*NOT_LEARNED, "seed")
    keys = dict.fromkeys(
        key for run in runs[1:] for key, _, _ in differences(runs[0].config, run.config, ignored)
    )
    seeds = _words(run.seed for run in runs)
    found = {key: _words(run.flat.get(key, ABSENT) for run in runs) for key in keys}
    return {key: words for key, words in found.items() if words != seeds}


def _held(run: Run, factor: str) -> Any:
    # The choice of a config group is in the overrides alone; a plain key always is in the config.
    return run.factors.get(factor, run.flat.get(factor, "(default)"))


def _metric(runs: Sequence[Run], metric: str | None) -> str:
    """The metric asked for; by default the test's counterpart of what the task monitors."""
    found = dict.fromkeys(name for run in runs for name in run.metrics)
    if metric is None:
        monitor = (runs[0].config.get("task") or {}).get("monitor") or next(iter(found), "test/accuracy")
        test = re.sub("^val/", "test/", monitor)
        return test if test in found else monitor
    if found and metric not in found:
        near = difflib.get_close_matches(metric, found, n=1)
        hint = f"; did you mean `metric={near[0]}`?" if near else "."
        raise ValueError(f"no run has the metric `{metric}`{hint} They have: {', '.join(found)}")
    return metric


def direction(run: Run, metric: str) -> Mode:
    """Whether more of a metric is better, as the task says of what it monitors; of losses and the like less is."""
    task = run.config.get("task") or {}
    monitored = metric.split("/")[-1] == str(task.get("monitor")).split("/")[-1]
    if monitored and task.get("mode") in ("min", "max"):
        return task["mode"]
    return "min" if LOWER_IS_BETTER.search(metric) else "max"


def _value(run: Run, metric: str) -> float | None:
    return run.metrics.get(metric) if run.status == "done" else None


def _why_not(run: Run | None) -> str:
    if run is None:
        return "missing"
    return "without a finite value" if run.status == "done" else run.status


def _started(run: Run) -> str:
    return str(run.result.get("started") or "")


def _word(value: Any) -> str:
    """A value as YAML writes it; 1 and 1.0, 1e-3 and 0.001 are one word, as they are one level."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d*\.?\d+e[-+]?\d+|[-+]?\d*\.\d+", value, re.I):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_word, value))}]"
    return str(value)


def _words(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(_word(value) for value in values)


def _label(factors: Sequence[str], key: Sequence[str], alone: bool = True) -> str:
    """For one factor its value, "group"; for several "norm=group, depth=20", with as much of each key as
    tells them apart."""
    if alone and len(factors) == 1:
        return key[0]
    ends = Counter(factor.split(".")[-1] for factor in factors)
    short = [end if ends[end := factor.split(".")[-1]] == 1 else factor for factor in factors]
    return ", ".join(f"{name}={word}" for name, word in zip(short, key, strict=True)) or "all runs"
