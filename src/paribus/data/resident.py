"""A set that lies on the device: the third of the three tiers of data."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus.data.batches import Samples, collate
from paribus.data.columns import Packed

MOST_OF_HOST, MOST_OF_GPU = 1 << 28, 0.25  # bytes; share of what is free: what `data.resident=auto` takes
TARGETS = ("label", "labels", "mask")


class ResidentLoader:
    """What a DataLoader gives, from memory of the device, which keeps what it has once been given.

    The first epoch reads as ever, from `read` (a loader of the keys that it is given), and keeps images (uint8
    [N, 3, H, W]) and targets; from then on a batch is one indexing of both. Samples that no epoch has had yet are read
    when they are asked for. Images are of one size and without augmentation on the host.

    A packed copy is read by nobody: it goes to a GPU in one piece, and a processor leaves it where it is mapped, so that
    the runs of a sweep share what memory holds of it.
    """

    batch_sampler = None  # Lightning asks whether there is one

    def __init__(
        self,
        samples: Samples,
        read: Callable[[list[Any]], Iterable[Any]],
        *,
        batch_size: int,
        sampler: Any,
        device: torch.device,
    ):
        self.samples, self.read, self.batch_size, self.sampler = samples, read, batch_size, sampler
        self.device = device
        self.known = np.zeros(len(samples), bool)
        self.rows = np.arange(len(samples))  # where each lies
        self.ids = np.empty(len(samples), object)
        self.images = torch.empty(0)
        self.targets = torch.empty(0)
        if isinstance(samples.split, Packed):
            self._take(samples.split)

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        keys = list(self.sampler)
        indices = np.array([key[0] if isinstance(key, tuple) else key for key in keys], np.int64)
        starts = range(0, len(indices), self.batch_size)
        if self.known[indices].mean() < 0.5:
            for start, batch in zip(starts, self.read(keys), strict=True):
                self._keep(indices[start : start + self.batch_size], *batch)
                yield batch
            return
        # All of an epoch at once: the one time that it waits.
        order = torch.from_numpy(self.rows[indices]).to(self.device)
        for start in starts:
            rows = indices[start : start + self.batch_size]
            new = rows[~self.known[rows]]
            if len(new):
                self._keep(new, *collate([self.samples[int(row)] for row in new]))
            at = order[start : start + self.batch_size]
            targets = self.targets[at]
            yield self.images[at], targets.long() if targets.ndim == 3 else targets, self.ids[rows].tolist()

    def fill(self, indices: np.ndarray) -> None:
        """Reads these samples, before an epoch that asks for each of them several times."""
        indices = indices[~self.known[indices]]
        starts = range(0, len(indices), self.batch_size)
        for start, batch in zip(starts, self.read(indices.tolist()), strict=True):
            self._keep(indices[start : start + self.batch_size], *batch)

    def _take(self, packed: Packed) -> None:
        images, targets = packed.columns["image"], packed.columns["target"]
        with warnings.catch_warnings():  # it is read-only, and nothing here writes
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            pixels = torch.from_numpy(images.values.reshape(-1, *images.shapes[0]))
            truth = torch.from_numpy(targets.values.reshape(-1, *targets.shapes[0]))
        self.images = pixels.to(self.device).permute(0, 3, 1, 2)
        self.targets = truth.to(self.device, torch.float32 if truth.ndim == 2 else None)
        self.known, self.rows = packed.rows >= 0, packed.rows
        self.ids[self.known] = np.array(packed.ids, object)[packed.rows[self.known]]

    def _keep(self, rows: np.ndarray, images: Tensor, targets: Tensor, ids: list[str]) -> None:
        if not self.known.any():
            number = len(self.samples)
            self.images = torch.empty((number, *images.shape[1:]), dtype=torch.uint8, device=self.device)
            kept = torch.int16 if targets.ndim == 3 else targets.dtype
            self.targets = torch.empty((number, *targets.shape[1:]), dtype=kept, device=self.device)
        at = torch.from_numpy(rows).to(self.device)
        self.images[at] = images.to(self.device)
        self.targets[at] = targets.to(self.device, self.targets.dtype)
        self.ids[rows] = ids
        self.known[rows] = True


def fits(number: int, size: tuple[int, int], device: torch.device) -> bool:
    """Whether so many images are few enough to stay on the device unasked."""
    most = MOST_OF_GPU * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else MOST_OF_HOST
    return number * 3 * size[0] * size[1] <= most
