"""The run folder: what a training writes and everything downstream reads.

    runs/<name>/<job>/config.yaml    resolved, enough to rebuild
                      result.json    status, metrics, factors, seed, commit, versions, times
                      metrics.csv    long form: step,epoch,metric,value
                      checkpoints/ figures/ train.log

Whole files are replaced atomically, so a reader never sees half of one, whatever kills the writer.
"""

import csv
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from paribus.tables import csv_text

# libyaml reads a config in 2 ms, the pure Python loader in 20; not every build of PyYAML has it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Keys that say where, how fast or how visibly a run is made, and nothing of what it learns.
NOT_LEARNED = (
    "name", "job", "root", "retry_failed", "plan", "replicates", "experiment", "ablation", "logger", "hydra",
    "trainer.progress", "trainer.timeout", "data.num_workers", "data.workers", "data.verify",
    "data.judged_batch_size", "data.cache", "data.cache_folder", "data.resident",
    "data.reader.source", "data.reader.archives", "data.reader.download",
)  # fmt: skip
ABSENT = "(absent)"
LONGEST_JOB_NAME = 120
COLUMNS = ("step", "epoch", "metric", "value")
PACKAGES = ("paribus", "torch", "torchvision", "lightning", "timm", "albumentations", "numpy")


# Files


def write_text(path: str | Path, text: str) -> None:
    """Replace a file atomically: after a crash it holds the old text or the new, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace a file atomically, as `write_text`."""
    path = Path(path)
    # In the same folder, since os.replace is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically. NaN and infinity, which JSON lacks, become null; arrays become lists."""
    write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; a file that is torn or not JSON is a ValueError that names it."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it to have it made again") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy's and torch's scalars and arrays
        return _plain(value.tolist())
    raise TypeError(f"cannot write a {type(value).__name__} as JSON: {value!r}")


# Runs


@dataclass(frozen=True)
class Run:
    """A run folder, read. `result` is empty while result.json is missing."""

    path: Path
    config: dict[str, Any]
    result: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> "Run":
        """Read one run folder; a folder without config.yaml is a ValueError."""
        path = Path(path)
        try:
            config = _config((path / "config.yaml").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path} is not a run folder: it has no config.yaml") from None
        except yaml.YAMLError as error:
            raise ValueError(f"{path / 'config.yaml'} is not valid YAML: {error}") from None
        result = path / "result.json"
        return cls(path, config or {}, read_json(result) if result.exists() else {})

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The config by dotted keys."""
        return flatten(self.config)

    @property
    def name(self) -> str:
        return str(self.result.get("name") or self.config.get("name") or self.path.parent.name)

    @property
    def job(self) -> str:
        return self.path.name

    @property
    def seed(self) -> int | None:
        return self.result.get("seed", self.config.get("seed"))

    @property
    def status(self) -> str:
        """running, done, failed, interrupted; or missing: a config and no result."""
        return self.result.get("status", "missing")

    @property
    def metrics(self) -> dict[str, float | None]:
        """The run's final values; None is one that was not finite."""
        return self.result.get("metrics") or {}

    @property
    def factors(self) -> dict[str, Any]:
        """The levels of this run, as the result says; before it does, what the config holds of the
        ablation's keys (the name of a config group's choice is not in there)."""
        if "factors" in self.result:
            return self.result["factors"]
        keys = (self.config.get("ablation") or {}).get("factors") or {}
        return {key: self.flat[key] for key in keys if key in self.flat}


def _config(text: str) -> Any:
    """A config, node by node: the runs of a sweep have most of them in common, and each is read once."""
    try:
        nodes = [_node(node) for node in re.split(r"\n(?=[A-Za-z_])", text)]
    except yaml.YAMLError:
        nodes = [None]
    if not all(isinstance(node, dict) for node in nodes):
        return yaml.load(text, Loader=_Loader)
    return {key: value for node in nodes for key, value in node.items()}


