"""What a user waits for: `--help`, the message for a wrong key, the first step of a run.

    OMP_NUM_THREADS=1 python scripts/benchmarks/startup.py [--quick]

`--help` and a wrong key are measured by the processor's time of the whole process, the same for the template's way
(template/train.py) beside it. The first step of scripts/train.py is done when its row stands in metrics.csv
(trainer.log_every=1); against it stands a process that imports torch, lightning, timm and torchmetrics, and trains
the same network on a batch of the same shape once. Each must end as it should. The processor's time, as others use
the machine too; of one thread.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure

HERE = Path(__file__).parent
TEMPLATE, PARIBUS = HERE / "template" / "train.py", HERE.parent / "train.py"
RUN = [
    *("data.reader.lengths={train: 64, val: 32, test: 32}", "data.batch_size=32", "backbone=mlp"),
    *("trainer.log_every=1", "trainer.progress=false", "test=false"),
]
BARE = """
import torch, lightning, timm, torchmetrics
from torch import nn
model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
loss = nn.functional.cross_entropy(model(torch.randn(32, 3, 32, 32)), torch.randint(10, (32,)))
loss.backward()
optimizer.step()
print(sum(p.numel() for p in model.parameters()))
"""
PARAMETERS = 3072 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10


def ended(*command: str, code: int, said: str) -> Callable[[], float]:
    """Seconds of the processor, of a process that must end with this code and these words."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = done.stdout + done.stderr
        assert done.returncode == code, f"{command}: code {done.returncode}\n{words[-2000:]}"
        assert said in words, f"{command} does not say {said!r}:\n{words[-2000:]}"
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return seconds


def first_step() -> float:
    """Seconds of the processor until the first row of training stands in the run folder. Linux only."""
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "console"), "w+") as console:
        command = [sys.executable, str(PARIBUS), *RUN, "name=start"]
        process = subprocess.Popen(
            command, cwd=folder, stdout=console, stderr=console, start_new_session=True
        )
        try:
            while True:
                for rows in Path(folder).glob("runs/start/*/metrics.csv"):
                    if "train/loss" in rows.read_text():
                        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                if process.poll() is not None:
                    console.seek(0)
                    sys.exit(f"the run ended before its first step:\n{console.read()[-2000:]}")
                time.sleep(0.005)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    quick = measure.quick(__doc__)
    wrong = "optimizer.learning_rate=1"
    ways = {
        "--help": ended(str(PARIBUS), "--help", code=0, said="The groups and their options"),
        "a wrong key": ended(str(PARIBUS), wrong, code=1, said="learning_rate"),
        "the template's --help": ended(str(TEMPLATE), "--help", code=0, said="powered by Hydra"),
        "imports, and a step": ended("-c", BARE, code=0, said=str(PARAMETERS)),
    }
    if sys.platform == "linux":
        ways["the first step of a run"] = first_step
    if quick:
        ways = {name: ways[name] for name in ("--help", "a wrong key")}
    found = measure.in_turn(ways, 1 if quick else 5)
    measure.table(found, "s of the processor")
    for name in ("--help", "a wrong key"):
        middle = sorted(found[name])[len(found[name]) // 2]
        measure.claim(f"{name}, seconds", "none", middle, "<=0.5", not quick)
    if "the first step of a run" in found:
        ratio = measure.ratio(found["the first step of a run"], found["imports, and a step"])
        measure.claim("the first step of a run", "the bare imports and the step", ratio, "<=1.15", not quick)


if __name__ == "__main__":
    main()
    measure.end()
