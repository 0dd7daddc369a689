"""Two runs at once on two cores: by Paribus's launcher, as a shell starts them, and the ideal.

    python scripts/benchmarks/threads.py [--quick]

The run is the same in all three: a small convolutional network of scripts/train.py, whose steps are counted for some
seconds in its metrics.csv after each of the runs has begun. The launcher gives each run its share of the cores
(hydra.launcher.n_jobs=2). Two started in a shell get what torch takes by default, as many threads each as there are
cores, which wait for each other by spinning. The ideal is twice what one run does alone with one thread. Steps by the
clock: threads are the point.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure

PARIBUS = Path(__file__).parent.parent / "train.py"
RUN = [
    *("data.reader.lengths={train: 640, val: 32, test: 32}", "data.batch_size=32", "backbone=convnet4"),
    *(
        "trainer.log_every=5",
        "trainer.progress=false",
        "trainer.max_epochs=100000",
        "trainer.validate_every=100000",
    ),
    *("scheduler=constant", "test=false", "name=threads"),
]


def begun(*arguments: str, cwd: Path, threads: int | None) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return subprocess.Popen(
        [sys.executable, str(PARIBUS), *arguments],
        cwd=cwd,
        env=environment | {"NO_ALBUMENTATIONS_UPDATE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def rate(begin: Callable[[Path], list[subprocess.Popen]], runs: int, seconds: float) -> Callable[[], float]:
    """Steps a second of all runs together."""

    def measured() -> float:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            processes = begin(Path(folder))
            try:
                until = time.monotonic() + 240
                while len(done := steps(Path(folder))) < runs:
                    assert time.monotonic() < until, "the runs do not begin"
                    assert all(p.poll() is None for p in processes), "a run ended before it began"
                    time.sleep(0.1)
                start = time.perf_counter()
                time.sleep(seconds)
                after = steps(Path(folder))
                taken = time.perf_counter() - start
            finally:
                for process in processes:
                    if process.poll() is None:
                        os.killpg(
                            process.pid, signal.SIGTERM
                        )  # Ctrl-C is ignored below a job in the background
                for process in processes:
                    process.wait(120)
            return max(1, sum(after.values()) - sum(done.values())) / taken

    return measured


def steps(folder: Path) -> dict[str, int]:
    """How many each run has done, of those that have begun."""
    found = {}
    for path in folder.glob("runs/threads/*/metrics.csv"):
        rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
        done = [int(row[0]) for row in rows if len(row) == 4 and row[2] == "train/loss"]
        if done:
            found[path.parent.name] = max(done)
    return found


def main() -> None:
    quick = measure.quick(__doc__)
    seconds = 1.0 if quick else 8.0

    def launched(folder: Path) -> list[subprocess.Popen]:
        return [begun("-m", *RUN, "seed=0,1", "hydra.launcher.n_jobs=2", cwd=folder, threads=None)]

    def by_a_shell(folder: Path) -> list[subprocess.Popen]:
        return [begun(*RUN, f"seed={seed}", cwd=folder, threads=None) for seed in range(2)]

    def alone(folder: Path) -> list[subprocess.Popen]:
        return [begun(*RUN, "seed=0", cwd=folder, threads=1)]

    ways = {"Paribus's launcher, 2 runs": rate(launched, 2, seconds)}
    if not quick:
        ways |= {"a shell, 2 runs": rate(by_a_shell, 2, seconds), "1 run, 1 thread": rate(alone, 1, seconds)}
    found = measure.in_turn(ways, 1 if quick else 5)
    measure.table(found, "steps a second, of all together")
    if quick:
        measure.claim(
            "two runs on two cores", "begun", found["Paribus's launcher, 2 runs"][0], ">=0", judged=False
        )
        return
    own, shell, one = found.values()
    measure.claim("two runs on two cores", "the default environment", measure.ratio(own, shell), ">=3")
    measure.claim(
        "two runs on two cores", "the ideal", measure.ratio(own, [2 * rate for rate in one]), ">=0.9"
    )


if __name__ == "__main__":
    main()
    measure.end()
