"""Proposals for every image of a split: searched once, and kept on disk for all runs that search alike."""

import hashlib
import json
import logging
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from paribus.data.remembered import cache_folder, remembered
from paribus.data.samples import Problem, Reader, Sample, Split
from paribus.data.selective_search import VERSION, selective_search

log = logging.getLogger(__name__)


class WithProposals:
    """A split whose targets hold ``proposals`` too, float32 ``[P, 4]`` in pixels of the image as it was read, the
    best guess first: those of `selective_search` with the keywords `search`.

    Each image's lie in a file below the user's cache folder, known by its pixels and by how was searched, beside
    search.json, which says how. What is not there is searched when it is asked for.

    names: of the files of some samples, by index; of others the pixels are asked.
    """

    def __init__(self, split: Split, search: dict[str, Any], names: dict[int, str] | None = None):
        self.split, self.search, self.names = split, search, names or {}
        made = {"version": VERSION, "scikit-image": version("scikit-image")}
        how = json.dumps({**search, **made}, sort_keys=True)
        self.folder = cache_folder("proposals") / hashlib.sha256(how.encode()).hexdigest()[:16]
        if not (self.folder / "search.json").is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / "search.json", how.encode())

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample:
        sample = self.split[index]
        boxes = self.boxes(sample.image, self.names.get(index) or fingerprint(sample.image))
        return sample._replace(target=sample.target | {"proposals": boxes})

    def problems(self) -> list[Problem]:
        return self.split.problems()

    def without(self, indices: set[int]) -> "WithProposals":
        return WithProposals(self.split.without(indices), self.search)

    def path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.npy"

    def boxes(self, image: np.ndarray, name: str) -> np.ndarray:
        """Of the image of this name: read, or searched and written."""
        path = self.path(name)
        if path.is_file():
            return np.load(path)
        boxes = selective_search(image, **self.search)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.npy")
        np.save(part, boxes)
        part.replace(path)
        return boxes


def with_proposals(
    reader: Reader, split: Split, search: dict[str, Any], *, indices: np.ndarray, processes: int
) -> WithProposals:
    """Searches those samples of a split that no run has searched before, in so many processes, with a bar on a
    terminal; of files that have not changed since, without reading them.
    """
    proposed, chosen = WithProposals(split, search), indices.tolist()
    some = json.dumps(chosen) if len(chosen) < len(split) else "all"
    what = f"proposals/{proposed.folder.name}/{hashlib.sha256(some.encode()).hexdigest()[:8]}"
    notice = f"proposals: {len(chosen)} images are looked at, in {processes} process(es)"
    names = remembered(what, reader, split, lambda: _searched(proposed, chosen, processes), notice)
    return WithProposals(split, search, dict(zip(chosen, names, strict=True)))


def only_proposals(image: np.ndarray, search: dict[str, Any]) -> dict[str, np.ndarray]:
    """The target of an image of which nothing else is known; kept nowhere."""
    boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return {"boxes": boxes, "labels": labels, "proposals": selective_search(image, **search)}


def fingerprint(image: np.ndarray) -> str:
    """Of the pixels; the file may have been moved or copied."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:32]


class _Search(Dataset):
    """Searches a sample when it is asked for; what it gives is its index, its name, and whether that was new."""

    def __init__(self, proposed: WithProposals, indices: list[int]):
        self.proposed, self.indices = proposed, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[int, str, bool]:
        index = self.indices[place]
        image = self.proposed.split[index].image
        name = fingerprint(image)
        new = not self.proposed.path(name).is_file()
        if new:
            self.proposed.boxes(image, name)
        return index, name, new


def _searched(proposed: WithProposals, indices: list[int], processes: int) -> list[str]:
    from rich.console import Console
    from rich.progress import track

    # In an order of its own: runs that begin together, as in a sweep, share the work.
    order = np.random.default_rng(os.getpid()).permutation(indices).tolist()
    # And with a generator of its own, or what training draws would depend on whether this was done before.
    loader = DataLoader(
        _Search(proposed, order),
        batch_size=None,
        num_workers=processes if processes > 1 else 0,
        generator=torch.Generator(),
    )
    console = Console(file=sys.stdout)
    rows = track(
        loader, "proposals", len(indices), console=console, transient=True, disable=not console.is_terminal
    )
    start = time.perf_counter()
    names, searched = {}, 0
    for index, name, new in rows:
        names[int(index)] = name
        searched += bool(new)
    seconds = time.perf_counter() - start
    log.info("proposals: %d of %d images were new, %.1f s", searched, len(names), seconds)
    return [names[index] for index in indices]


def _write(path: Path, content: bytes) -> None:
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)
