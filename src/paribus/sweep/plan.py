"""What a sweep would do, before it does it: which runs are left, how long they take, and what they could show."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from paribus.config import LauncherConfig, TrainConfig
from paribus.report.comparison import Scale, compare
from paribus.report.statistics import detectable
from paribus.results import find_runs
from paribus.stacked.refused import why_not
from paribus.sweep.forked import apart
from paribus.sweep.job import Job
from paribus.sweep.probe import Cost, probe
from paribus.sweep.slots import Slots
from paribus.sweep.standing import clock

ASSUMED = 0.01  # spread of differences, where none has been seen
MORE_SEEDS = (3, 5, 10, 20)


def plan(jobs: Sequence[Job], keys: LauncherConfig) -> None:
    """Prints the runs by level with their state, the time and disk that is left, and the least difference that the
    seeds could show. Trains a few steps of each level that has no finished run, and leaves nothing.

    jobs: composed. Those that are refused are left failed, as by a sweep.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    levels: dict[str, list[tuple[Job, TrainConfig | None]]] = {}
    for job in jobs:
        typed = job.settle()
        if typed is not None:
            job.done(None)  # for now
        levels.setdefault(job.level, []).append((job, typed))
    table = Table("level", "runs", "state", "a run", "left", box=None, padding=(0, 2, 0, 0))
    seconds, disk, slots = 0.0, 0, None
    for level, runs in levels.items():
        left = [typed for _, typed in runs if typed is not None]
        if left:
            slots = slots or Slots(keys, left[0])
        each = _spent([job for job, _ in runs])
        if each is None and left:
            assert slots is not None
            each = _probed(runs[0][0], left[0], slots, min(len(left), math.ceil(len(jobs) / slots.all)))
        states = Counter(_state(job) for job, _ in runs)
        said = ", ".join(f"{n} {state}" for state, n in states.items())
        more = clock(each.seconds * len(left)) if each and left else ""
        table.add_row(Text(level), str(len(runs)), said, clock(each.seconds) if each else "", more)
        if each:
            seconds += each.seconds * len(left)
            disk += each.bytes * len(left)
    console.print(table)
    console.print()
    if slots:
        at_once = f"{slots.all} at once" if slots.all > 1 else "one after another"
        console.print(
            f"Left: about {Cost(seconds / slots.all, disk)}; {at_once}, as fast as the machine is now.",
            soft_wrap=True,
        )
    else:
        console.print("Left: nothing.")
    for line in differences_shown(jobs[0].folder.parent, len(levels), max(map(len, levels.values()))):
        console.print(line, soft_wrap=True)


def _spent(jobs: Sequence[Job]) -> Cost | None:
    """What the finished runs of a level took; None if there is none."""
    done = [job for job in jobs if job.known.get("status") == "done"]
    if not done:
        return None
    kept = [file.stat().st_size for job in done for file in (job.folder / "checkpoints").glob("*.ckpt")]
    return Cost(sum(job.known["seconds"] for job in done) / len(done), sum(kept) // len(done))


def _probed(job: Job, typed: TrainConfig, slots: Slots, together: int) -> Cost:
    """together: seeds that are trained side by side, where that is asked for and can be."""
    if typed.replicates != "stacked" or job.alone or why_not(typed) is not None:
        together = 1
    environment = slots.take(job)
    try:
        return apart(probe, typed, together, config=job.composed, share=environment)
    finally:
        slots.give_back(job)


def _state(job: Job) -> str:
    if job.refused:
        return "refused"
    state = job.known.get("status", "new")
    return "interrupted" if state == "running" else state


def differences_shown(folder: Path, levels: int, seeds: int) -> list[str]:
    """In sentences, the smallest difference that seeds could show, by the spread of the differences seen so far."""
    if levels < 2:
        return []
    comparison = compare(runs) if (runs := find_runs(folder)) else None
    spread = comparison.spread if comparison else None
    scale = Scale.of(comparison) if comparison and spread else Scale(percent=True, decimals=1)
    words = (
        f"as in the {sum(level.paired.n for level in comparison.levels if level.paired)} pairs seen"
        if comparison and spread
        else "assumed; no pair is seen yet"
    )
    counts = sorted({seeds, *(n for n in MORE_SEEDS if n > seeds)})
    each = ", ".join(
        f"{scale(found)} with {n}" for n in counts if (found := detectable(spread or ASSUMED, n)) is not None
    )
    unit = " points" if scale.percent else ""
    lines = [] if seeds > 1 else ["One seed shows no difference: it has no spread."]
    return [
        *lines,
        f"If differences vary by {scale(spread or ASSUMED)}{unit} from seed to seed ({words}), these would be shown four "
        f"times in five: {each} seeds.",
    ]
