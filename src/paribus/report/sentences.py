"""What a comparison says in sentences: for the terminal and for the pages. No torch, no lightning."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from paribus.report.comparison import Comparison, Level, Scale
from paribus.report.costs import speeds
from paribus.results import Run

STATES = ("done", "failed", "interrupted", "running", "missing")
VERDICTS = {
    "better": "Better than {}",
    "worse": "Worse than {}",
    "no difference shown": "No difference to {} shown",
    "not tested": "Not tested against {}",
}
MOST_FAILURES = 5
MOST_NAMED = 4  # levels of one verdict
ALARMS = ("failed", "not all else equal", "two runs")  # how sentences begin that nobody should pass over


def p_word(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def score(level: Level, scale: Scale) -> str:
    """The mean with half its interval: "62.0 ± 5.0"; empty without a finished run."""
    of = level.summary
    if of is None:
        return ""
    return scale(of.mean) + (f" ± {scale(of.half)}" if of.half is not None else "")


def best(comparison: Comparison) -> Level | None:
    """The level with the best mean, whatever may be said of it; None while there is none."""
    found = [(level.summary.mean, level) for level in comparison.levels if level.summary]
    if not found:
        return None
    return (max if comparison.mode == "max" else min)(found, key=lambda pair: pair[0])[1]


def states(comparison: Comparison) -> Counter[str]:
    """Runs by state, those that were asked for and are not there among them."""
    counts = Counter(run.status for run in comparison.runs)
    counts["missing"] = sum(why == "missing" for level in comparison.levels for why in level.lacking.values())
    return counts


def answer(comparison: Comparison) -> list[str]:
    """The verdicts in words, and which mean is best."""
    scale, first = Scale.of(comparison), best(comparison)
    unit = f" {scale.unit}".rstrip()
    lines = []
    apart = "; " if any("," in level.label for level in comparison.levels) else ", "
    for verdict, words in VERDICTS.items():
        levels = [level for level in comparison.levels if level.verdict == verdict and level.paired]
        named = [f"{at.label} ({scale(at.paired.difference, '+')})" for at in levels if at.paired]
        if named:
            compared = sum(level.paired is not None for level in comparison.levels)
            which = apart.join(named) if len(named) <= MOST_NAMED else f"{len(named)} of {compared} levels"
            lines.append(f"{words.format(comparison.baseline)}: {which}.")
    if first and len(comparison.levels) > 1:
        lines.append(f"The best mean: {first.label}, {score(first, scale)}{unit}.")
    return lines


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
    """All of them, for the terminal."""
    return [*progress(comparison), *effects(comparison), *failures(comparison), *comparison.warnings]


def progress(comparison: Comparison) -> list[str]:
    """How far the runs are, what keeps the table from being whole, and how many seeds would."""
    levels, baseline, counts = comparison.levels, comparison.baseline, states(comparison)
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
    return lines


def effects(comparison: Comparison) -> list[str]:
    """Main effects and interactions."""
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
        size = f"{scale(of.difference, '+')}{half}"
        size += f", p {p_word(effect.p)}" if effect.p is not None else ""
        if len(words) == 1:
            lines.append(f"{words[0]} against {effect.to[0]}, over the other factors: {size}.")
        else:
            lines.append(f"{' with '.join(words)}: {size} beyond what the two add up to.")
    if lines:
        lines.append(f"p of these {len(comparison.effects)} effects: paired t tests, Holm-corrected.")
    return lines


def failures(comparison: Comparison, most: int | None = MOST_FAILURES) -> list[str]:
    """A line for each of the first `most` failed runs; None: for all."""
    failed = [run for run in comparison.runs if run.status == "failed"]
    lines = []
    for run in failed[:most]:
        error = run.result.get("error") or {}
        message = (str(error.get("message") or "").strip().splitlines() or ["no message"])[0]
        lines.append(f"failed: {run.job}: {error.get('type') or 'error'}: {message}")
    if most is not None and len(failed) > most:
        lines.append(f"failed: and {len(failed) - most} more.")
    return lines


def origin(runs: Sequence[Run]) -> str:
    """Commits, versions, devices and time of the finished runs, in a sentence."""
    commits, versions, devices, seconds = set(), set(), set(), 0.0
    for result in (run.result for run in runs if run.status == "done"):
        if result.get("commit"):
            commits.add(f"commit {commit(result)}")
        held = result.get("versions") or {}
        versions |= {f"{name} {held[name]}" for name in ("torch", "lightning") if name in held}
        devices |= {str(result["device"])} if result.get("device") else set()
        seconds += result.get("seconds") or 0
    time = {f"{seconds / 60:.1f} minutes of training"} if seconds else set()
    return "; ".join(", ".join(sorted(part)) for part in (commits, versions, devices, time) if part)


def commit(result: Mapping[str, Any]) -> str:
    return str(result["commit"])[:10] + " with changes" * bool(result.get("dirty"))
