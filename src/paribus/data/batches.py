"""From samples to batches on the host: in which order, drawn with which seed, put together how."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from paribus.data.samples import IGNORE, Sample, Split
from paribus.data.transforms import Transform


class Samples(Dataset):
    """A split behind its transform. A key is an index, or (index, epoch) where augmentation is drawn."""

    def __init__(self, split: Split, transform: Transform, seed: int | None):
        self.split, self.transform, self.seed = split, transform, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        if isinstance(key, tuple):
            index, epoch = key
            assert self.seed is not None
            draw = int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0])
            return self.transform(self.split[index], draw)
        return self.transform(self.split[key], None)


class Order(Sampler[tuple[int, int]]):
    """This process's share of an epoch's order, as (index, epoch); a function of (seed, epoch).

    Every process draws the same permutation and takes each ``world``-th of it, so that the global
    batches are those of one process. The tail that does not fill a global batch waits for another
    epoch. ``progress`` says (epoch, batches of it already done) when the first epoch begins, and not
    earlier: Lightning asks for the loader, to count its steps, before it restores a checkpoint.
    """

    def __init__(
        self,
        indices: np.ndarray,
        *,
        seed: int,
        progress: Callable[[], tuple[int, int]],
        batch_size: int,
        rank: int,
        world: int,
    ):
        self.indices, self.seed, self.batch_size = indices, seed, batch_size
        self.rank, self.world = rank, world
        self.progress: Callable[[], tuple[int, int]] | None = progress
        self.epoch = 0
        self.kept = len(indices) // (batch_size * world) * (batch_size * world)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning as every epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        done = 0
        if self.progress is not None:
            (self.epoch, done), self.progress = self.progress(), None
        epoch = self.epoch
        order = self.indices[np.random.default_rng([self.seed, epoch]).permutation(len(self.indices))]
        share = order[: self.kept][self.rank :: self.world]
        for index in share[done * self.batch_size :]:
            yield int(index), epoch

    def __len__(self) -> int:
        return self.kept // self.world


def collate(samples: list[Sample], native: bool = False) -> tuple[torch.Tensor, Any, list[str]]:
    """Samples -> one batch on the host: uint8 images ``[B, 3, H, W]``, targets by kind, ids.

    native: masks keep their own sizes, int64 ``[H, W]`` in a list.
    """
    images, targets, ids = zip(*samples, strict=True)
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    stacked = torch.from_numpy(_stack(images, height, width, 0)).permute(0, 3, 1, 2)
    first = targets[0]
    batch: Any
    if isinstance(first, dict):
        batch = [
            {key: torch.tensor(v) for key, v in t.items()} for t in targets
        ]  # copies: readers keep theirs
        for target in batch:
            if "masks" in target:  # instance masks grow with the image
                below, right = height - target["masks"].shape[1], width - target["masks"].shape[2]
                target["masks"] = torch.nn.functional.pad(target["masks"], (0, right, 0, below))
    elif native:
        batch = [torch.from_numpy(mask).long() for mask in targets]
    elif isinstance(first, np.ndarray) and first.ndim == 2:
        batch = torch.from_numpy(_stack(targets, height, width, IGNORE)).long()
    elif isinstance(first, np.ndarray):
        batch = torch.from_numpy(np.stack(targets)).float()
    else:
        batch = torch.tensor(targets)
    return stacked, batch, list(ids)


def _stack(arrays: tuple[np.ndarray, ...], height: int, width: int, fill: int) -> np.ndarray:
    if all(a.shape[:2] == (height, width) for a in arrays):
        return np.stack(arrays)
    out = np.full((len(arrays), height, width, *arrays[0].shape[2:]), fill, arrays[0].dtype)
    for i, array in enumerate(arrays):
        out[i, : array.shape[0], : array.shape[1]] = array
    return out
