"""A stand-in for Slurm on PATH: enough of sbatch, srun, sacct, squeue, scontrol and scancel for submitit to start, see,
signal, requeue and lose real processes on this machine. ``install`` puts it there; Linux only.

What it does as Slurm does: an array's jobs start from the submitted script, in their own environment; a signal goes
to every process of the job's steps and not to the script; a job that is requeued is killed first (here at once,
without Slurm's KillWait, so that a checkpoint that is not whole by then is lost), and starts again with the same id.
What it does not: queues, nodes, limits of time. A job begins at once; scancel --signal is what ends its turn.
"""

import contextlib
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("sbatch", "srun", "sacct", "squeue", "scontrol", "scancel")


def install(folder: Path) -> dict[str, str]:
    """The environment of processes that shall see a Slurm; its state lies in ``folder``."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name in PROGRAMS:
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {__file__} {name} "$@"\n')
        path.chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_STAND_IN": str(folder)}


def state(job: str, **new: object) -> dict:
    """What is known of a job, after what is new."""
    path = Path(os.environ["SLURM_STAND_IN"], f"{job}.json")
    known = json.loads(path.read_text()) if path.exists() else {"state": "PENDING", "requeue": False}
    if new:
        known |= new
        path.with_suffix(f".{os.getpid()}").write_text(json.dumps(known))
        path.with_suffix(f".{os.getpid()}").replace(path)
    return known


def mine(job: str) -> dict[str, str]:
    """What tells a job's processes from others, in their environment."""
    return {"SLURM_STAND_IN": os.environ["SLURM_STAND_IN"], "SLURM_STAND_IN_JOB": job}


def processes(job: str, steps: bool = True) -> list[int]:
    """Those that a job's environment was passed on to; of its steps only, or its script too. Tests beside this one have
    a Slurm of their own, with jobs of the same numbers."""
    marks = [f"{key}={value}\0".encode() for key, value in mine(job).items()]
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes()
            if all(mark in environment for mark in marks) and (not steps or b"SLURM_STEP_ID=" in environment):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def tell(job: str, number: int, steps: bool = True) -> None:
    for pid in processes(job, steps):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def sbatch(*arguments: str) -> None:
    script = Path(arguments[-1]).resolve()
    lines = re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script.read_text(), re.MULTILINE)
    asked = {key: shlex.split(value)[0] for key, value in lines}
    number = 1000 + len([*script.parent.glob("*.sbatch")])
    folder = Path(os.environ["SLURM_STAND_IN"])
    while (folder / f"{number}.sbatch").exists():
        number += 1
    (folder / f"{number}.sbatch").write_text(script.read_text())
    array = re.match(r"0-(\d+)", asked.get("array", ""))
    jobs = [f"{number}_{i}" for i in range(int(array[1]) + 1)] if array else [str(number)]
    for job in jobs:
        state(job, asked=asked, script=str(folder / f"{number}.sbatch"), restarts=0)
        subprocess.Popen(
            [sys.executable, __file__, "job", job],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    print(f"Submitted batch job {number}")


def job(name: str) -> None:
    """Slurm's own part: starts the script, minds its time, and starts it again when it is requeued."""
    asked, restarts = state(name)["asked"], 0
    main, _, task = name.partition("_")
    nodes, tasks = int(asked.get("nodes", 1)), int(asked.get("ntasks-per-node", 1))
    environment = os.environ | {
        **mine(name),
        "SLURM_JOB_ID": str(int(main) + 100 * int(task or 0)),
        "SLURM_JOB_NAME": asked.get("job-name", "job"),
        "SLURM_NTASKS": str(nodes * tasks),
        "SLURM_NTASKS_PER_NODE": str(tasks),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NNODES": str(nodes),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NODELIST": "localhost",
        "SLURM_PROCID": "0",
        **({"SLURM_ARRAY_JOB_ID": main, "SLURM_ARRAY_TASK_ID": task} if task else {}),
    }
    while True:
        state(name, state="RUNNING", requeue=False, restarts=restarts)
        script = ["bash", state(name)["script"]]
        process = subprocess.Popen(script, env=environment | {"SLURM_RESTART_COUNT": str(restarts)})
        while process.poll() is None and not state(name)["requeue"]:
            time.sleep(0.1)
        while processes(name, steps=False):
            tell(name, signal.SIGKILL, steps=False)
            process.poll()
            time.sleep(0.05)
        code = process.wait()
        if not state(name)["requeue"]:
            break
        restarts += 1
    if state(name)["state"] == "RUNNING":
        state(name, state="FAILED" if code else "COMPLETED")


def srun(*arguments: str) -> None:
    """The tasks of a step."""
    output = arguments[arguments.index("--output") + 1]
    error = arguments[arguments.index("--error") + 1]
    command = arguments[arguments.index("--error") + 2 :]
    main, task = (os.environ.get(f"SLURM_ARRAY_{key}_ID", "") for key in ("JOB", "TASK"))
    running = []
    for rank in range(int(os.environ["SLURM_NTASKS"])):
        per_node = int(os.environ["SLURM_NTASKS_PER_NODE"])
        streams = []
        for pattern in (output, error):
            path = Path(pattern.replace("%A", main).replace("%a", task).replace("%t", str(rank)))
            path = Path(str(path).replace("%j", os.environ["SLURM_STAND_IN_JOB"]))
            path.parent.mkdir(parents=True, exist_ok=True)
            streams.append(path.open("a"))
        own = {"PROCID": rank, "LOCALID": rank % per_node, "NODEID": rank // per_node, "STEP_ID": 0}
        environment = os.environ | {f"SLURM_{key}": str(value) for key, value in own.items()}
        running.append(subprocess.Popen(command, env=environment, stdout=streams[0], stderr=streams[1]))
    sys.exit(max(abs(process.wait()) for process in running))


def sacct(*arguments: str) -> None:
    print("JobID|State|NodeList")
    folder = Path(os.environ["SLURM_STAND_IN"])
    for main in (b for a, b in itertools.pairwise(arguments) if a == "-j"):
        for path in [*folder.glob(f"{main}.json"), *folder.glob(f"{main}_*.json")]:
            print(f"{path.stem}|{state(path.stem)['state']}|localhost")


def scontrol(what: str, name: str) -> None:
    assert what == "requeue"
    state(name, requeue=True, state="REQUEUED")
    time.sleep(60)  # and is killed with the rest of the job, if it is a part of that


def scancel(name: str, *arguments: str) -> None:
    if arguments:
        assert arguments[0] == "--signal"
        tell(name, signal.Signals[f"SIG{arguments[1].removeprefix('SIG')}"])
    else:
        state(name, state="CANCELLED")
        tell(name, signal.SIGTERM, steps=False)


def squeue(*arguments: str) -> None:
    sacct(*arguments)


if __name__ == "__main__":
    {"job": job, **{name: globals()[name] for name in PROGRAMS}}[sys.argv[1]](*sys.argv[2:])
