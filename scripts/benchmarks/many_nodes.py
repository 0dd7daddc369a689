"""A sweep of 200 runs shared by 8 nodes, of which two die on the way, with runs that fail: is one lost, is one made
twice, how long does it take beside the ideal, and what does the sharing cost a run?

    python scripts/benchmarks/many_nodes.py                                   # about 9 minutes
    python scripts/benchmarks/many_nodes.py --runs 24 --nodes 4 --killed 1 --seconds 1

A node is a process here that was given the command of the sweep, as eight machines with a shared disk would be:
Paribus's own launcher, with its fork server, configs, locks, results and run folders. Simulated is the rest: the nodes
share this machine's cores and its disk, so that a run waits (``--seconds``) where it would train, and imports nothing
that it does not need for that; and a node that dies is all of its processes killed at once. Its locks are free then. On
NFS they are when the server notices: NFSv4 after its lease, 90 s as a rule, NFSv3 when the machine is back.

The ideal is that of nodes which do nothing but make runs, each from its first one until it was killed. What fails is
in the middle of the sweep: a node that joins later tries again what had failed before it came, as the same command
always does (retry_failed=false leaves it). Linux only (/proc).
"""

import argparse
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from paribus.checks import check
from paribus.door import door
from paribus.record import Record, claimed, known_result
from paribus.results import find_runs
from paribus.sweep import forked

NODE = "PARIBUS_NODE"  # in the environment of all processes of a node: its number
NODES, READY = (
    "PARIBUS_NODES",
    "PARIBUS_READY",
)  # how many there are; where each says that it has imported all
SECONDS, FAILING = "PARIBUS_SECONDS", "PARIBUS_FAILING"


@hydra.main(version_base="1.3", config_path="../../conf", config_name="train")
def wait(cfg: DictConfig) -> float:
    """A run as paribus.train.run makes it, but that it waits; it notes who made it, and when."""
    config, folder = check(cfg), Path(HydraConfig.get().runtime.output_dir)
    with claimed(folder):
        known = known_result(folder, config)
        if known and known["status"] == "done":
            return 0.5
        record = Record(folder, config, {})
        note(folder, "began")
        time.sleep(float(os.environ[SECONDS]))
        if str(config.seed) in os.environ[FAILING].split():
            error = RuntimeError("as it was asked to")
            note(folder, "failed")
            record.failed(error)
            raise error
        note(folder, "ended")
        record.done({"metrics": {config.metric: 0.5}})
    return 0.5


def note(folder: Path, what: str) -> None:
    with (folder / "turns").open("a") as file:
        file.write(f"{what} {os.environ[NODE]} {time.time()}\n")


@dataclass
class Turn:
    """One time that a run was made: by which node, and from when to when; None where that node died."""

    node: int
    began: float
    how: str | None = None
    ended: float | None = None


def turns(folder: Path) -> list[Turn]:
    found: list[Turn] = []
    path = folder / "turns"
    for line in path.read_text().splitlines() if path.exists() else ():
        what, node, when = line.split()
        if what == "began":
            found.append(Turn(int(node), float(when)))
        else:
            found[-1].how, found[-1].ended = what, float(when)
    return found


def busy_node(root: Path, node: int) -> bool:
    """Whether it is in the middle of a run."""
    last = [found[-1] for folder in root.glob("s/*") if (found := turns(folder))]
    return any(turn.node == node and turn.how is None for turn in last)


def kill(node: int) -> None:
    """All of a node's processes at once, as when the machine goes off."""
    mark = f"{NODE}={node}\0".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


def ideal(work: float, slots: int, there: list[tuple[float, float]]) -> float:
    """When so many seconds of work are done at the earliest, by nodes that are there from one moment to another."""
    low, high = min(since for since, _ in there), max(since for since, _ in there) + work
    while high - low > 0.01:
        middle = (low + high) / 2
        done = slots * sum(max(0.0, min(until, middle) - since) for since, until in there)
        low, high = (low, middle) if done >= work else (middle, high)
    return high


