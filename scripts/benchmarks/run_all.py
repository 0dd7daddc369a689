"""Every benchmark of this folder, one after the other, and what they found as results/benchmarks.md: `make bench`.

    python scripts/benchmarks/run_all.py [output=results/benchmarks.md] [name of a program ...]

Each is a process of its own with one thread (OMP_NUM_THREADS=1), except where threads are the point. What needs a GPU
is listed as not measured; `make bench-gpu` measures it.
"""

import datetime
import os
import re
import subprocess
import sys
from pathlib import Path

import measure

HERE = Path(__file__).resolve().parent
OTHERS = {"measure.py", "ours.py", "run_all.py"}  # no benchmarks
ALONE = {"many_nodes.py"}  # fills the machine for many minutes: on its own
LINE = re.compile(r"(PASS|FAIL|QUICK) (\S+?):(\S+) (\S+) ([<>]=\S+)$")
WHY = re.compile(r"WHY (.*)")
ON_A_GPU = {  # claim: against, bound
    "CIFAR ResNet-18, bf16": ("DataLoader and Lightning; torchvision's loop", ">=5; >=3"),
    "seconds to 94 % of CIFAR-10": ("2.6 s published on an A100", "told"),
    "ResNet-50 at 224 from cache": ("its ceiling with resident batches; timm's script", ">=0.95; >=1.3"),
    "small steps with CUDA graphs": ("idiomatic Lightning", ">=5"),
    "8 seeds at once": ("one after another", ">=2"),
    "one-stage detection": ("torchvision's loop", ">=1.8"),
    "waits between two rows of the log": ('set_sync_debug_mode("error")', "none"),
    "share of the chip's measured bf16 rate": ("the chip", "told"),
}


def programs(names: list[str]) -> list[Path]:
    """Those of the folder that the Makefile's `bench` is for; of these the named ones, if some are named."""
    found = sorted(
        p for p in HERE.glob("*.py") if p.name not in OTHERS | ALONE and not p.name.startswith("gpu")
    )
    return [path for path in found if not names or path.stem in names]


def run(path: Path) -> tuple[str, list[tuple[str, ...]]]:
    """What a program printed, and its claims: verdict, claim, against, ratio, bound, and why it fails."""
    print(f"\n== {path.name}", flush=True)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }
    process = subprocess.Popen(
        [sys.executable, str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    code = process.wait()
    claims: list[tuple[str, ...]] = []
    for line in lines:
        if found := LINE.match(line):
            claims.append((*found.groups(), ""))
        elif found := WHY.match(line):
            claims[-1] = (*claims[-1][:-1], f": {found[1]}")
    if not claims:
        claims = [("FAIL", path.stem, f"ended with code {code} before it measured", "", "", "")]
    return "\n".join(lines), claims


def page(results: dict[str, tuple[str, list[tuple[str, ...]]]], before: str, after: str) -> str:
    """The table of all claims, and below it what each program printed."""
    conditions = measure.conditions().partition(", load")
    versions = conditions[2].partition("; ")[2]
    lines = [
        "# What is measured against what",
        "",
        "Made by `make bench`; each program of `scripts/benchmarks/` says what it compares, and holds the results to be "
        "equal first. Ratios are medians of rounds taken in turn in one process tree.",
        "",
        f"- {measure.processor()}; no GPU was used",
        f"- {versions}",
        f"- {datetime.date.today().isoformat()}, load {before} before and {after} after (with the benchmarks' own)",
        "",
        "| claim | against | found | bound | |",
        "|---|---|---|---|---|",
    ]
    for _, claims in results.values():
        for verdict, what, against, found, bound, why in claims:
            lines.append(f"| {_words(what)} | {_words(against)} | {found} | {bound} | {verdict}{why} |")
    for what, (against, bound) in ON_A_GPU.items():
        lines.append(f"| on a GPU: {what} | {against} | | {bound} | not measured |")
    for name, (printed, _) in results.items():
        lines += ["", f"## {name}", "", "```", printed.strip(), "```"]
    return "\n".join(lines) + "\n"


def _words(name: str) -> str:
    return name.replace("_", " ")


def main() -> None:
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    output = Path(given.get("output", HERE.parents[1] / "results" / "benchmarks.md"))
    before = measure.load()
    results = {path.name: run(path) for path in programs([word for word in sys.argv[1:] if "=" not in word])}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page(results, before, measure.load()))
    failed = [claim for _, claims in results.values() for claim in claims if claim[0] == "FAIL"]
    print(f"\n{output}: {len(failed)} claim(s) do not hold")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
