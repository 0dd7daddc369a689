"""The doors as a user opens them: each call is a process of its own, in a folder of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A run of seconds: a few hundred 32 x 32 digits and a small network.
SMALL = [
    "data.reader.lengths={train: 96, val: 33, test: 35}",
    "data.batch_size=16",
    "backbone.channels=[8, 16]",
    "trainer.max_epochs=2",
    "trainer.progress=false",
]


def environment(cwd: Path) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(cwd / "cache"),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "120",
    }


def script(name: str, *arguments: str, cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """``python scripts/<name>.py <arguments>`` in ``cwd``; output and exit code are the caller's to judge."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments],
        cwd=cwd,
        env=environment(cwd),
        text=True,
        capture_output=True,
        timeout=timeout,
    )


def start(name: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """The same, not waited for."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments],
        cwd=cwd,
        env=environment(cwd),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Tests that a shell has put in the background ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def succeeded(process: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert process.returncode == 0, process.stdout + process.stderr
    return process
