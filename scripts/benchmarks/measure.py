"""What the benchmarks share: ways taken in turn, medians, the lines they end with, and under which conditions.

A benchmark says in its first lines what it compares, checks that the results are equal, measures its ways in turn in
one process tree, prints a small table of what it measured, and last a line for each claim:

    PASS|FAIL|QUICK <claim>:<against> <ratio> <bound>

with _ for spaces, and a bound such as >=5 or <=1.02; below one that fails WHY and what is known of the reason. `--quick` takes tiny sizes and one round: the results are held to
be equal, the bounds are not judged. The exit code is 1 if a claim does not hold.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

JUDGED = {">=": float.__ge__, "<=": float.__le__}
FAILED: list[str] = []  # claims of this program


def quick(described: str) -> bool:
    """Whether the command line asks for tiny sizes. Prints the conditions."""
    parser = argparse.ArgumentParser(
        description=described, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round, bounds not judged")
    asked = parser.parse_args().quick
    sys.argv = [*sys.argv[:1], *(["--quick"] if asked else [])]
    print(conditions())
    return asked


def conditions() -> str:
    """Processor, cores, load and versions, in one line."""
    packages = ("torch", "lightning", "torchmetrics", "torchvision", "timm", "numpy")
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    threads = os.environ.get("OMP_NUM_THREADS", "as they come")
    return f"{processor()}, threads: {threads}, load {load()}; Python {platform.python_version()}, {versions}"


def processor() -> str:
    """Its name, and how many cores this process may use."""
    names = [
        line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"


def load() -> str:
    """Processes that wanted to run, on average over the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def timed(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> Callable[[], float]:
    """A way that takes as long as `work`, by the processor's time of this process unless another clock is given."""

    def way() -> float:
        start = clock()
        work()
        return clock() - start

    return way


def in_turn(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each way returns, of every round; every other round goes backwards, so that none is always the first."""
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds):
        for name in list(ways)[:: -1 if i % 2 else 1]:
            measured[name].append(ways[name]())
    return measured


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios of neighbours, which were measured under the same load."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def table(measured: dict[str, list[float]], unit: str, factor: float = 1.0) -> None:
    """Median, least and most of each way."""
    width = max(map(len, measured))
    print(
        f"\n{'':{width}}  {'median':>10}  {'least':>10}  {'most':>10}  {unit}, {len(next(iter(measured.values())))} rounds"
    )
    for name, values in measured.items():
        values = [factor * value for value in values]
        print(f"{name:{width}}  {statistics.median(values):10.4g}  {min(values):10.4g}  {max(values):10.4g}")
    print()


def claim(what: str, against: str, found: float, bound: str, judged: bool = True, why: str = "") -> None:
    """Prints the line of a claim; bound: `>=5`, `<=1.02`. why: what is known of the reason, where it does not hold."""
    holds = JUDGED[bound[:2]](float(found), float(bound[2:]))
    name = f"{what}:{against}".replace(" ", "_")
    if judged and not holds:
        FAILED.append(name)
    verdict = "QUICK" if not judged else "PASS" if holds else "FAIL"
    print(f"{verdict} {name} {found:.4g} {bound}", flush=True)
    if verdict == "FAIL" and why:
        print(f"WHY {why}", flush=True)


def end() -> None:
    sys.exit(1 if FAILED else 0)
