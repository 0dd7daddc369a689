"""Samples as arrays that lie one behind another, a file for each kind, mapped into memory: a sample is a view of them."""

import json
import mmap
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from paribus.data.samples import Problem, Sample, Split


@dataclass(frozen=True)
class Column:
    """One array of each sample, all behind one another. shapes: int64 [N, axes]; starts: in numbers, int64 [N]."""

    values: np.ndarray
    shapes: np.ndarray
    starts: np.ndarray

    def __getitem__(self, index: int) -> np.ndarray:
        shape, start = self.shapes[index], self.starts[index]
        return self.values[start : start + int(shape.prod())].reshape(shape)


class Packed:
    """The samples `indices` of a split as they were when they were packed, read-only, by their numbers in the split."""

    def __init__(self, length: int, indices: np.ndarray, ids: list[str], columns: dict[str, Column]):
        self.length, self.ids, self.columns = length, ids, columns
        self.rows = np.full(length, -1, np.int64)
        self.rows[indices] = np.arange(len(indices))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        row = int(self.rows[index])
        assert row >= 0, f"sample {index} was not packed"
        arrays = {name: column[row] for name, column in self.columns.items()}
        return Sample(arrays.pop("image"), nested(arrays), self.ids[row])

    def problems(self) -> list[Problem]:
        return []

    def without(self, indices: set[int]) -> Split:
        raise NotImplementedError("what cannot be used is left out before a split is packed")


# --- where they lie ---------------------------------------------------------------------------------


class Disk:
    """A folder: a file for each column, and index.json and index.npz, which are written last."""

    def __init__(self, folder: Path):
        self.folder = folder

    def room(self) -> tuple[str, int]:
        return str(self.folder.parent), shutil.disk_usage(self.folder.parent).free

    def column(self, name: str) -> IO[bytes]:
        return open(self._file(name), "wb")

    def size(self, name: str) -> int:
        return self._file(name).stat().st_size

    def mapped(self, name: str) -> Any:
        with open(self._file(name), "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size(name) else b""

    def _file(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '.')}.bin"


class Memory(Disk):
    """The same in files without a name, of memory where the system has such."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.files: dict[str, IO[bytes]] = {}

    def room(self) -> tuple[str, int]:
        return "memory", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")

    def column(self, name: str) -> IO[bytes]:
        if hasattr(os, "memfd_create"):
            self.files[name] = os.fdopen(os.memfd_create("paribus"), "w+b", closefd=True)
        else:
            self.files[name] = tempfile.TemporaryFile()  # noqa: SIM115
        return os.fdopen(os.dup(self.files[name].fileno()), "wb")

    def size(self, name: str) -> int:
        return os.fstat(self.files[name].fileno()).st_size

    def mapped(self, name: str) -> Any:
        file = self.files[name]
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size(name) else b""


def opened(place: Disk, *, length: int, indices: np.ndarray) -> Packed:
    """What lies at a place: of a split of that length the samples `indices`."""
    index = json.loads((place.folder / "index.json").read_text())
    columns = {}
    with np.load(place.folder / "index.npz", allow_pickle=False) as shapes:
        for name, (dtype, _) in index["kinds"].items():
            numbers = shapes[name].prod(1)
            values = np.frombuffer(place.mapped(name), dtype)
            columns[name] = Column(values, shapes[name], np.cumsum(numbers) - numbers)
    return Packed(length, indices, index["ids"], columns)


# --- targets as arrays -----------------------------------------------------------------------------


def flat(target: Any, name: str = "target") -> dict[str, np.ndarray]:
    """A target's arrays by name: those of a dict by its path."""
    if isinstance(target, dict):
        return {
            path: array for key, part in target.items() for path, array in flat(part, f"{name}/{key}").items()
        }
    return {name: np.asarray(target)}


def nested(arrays: dict[str, np.ndarray]) -> Any:
    """The target that `flat` took apart."""
    if "target" in arrays:
        found = arrays["target"]
        return int(found) if found.ndim == 0 else found
    whole: dict[str, Any] = {}
    for path, array in arrays.items():
        *inside, key = path.split("/")[1:]
        part = whole
        for step in inside:
            part = part.setdefault(step, {})
        part[key] = array
    return whole