@lru_cache(maxsize=4096)
def _node(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def find_runs(folder: str | Path) -> list[Run]:
    """All runs in a folder or below it, in natural order (seed=2 before seed=10); none if it is absent.
    Hidden folders are passed over, and so is what lies inside a run."""
    found = []
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if "config.yaml" in files:
            folders.clear()
            found.append(Path(path))
    return [Run.read(path) for path in sorted(found, key=lambda path: natural(str(path)))]


def natural(text: str) -> list[Any]:
    """Sort key under which numbers inside names count as numbers: 2 < 10, 1e-4 < 0.01 < 0.1."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]


# Metrics over time


class MetricsFile:
    """metrics.csv, written row by row: a kill loses at most the row being written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._again: set[tuple[int, str]] = set()
        # A torn last row would swallow the next one.
        kept = metric_rows(self.path)
        if not kept or not self.path.read_text(encoding="utf-8").endswith("\n"):
            self._rewrite(kept)
        self._file = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def append(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        rows = [
            (step, epoch, name, float(v)) for name, v in values.items() if (step, name) not in self._again
        ]
        csv.writer(self._file, lineterminator="\n").writerows(rows)
        self._file.flush()

    def truncate_after(self, step: int) -> int:
        """Forget the rows past `step`, at which a checkpoint was taken, so that the resumed run can write
        them anew, and return the last epoch that is left. Rows of `step` itself stay; written again they are
        passed over. Those of the test come after all training, and so always anew."""
        self._file.close()
        kept = [row for row in metric_rows(self.path) if row[0] <= step and not row[2].startswith("test/")]
        self._again = {(row[0], row[2]) for row in kept if row[0] == step}
        self._rewrite(kept)
        self._file = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115
        return kept[-1][1] if kept else 0

    def close(self) -> None:
        self._file.close()

    def _rewrite(self, rows: Iterable[tuple]) -> None:
        write_text(self.path, csv_text([COLUMNS, *rows]))


def curves(run: Run) -> dict[str, list[tuple[int, int, float]]]:
    """Each metric's course as [(step, epoch, value)], from metrics.csv; empty if the run has none yet."""
    courses: dict[str, list[tuple[int, int, float]]] = {}
    for step, epoch, metric, value in metric_rows(run.path / "metrics.csv"):
        courses.setdefault(metric, []).append((step, epoch, value))
    return courses


def metric_rows(path: Path) -> list[tuple[int, int, str, float]]:
    """(step, epoch, metric, value) of metrics.csv, in the order in which they were written; empty without a file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        del lines[-1]  # torn: its writer was killed
    rows = list(csv.reader(lines))
    if rows and tuple(rows[0]) != COLUMNS:
        raise ValueError(f"{path}: the first line must be {','.join(COLUMNS)}, not {','.join(rows[0])}")
    try:
        return [(int(step), int(epoch), metric, float(value)) for step, epoch, metric, value in rows[1:]]
    except ValueError as error:
        raise ValueError(f"{path} has a row that is not {','.join(COLUMNS)}: {error}") from None


# Configs and names


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"backbone": {"norm": x}} -> {"backbone.norm": x}; lists and empty nodes are values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def differences(
    a: Mapping[str, Any], b: Mapping[str, Any], ignore: Iterable[str] = NOT_LEARNED
) -> list[tuple[str, Any, Any]]:
    """The dotted keys in which two configs differ, with both values (`ABSENT` where one lacks the key),
    leaving out the keys and whole nodes named in `ignore`."""
    left, right, ignored = flatten(a), flatten(b), tuple(ignore)
    found = []
    for key in left | right:
        x, y = left.get(key, ABSENT), right.get(key, ABSENT)
        # True == 1 in Python; in a config they are two things, and 1 and 1.0 are one.
        if (x != y or isinstance(x, bool) != isinstance(y, bool)) and not within(key, ignored):
            found.append((key, x, y))
    return found


def within(key: str, nodes: Iterable[str]) -> bool:
    """Whether a dotted key is one of the nodes, or lies in one; `backbone@norm` and `data/reader` do."""
    return any(
        key.startswith(node) and key[len(node) : len(node) + 1] in ("", ".", "/", "@") for node in nodes
    )


def job_name(overrides: Sequence[str], seed: int) -> str:
    """The folder name of a run from its Hydra overrides: "backbone.norm=group,seed=1".

    One name for one experiment: overrides are sorted, the last of a key wins, those that change nothing
    of what is learned (`NOT_LEARNED`) are left out. Unsafe characters become "_"; a name of more than 120
    characters is cut and ends in a hash of the whole.
    """
    chosen: dict[str, str] = {}
    for override in overrides:
        key, sign, value = override.lstrip("+").partition("=")
        chosen.pop(key.removeprefix("~") if key.startswith("~") else f"~{key}", None)
        chosen[key] = key + sign + value
    unnamed = (*NOT_LEARNED, "seed", "data.reader.root")  # a place says little; another one is refused later
    kept = [chosen[k] for k in sorted(chosen) if not within(k.removeprefix("~"), unnamed)]
    whole, end = ",".join(kept), f"seed={seed}"
    name = re.sub(r"[^\w.,=+~@\[\]-]", "_", re.sub(r"[\s'\"]", "", whole))
    if len(name) + 1 + len(end) > LONGEST_JOB_NAME:
        digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
        name = f"{name[: LONGEST_JOB_NAME - len(end) - len(digest) - 2]}-{digest}"
    return f"{name},{end}" if name else end


# Where a run was made


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """What a result must say of where it comes from: commit, dirty, versions, platform, cpus, command.

    commit is None outside a git checkout; dirty counts new files that git does not ignore. Versions are
    read from the packages' metadata, without importing them. Nothing names the host or the user.
    """
    commit, dirty = _commit(Path(__file__).parent)
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "command": shlex.join(["python", *(sys.argv if argv is None else argv)]),
    }


def _commit(folder: Path) -> tuple[str | None, bool | None]:
    command = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch"]
    try:
        lines = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None, None
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    if commit is None or commit == "(initial)":
        return None, None
    return commit, any(not line.startswith("#") for line in lines)
