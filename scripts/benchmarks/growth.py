"""How cost grows: a set from 1,000 to 1,000,000 samples, a sweep of 1,000 runs, a report over 1,000 run folders.

The set is simulated: its samples are a few images that lie in memory, so that what is measured is what the platform
adds. Of a sweep the time to the first run's first sign is compared with that of a sweep of two; it is stopped then.
The folders of the report are copies of one run that is trained here, at 20 rates with 50 seeds each, with metrics of
their own.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from loader import MEAN, STD, trained_on
from measure import claim, end, in_turn, quick, ratio, table

from paribus.data.module import DataModule
from paribus.data.samples import Sample
from paribus.metrics.classification import ClassificationMetrics
from paribus.metrics.segmentation import SegmentationMetrics
from small_data import Arrays

SCRIPTS = Path(__file__).resolve().parents[1]
BATCH, CLASSES = 64, tuple("abcdefghij")
SMALL = [
    *("data.reader.lengths={train: 96, val: 33, test: 35}", "data.batch_size=16"),
    *("backbone.channels=[8,16]", "trainer.max_epochs=2", "trainer.progress=false", "name=s"),
]


class Made(Arrays):
    """A reader of a set of any length, of which few images lie in memory."""

    classes = CLASSES

    def __init__(self, length: int):
        super().__init__(np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8))
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index % 64], index % len(CLASSES), str(index))


def resident_memory() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read(length: int, batches: int) -> tuple[float, float, float]:
    """Seconds to the first batch, seconds an image from then on, bytes that it took, of so many batches."""
    before, start = resident_memory(), time.perf_counter()
    reader: Any = Made(length)
    keys: Any = {"size": (32, 32), "resident": False, "verify": False}
    epoch = trained_on(DataModule(reader=reader, batch_size=BATCH, mean=MEAN, std=STD, **keys))
    seen, since, first = 0, 0.0, 0.0
    while seen <= batches:
        for _ in epoch():
            if not seen:
                since, first = time.process_time(), time.perf_counter() - start
            seen += 1
            if seen > batches:
                break
    spent = time.process_time() - since
    return first, spent / (batches * BATCH), resident_memory() - before


def states(images: int) -> int:
    """Bytes of the metrics of labels and of masks after so many images."""
    labels, masks = ClassificationMetrics(CLASSES), SegmentationMetrics(CLASSES)
    target = torch.randint(0, len(CLASSES), (BATCH,))
    mask = torch.randint(0, len(CLASSES), (8, 16, 16))
    for _ in range(images // BATCH):
        labels.update(torch.randn(BATCH, len(CLASSES)), target)
    for _ in range(images // 8):
        masks.update(mask, mask)
    kept = [getattr(metric, name) for metric in (labels, masks) for name in metric._defaults]
    return sum(x.nbytes for state in kept for x in (state if isinstance(state, list) else [state]))


def first_run(folder: Path, runs: int) -> float:
    """Seconds from the command of a sweep to the first row that a run of it writes."""
    command = [sys.executable, str(SCRIPTS / "train.py"), "-m", *SMALL, f"seed=range(0,{runs})"]
    folder.mkdir()
    start = time.perf_counter()
    sweep = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    while not [*folder.glob("runs/s/*/metrics.csv")]:
        if sweep.poll() is not None:
            sys.exit(f"the sweep of {runs} runs ended before it began")
        time.sleep(0.02)
    spent = time.perf_counter() - start
    sweep.send_signal(signal.SIGTERM)
    sweep.wait()
    return spent


def folders(root: Path, levels: int, seeds: int) -> None:
    """Folders of runs that only seem to have been made, below runs/q."""
    train = [sys.executable, str(SCRIPTS / "train.py"), *SMALL]
    subprocess.run(train, cwd=root, check=True, stdout=subprocess.DEVNULL)
    (made,) = root.glob("runs/s/*/")
    config, result = (
        yaml.safe_load((made / "config.yaml").read_text()),
        json.loads((made / "result.json").read_text()),
    )
    chance = random.Random(0)
    for level in range(1, levels + 1):
        for seed in range(seeds):
            folder = root / "runs" / "q" / f"optimizer.lr={level / 1000},seed={seed}"
            shutil.copytree(made, folder, ignore=shutil.ignore_patterns("checkpoints", "figures"))
            config["optimizer"]["lr"], config["seed"] = level / 1000, seed
            (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
            own = {
                name: min(1.0, value + chance.gauss(0.01 * level, 0.02))
                for name, value in result["metrics"].items()
            }
            factors = {"optimizer.lr": level / 1000}
            said = {**result, "metrics": own, "seed": seed, "factors": factors, "job": folder.name}
            (folder / "result.json").write_text(json.dumps(said))


def report(root: Path, runs: int) -> float:
    start = time.perf_counter()
    command = [sys.executable, str(SCRIPTS / "report.py"), "name=q"]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    spent = time.perf_counter() - start
    assert f"{runs} runs: {runs} done" in done.stdout, done.stdout
    return spent


def main() -> None:
    fast = quick(__doc__)
    few, many, batches = (1000, 20_000, 20) if fast else (1000, 1_000_000, 300)
    read(few, batches)
    read_by: dict[int, list[tuple[float, float, float]]] = {few: [], many: []}
    for _ in range(1 if fast else 5):
        for length, rows in read_by.items():
            rows.append(read(length, batches))
    images = {f"{length:,} samples": [row[1] for row in rows] for length, rows in read_by.items()}
    table(images, "us an image", 1e6)
    table(
        {f"{n:,} samples": [row[0] for row in rows] for n, rows in read_by.items()},
        "ms to the first batch",
        1e3,
    )
    table(
        {f"{n:,} samples": [row[2] for row in rows] for n, rows in read_by.items()}, "MB more in memory", 1e-6
    )
    times = list(images.values())
    claim(f"an image of {many:,} samples", f"of {few:,}", ratio(times[1], times[0]), "<=1.1", not fast)
    taken = max(row[2] for row in read_by[many]) / many
    claim(f"bytes of the loader for each of {many:,} samples", "none", taken, "<=64", not fast)
    claim("bytes of the metrics, 10,000 images", "100", states(10_000) / states(100), "<=1", not fast)

    with tempfile.TemporaryDirectory() as name:
        root, turn = Path(name), iter(range(99))
        long = 20 if fast else 1000
        ways = {f"{n} runs": lambda n=n: first_run(root / str(next(turn)), n) for n in (2, long)}
        starts = in_turn(ways, 1 if fast else 5)  # type: ignore[arg-type]
        table(starts, "s to the first run's first row")
        slower = ratio(starts[f"{long} runs"], starts["2 runs"])
        claim(f"start of a sweep of {long:,} runs", "of two", slower, "<=1.25", not fast)

        levels, seeds = (2, 3) if fast else (20, 50)
        folders(root, levels, seeds)
        found = in_turn({"report": lambda: report(root, levels * seeds)}, 1 if fast else 5)
        table(found, f"s, over {levels * seeds:,} run folders")
        seconds = sorted(found["report"])[len(found["report"]) // 2]
        why = "half of it is matplotlib's, for few runs too"
        claim(f"report over {levels * seeds:,} run folders, seconds", "none", seconds, "<=5", not fast, why)
    end()


if __name__ == "__main__":
    main()
