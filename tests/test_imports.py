"""The rules of the house, read from the imports: who may know whom, and what must start fast."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "paribus"
FILES = sorted(SOURCE.rglob("*.py"))
APART = {"data", "models", "losses", "metrics", "optimizers"}
KNOW_HYDRA = {
    "config",
    "build",
    "checks",
    "contradictions",
    "origins",
    "door",
    "sweep",
    "train",
    "evaluate",
    "predict",
    "profile",
    "restore",
}
COMMON = {"garbage"}  # knows Python alone
READERS_OF_RUNS = {"results", "report", "tables"}  # no torch, no lightning


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Dotted names that a file imports: anywhere in it, or as it is loaded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_rooms_keep_apart(path):
    mine = room(path)
    for name in imported(path):
        parts = name.split(".")
        if mine in COMMON:
            assert parts[0] in sys.stdlib_module_names, f"{path.name} imports {name}"
        if parts[0] == "paribus" and len(parts) > 1 and mine in APART:
            assert parts[1] in {mine, *COMMON}, f"{path.name} in {mine} imports {name}"
        if parts[0] in ("hydra", "omegaconf"):
            assert mine in KNOW_HYDRA, f"{path.name} imports {name}: a config stops at the door"
        if parts[0] in ("torch", "torchvision", "torchmetrics", "lightning", "timm"):
            assert mine not in READERS_OF_RUNS, f"{path.name} imports {name}: reports start in under a second"
        if parts[0] == "albumentations":
            wrappers = ("transforms.py", "scaled_crop.py")
            assert path.name in wrappers, f"{path.name} imports albumentations"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "config",
            "build",
            "checks",
            "contradictions",
            "origins",
            "door",
            "results",
            "signatures",
            "record",
            "device",
            "report/run",
            "dashboard",
        ),
        *(f"sweep/{file.stem}" for file in sorted((SOURCE / "sweep").glob("*.py"))),
    ],
)
def test_nothing_heavy_before_it_is_needed(name):
    heavy = {"torch", "lightning", "timm", "torchvision", "albumentations", "wandb", "matplotlib", "scipy"}
    assert not {n.split(".")[0] for n in imported(SOURCE / f"{name}.py", top_level_only=True)} & heavy


def test_help_imports_no_torch():
    code = (
        "import sys, runpy; sys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('scripts/train.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'timm', 'albumentations'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SOURCE.parents[1], text=True, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "backbone:" in done.stdout
