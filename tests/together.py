"""Trainings one after another in the same processes, which saves the start of these."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from command_line import ROOT, environment
from paribus.results import Run


def together(processes: int, jobs: dict[str, list[str]], cwd: Path, timeout: float = 200) -> dict[str, Run]:
    """Trains each job (its overrides) in the folder of its name, with so many processes; what is found there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "together.py"), json.dumps(jobs)],
            cwd=cwd,
            env=environment(cwd) | shared | {"NODE_RANK": "0", "LOCAL_RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(processes)
    ]
    try:
        said = [process.communicate(timeout=timeout)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), "\n".join(said)
    return {name: Run.read(cwd / name) for name in jobs}


def trained(jobs: dict[str, list[str]], cwd: Path) -> dict[str, Run]:
    from composing import composed
    from paribus.train import run

    for name, overrides in jobs.items():
        run(composed(*overrides), cwd / name, in_sweep=True)
    return {name: Run.read(cwd / name) for name in jobs}


if __name__ == "__main__":
    from composing import composed
    from paribus.train import run

    told = dict(os.environ)
    several = ["trainer=ddp_cpu", f"trainer.devices={told['WORLD_SIZE']}"]
    for name, overrides in json.loads(sys.argv[1]).items():
        os.environ |= told  # Lightning takes some of it away at the end of a training
        run(composed(*several, *overrides), Path(name), in_sweep=True)
