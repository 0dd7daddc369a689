"""Samples read and fitted once, and then mapped into memory: the second of the three tiers of data.

Decoding and resizing are most of what a sample costs. Here they are paid once: images, masks and boxes lie one behind
another in a file each, as numbers and not compressed, and a sample is a view of a few of their bytes. The system's
page cache holds what fits into memory, and every run and process that reads the same set shares it.
torch, timm and Lightning have none; FFCV (Leclerc et al. 2023) has, as a format of its own and for Linux builds of its
own; LitData and WebDataset stream shards, of which no sample can be asked for by its number.
"""

import fcntl
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import DataLoader, Dataset

from paribus.data.columns import Disk, Memory, Packed, flat, opened
from paribus.data.remembered import cache_folder, content
from paribus.data.samples import DataError, Reader, Split
from paribus.data.transforms import Transform

log = logging.getLogger(__name__)

VERSION = 1  # of the files' layout
MARGIN = 1 << 30  # bytes of a disk or of memory that are left to others
LOOKED_AT = 16  # samples, before a cache is believed or its size is guessed


def pack(
    reader: Reader,
    split: Split,
    fitted: Transform,
    *,
    where: Literal["disk", "ram"],
    indices: np.ndarray,
    search: dict[str, Any] | None = None,
    folder: str | None = None,
    processes: int = 0,
) -> Packed:
    """A split's samples as `fitted` makes them without chance; on disk found again by whoever asks for the same.

    disk: below `folder`, by default the user's cache folder, in a folder whose name says the set's files, what the
    reader was asked for, and the fit. Another file, another size, other numbers in what is read now: another folder.
    One that a crash has torn is made anew. Of several processes that ask at once one packs, and the others wait.
    ram: in memory that is gone with this process, and shared with its workers.

    processes: that read while it is packed, beside this one; 0: none.

    Raises DataError where it would not fit.
    """
    job = _Fitted(split, fitted, indices)
    if where == "ram":
        with tempfile.TemporaryDirectory() as nowhere:
            return opened(_build(job, Memory(Path(nowhere)), processes), length=len(split), indices=indices)
    name = _name(reader, split, fitted, indices, search)
    home = (Path(folder).expanduser() if folder else cache_folder("packed")) / name
    home.parent.mkdir(parents=True, exist_ok=True)
    with _alone(home.with_suffix(".lock")):
        if home.is_dir() and _whole(home, job):
            os.utime(home)  # when it was last of use
        else:
            shutil.rmtree(home, ignore_errors=True)
            part = Path(tempfile.mkdtemp(prefix=f".{home.name}.", dir=home.parent))
            try:
                _build(job, Disk(part), processes)
                os.replace(part, home)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return opened(Disk(home), length=len(split), indices=indices)


class _Fitted(Dataset):
    """What is packed: the samples in their order, fitted."""

    def __init__(self, split: Split, fitted: Transform, indices: np.ndarray):
        self.split, self.fitted, self.indices = split, fitted, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, row: int) -> tuple[str, dict[str, np.ndarray]]:
        sample = self.fitted(self.split[int(self.indices[row])], None)
        return sample.id, {"image": sample.image, **flat(sample.target)}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process packs the same; the system lets go of the lock with whoever held it."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- packing ---------------------------------------------------------------------------------------


def _build(job: _Fitted, place: Disk, processes: int) -> Disk:
    from rich.console import Console
    from rich.progress import track

    some = [job[row] for row in _spread(len(job))]
    estimate = sum(array.nbytes for _, arrays in some for array in arrays.values()) * len(job) // len(some)
    where, free = place.room()
    if estimate + MARGIN > free:
        raise DataError(
            f"data.cache: {len(job):,} samples take about {estimate / 1e9:.1f} GB, and {where} has {free / 1e9:.1f} GB "
            "left: make room, set data.cache_folder to another disk, a smaller data.size, or data.cache=none"
        )
    log.info("packed once: %s samples, about %.2f GB, in %s", f"{len(job):,}", estimate / 1e9, where)
    kinds = {name: (array.dtype.str, array.ndim) for name, array in some[0][1].items()}
    ids, shapes, sums = [], {name: [] for name in kinds}, []  # type: ignore[var-annotated]
    files = {name: place.column(name) for name in kinds}
    console = Console(file=sys.stdout)
    loader = DataLoader(job, batch_size=None, num_workers=processes, collate_fn=_as_it_is)
    rows = track(
        loader, "packing", len(job), console=console, transient=True, disable=not console.is_terminal
    )
    start = time.perf_counter()
    try:
        for id, arrays in rows:
            if {name: (array.dtype.str, array.ndim) for name, array in arrays.items()} != kinds:
                raise DataError(
                    f"data.cache: {id} is of other arrays than the first sample ({_said(arrays)}, not "
                    f"{_said(some[0][1])}): data.cache=none"
                )
            ids.append(id)
            sums.append(_sum(arrays))
            for name, array in arrays.items():
                files[name].write(np.ascontiguousarray(array).data)
                shapes[name].append(array.shape)
    finally:
        for file in files.values():
            file.close()
    told = {name: np.array(rows, np.int64).reshape(len(ids), kinds[name][1]) for name, rows in shapes.items()}
    np.savez(place.folder / "index.npz", sums=np.array(sums, np.uint32), **told)  # type: ignore[arg-type]
    index = {"kinds": kinds, "sizes": {name: place.size(name) for name in kinds}, "ids": ids}
    (place.folder / "index.json").write_text(json.dumps(index))
    log.info("packed in %.1f s", time.perf_counter() - start)
    return place


def _whole(home: Path, job: _Fitted) -> bool:
    """Whether what lies there is all of it, and some of its samples still are what is read now."""
    place = Disk(home)
    try:
        index = json.loads((home / "index.json").read_text())
        if any(place.size(name) != size for name, size in index["sizes"].items()):
            return False
        packed = opened(place, length=len(job), indices=np.arange(len(job)))
        with np.load(home / "index.npz", allow_pickle=False) as file:
            sums = file["sums"]
        if not len(sums) == len(index["ids"]) == len(job):
            return False
        rows = _spread(len(job))
        arrays = ({name: column[row] for name, column in packed.columns.items()} for row in rows)
        return all(_sum(found) == sums[row] for row, found in zip(rows, arrays, strict=True))
    except (OSError, ValueError, KeyError, zlib.error):
        return False


def _name(
    reader: Reader, split: Split, fitted: Transform, indices: np.ndarray, search: dict[str, Any] | None
) -> str:
    """Of the files and their times, of what the reader was asked for, of the fit, and of a few samples as they are
    read now, which shows another version of a reader."""
    key = content(reader, split if search is None else split.split)  # type: ignore[attr-defined]
    how = (VERSION, fitted.target, fitted.size, fitted.fit, fitted.native, fitted.side, len(split), search)
    key.update(repr(how).encode())
    key.update(indices.tobytes())
    for row in _spread(len(indices))[:3]:
        id, arrays = _Fitted(split, fitted, indices)[row]
        key.update(f"{id}{_sum(arrays)}".encode())
    return key.hexdigest()[:32]


def _spread(length: int) -> list[int]:
    """A few places, the first and the last among them."""
    return sorted({*np.linspace(0, length - 1, min(length, LOOKED_AT)).astype(int).tolist()})


def _sum(arrays: dict[str, np.ndarray]) -> int:
    found = 0
    for name in sorted(arrays):
        found = zlib.crc32(np.ascontiguousarray(arrays[name]).data, found)
    return found


def _as_it_is(one: Any) -> Any:
    return one


def _said(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {array.dtype} of {array.ndim} axes" for name, array in arrays.items())
