"""A sweep of 8 short runs: Paribus, and lightning-hydra-template's way with three launchers.

    python scripts/benchmarks/sweep.py [--quick]

Every run trains the same perceptron (784 - 64 - 64 - 10, its parameters counted) on the same 3,200 made-up digits of
MNIST's shape in batches of 32, 100 steps of Adam, validates on 320, keeps checkpoints, and tests the best one on 320;
each must have done its steps and learned. The template's way (template/train.py) is a Hydra app of its own: its
sweep by Hydra's basic launcher in one process, by joblib where hydra-joblib-launcher is there, or a shell loop of
single runs. Paribus draws its figures, tables and predictions besides. Seconds are the clock's, as the ways use other
numbers of processes; each has one thread a process and all cores. A marginal run is what each further one adds to a
sweep of one.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np

HERE = Path(__file__).parent
TEMPLATE, PARIBUS = HERE / "template" / "train.py", HERE.parent / "train.py"
PARAMETERS = 784 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10
OURS = [
    *("data=mnist", "data.reader.split={val: 0.090909}", "data.num_workers=0", "data.batch_size=32"),
    *("data.size=[28,28]", "data.channels=1", "data.mean=[0.1307]", "data.std=[0.3081]"),
    *("backbone=mlp", "backbone.width=64", "optimizer=adam", "scheduler=constant", "trainer.max_epochs=1"),
]
NUMBERS = itertools.count()


def digits(root: Path) -> None:
    """Images of MNIST's shape and files: a pattern for each class, half of it noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (10, 28, 28))
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, length in (("train", 3520), ("t10k", 320)):
        labels = rng.permutation(np.arange(length) % 10)
        images = (patterns[labels] // 2 + rng.integers(0, 128, (length, 28, 28))).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            (raw / f"{stem}-{kind}-ubyte").write_bytes(head + values.tobytes())


def call(script: Path, *arguments: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, str(script), *arguments], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script} {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def paribus(runs: int, data: Path, folder: Path) -> None:
    seeds = ",".join(map(str, range(runs)))
    call(PARIBUS, "-m", *OURS, f"data.reader.root={data}", f"seed={seeds}", "name=sweep", cwd=folder)
    found = [json.loads(path.read_text()) for path in folder.glob("runs/sweep/*/result.json")]
    assert len(found) == runs, f"{len(found)} of {runs} runs"
    for one in found:
        said = one["steps"], one["parameters"], one["metrics"]["test/accuracy"] > 0.9
        assert said == (100, PARAMETERS, True), f"another run: {said}"


def template(runs: int, data: Path, folder: Path, *launcher: str) -> None:
    seeds = ",".join(map(str, range(runs)))
    call(TEMPLATE, "-m", f"data.root={data}", f"seed={seeds}", *launcher, cwd=folder)
    held_equal(runs, folder)


def shell_loop(runs: int, data: Path, folder: Path) -> None:
    for seed in range(runs):
        call(TEMPLATE, f"data.root={data}", f"seed={seed}", cwd=folder)
    held_equal(runs, folder)


def held_equal(runs: int, folder: Path) -> None:
    import csv

    tables = [list(csv.DictReader(path.open())) for path in folder.rglob("metrics.csv")]
    assert len(tables) == runs, f"{len(tables)} of {runs} runs"
    for rows in tables:
        assert max(int(row["step"]) for row in rows) in (99, 100), "another number of steps"
        assert max(float(row["test/acc"]) for row in rows if row.get("test/acc")) > 0.9, "it did not learn"


def way(work: Callable[..., None], runs: int, data: Path, home: Path, *more: str) -> Callable[[], float]:
    """Seconds of the clock, in a new folder every time."""

    def seconds() -> float:
        folder = home / str(next(NUMBERS))
        folder.mkdir()
        start = time.perf_counter()
        work(runs, data, folder, *more)
        return time.perf_counter() - start

    return seconds


def main() -> None:
    quick = measure.quick(__doc__)
    many = 2 if quick else 8
    joblib = importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is not None
    with tempfile.TemporaryDirectory() as temporary:
        home, data = Path(temporary), Path(temporary) / "data"
        digits(data)
        jobs = "hydra/launcher=joblib", f"hydra.launcher.n_jobs={len(os.sched_getaffinity(0))}"
        ways = {
            "Paribus, 1 run": way(paribus, 1, data, home),
            f"Paribus, {many}": way(paribus, many, data, home),
            "basic launcher, 1": way(template, 1, data, home),
            f"basic launcher, {many}": way(template, many, data, home),
        }
        if not quick:
            ways |= {f"joblib, {many}": way(template, many, data, home, *jobs)} if joblib else {}
            ways |= {f"shell loop, {many}": way(shell_loop, many, data, home)}
        else:
            ways = dict(list(ways.items())[1::2])
        found = measure.in_turn(ways, 1 if quick else 5)
    measure.table(found, "s by the clock")
    own = found[f"Paribus, {many}"]
    what = f"sweep of {many} short runs"
    if not quick:
        further = [(b - a) / (many - 1) for a, b in zip(found["Paribus, 1 run"], own, strict=True)]
        theirs = [
            (b - a) / (many - 1)
            for a, b in zip(found["basic launcher, 1"], found[f"basic launcher, {many}"], strict=True)
        ]
        print(
            f"a further run: Paribus {statistics.median(further):.3f} s, basic launcher {statistics.median(theirs):.3f} s\n"
        )
        drawn = (
            "a run takes about 0.75 s of a core: its steps, a judging of two splits with pictures, its config"
        )
        measure.claim(
            "a further run of a sweep", "basic launcher", measure.ratio(theirs, further), ">=8", why=drawn
        )
    for name, bound in (("basic launcher", ">=3"), ("joblib", ">=4"), ("shell loop", ">=6")):
        if f"{name}, {many}" in found:
            ratio = measure.ratio(found[f"{name}, {many}"], own)
            why = "two thirds of it are its start, the imports that a single run of either way has too"
            measure.claim(what, name, ratio, bound, not quick, why)


if __name__ == "__main__":
    main()
    measure.end()