def sweep(root: Path, runs: int, nodes: int, killed: int, failing: int, seconds: float, slots: int) -> bool:
    """Runs it, prints what was found; whether all was as it must be."""
    command = [sys.executable, __file__, "node", "-m", f"seed=range(0,{runs})", "name=s", f"root={root}"]
    command += [f"hydra.launcher.n_jobs={slots}", "trainer.threads=1"]
    bad = range(runs // 2, runs // 2 + failing)
    said = {SECONDS: str(seconds), FAILING: " ".join(map(str, bad)), "OMP_NUM_THREADS": "1"}
    said |= {NODES: str(nodes), READY: str(root / "ready")}
    start, processes = time.time(), []
    for node in range(nodes):
        with (root / f"node{node}.log").open("w") as log:
            environment = os.environ | said | {NODE: str(node)}
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    deaths: list[float] = []
    while any(process.poll() is None for process in processes):
        done = len([*root.glob("s/*/turns")]) / runs
        if len(deaths) < killed and done > (len(deaths) + 1) / (killed + 2) and busy_node(root, len(deaths)):
            kill(len(deaths))
            deaths.append(time.time())
        time.sleep(0.2)
    made = {run.seed: (run, turns(run.path)) for run in find_runs(root / "s")}
    every = [turn for _, found in made.values() for turn in found]
    first, last = min(turn.began for turn in every), max(turn.ended or 0.0 for turn in every)
    work = sum((turn.ended or max(t for t in deaths if t > turn.began)) - turn.began for turn in every)
    there = [
        (min((turn.began for turn in every if turn.node == node), default=last), until)
        for node, until in itertools.zip_longest(range(nodes), deaths, fillvalue=last + work)
    ]
    best = ideal(work, slots, there) - first

    twice = overlapping = 0
    for _, found in made.values():
        twice += sum(turn.how is not None for turn in found) > 1
        ends = [turn.ended or turn.began for turn in found]
        overlapping += any(end > turn.began for end, turn in zip(ends, found[1:], strict=False))
    wanted = {seed: "failed" if seed in bad else "done" for seed in range(runs)}
    lost = sum(seed not in made or made[seed][0].status != status for seed, status in wanted.items())
    broken = sum(turn.how is None for turn in every)
    gaps = []
    for node in range(nodes):
        mine = sorted((turn for turn in every if turn.node == node), key=lambda turn: turn.began)
        if slots == 1:
            gaps += [b.began - a.ended for a, b in itertools.pairwise(mine) if a.ended]
    codes = [process.returncode for process in processes]

    print(f"{'node':>4}  {'runs':>4}  {'failed':>6}  {'broken':>6}  exit code")
    for node in range(nodes):
        how = [turn.how for turn in every if turn.node == node]
        print(
            f"{node:4}  {how.count('ended'):4}  {how.count('failed'):6}  {how.count(None):6}  {codes[node]}"
        )
    cpu = sum(os.times()[2:4]) / runs
    print(f"{runs} runs of {seconds:g} s, {nodes} nodes of {slots}; {broken} broken off with their nodes")
    print(f"{last - first:.1f} s from the first run to the last; ideal {best:.1f} s")
    print(f"{first - start:.1f} s before the first run; {cpu:.2f} s of processor time for a run, all nodes'")
    if gaps:
        print(f"{statistics.median(gaps):.2f} s from the end of a run to the next of its node (median)")
    expected = [-signal.SIGKILL] * killed + [1 if failing else 0] * (nodes - killed)
    judged = [
        ("runs lost", lost, 0),
        ("runs made to their end twice", twice, 0),
        ("runs made by two at once", overlapping, 0),
        ("nodes that ended otherwise than they had to", sum(map(int.__ne__, codes, expected)), 0),
        ("time / ideal", round((last - first) / best, 3), 1.15),
    ]
    for name, value, floor in judged:
        print(f"{'PASS' if value <= floor else 'FAIL'} {name} {value} {floor}")
    return all(value <= floor for _, value, floor in judged[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--killed", type=int, default=2)
    parser.add_argument("--failing", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=16.0)
    parser.add_argument("--slots", type=int, default=1, help="runs at once on a node")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not sweep(Path(folder), **vars(asked)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["node"]:
        del sys.argv[1]
        forked.READY = ("paribus.door", "paribus.train", "pydantic")
        Path(f"{os.environ[READY]}{os.environ[NODE]}").touch()
        while len([*Path(os.environ[READY]).parent.glob("ready*")]) < int(os.environ[NODES]):
            time.sleep(0.05)
        door(wait)
    else:
        main()
