"""From samples to batches on the host: in which order, drawn with which seed, put together how."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from paribus.data.mosaic import mosaic
from paribus.data.samples import IGNORE, Sample, Split
from paribus.data.transforms import Transform


class Samples(Dataset):
    """A split behind its transform. A key is an index, or (index, epoch) where augmentation is drawn.

    With probability `mosaics` a sample that is drawn is joined with three others, each changed as if it were alone;
    which ones is a function of (seed, epoch, index) too. `members` are the indices they are taken from.
    """

    def __init__(
        self,
        split: Split,
        transform: Transform,
        seed: int | None,
        mosaics: float = 0.0,
        members: np.ndarray | None = None,
    ):
        self.split, self.transform, self.seed = split, transform, seed
        self.mosaics, self.members = mosaics, members

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        if not isinstance(key, tuple):
            return self.transform(self.split[key], None)
        index, epoch = key
        assert self.seed is not None
        draw = None
        if self.transform.before or self.transform.after:  # a third of what a packed sample costs
            draw = int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0])
        sample = _learned(self.transform(self.split[index], draw))
        if not self.mosaics:
            return sample
        rng = np.random.default_rng([self.seed, epoch, index, 1])  # 0 in its place would be the draw above
        if rng.random() >= self.mosaics:
            return sample
        assert self.members is not None
        assert self.transform.size is not None
        others = [
            _learned(self.transform(self.split[int(other)], int(rng.integers(2**32))))
            for other in rng.choice(self.members, 3)
        ]
        return mosaic([sample, *others], self.transform.size, rng)


def _learned(sample: Sample) -> Sample:
    """Without the objects that stand for many, which are not trained on. Done here, the device need not be asked."""
    target = sample.target
    if not isinstance(target, dict) or "iscrowd" not in target:
        return sample
    single = target["iscrowd"] == 0
    whole = ("judged", "proposals")
    kept = {key: v if key in whole else v[single] for key, v in target.items() if key != "iscrowd"}
    return sample._replace(target=kept)


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


class Loader(DataLoader):
    """A DataLoader whose workers begin when the first batch is asked for.

    torch's begin with the iterator, which Lightning makes before it restores a checkpoint: they would have read the
    first epoch's first batches by then.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


def collate(
    samples: list[Sample], native: bool = False, stacked: torch.Tensor | None = None
) -> tuple[torch.Tensor, Any, list[str]]:
    """Samples -> one batch on the host: uint8 images ``[B, 3, H, W]``, targets by kind, ids.

    native: masks keep their own sizes, int64 ``[H, W]`` in a list. stacked: the images, if that is done.
    """
    images, targets, ids = zip(*samples, strict=True)
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    if stacked is None:
        stacked = torch.from_numpy(_stack(images, height, width, 0)).permute(0, 3, 1, 2)
    first = targets[0]
    batch: Any
    if isinstance(first, dict):
        # Copies: readers keep theirs. What is judged stays on the host, as arrays.
        batch = [{key: v if key == "judged" else torch.tensor(v) for key, v in t.items()} for t in targets]
        for target in batch:
            if "masks" in target:  # instance masks grow with the image
                below, right = height - target["masks"].shape[1], width - target["masks"].shape[2]
                target["masks"] = torch.nn.functional.pad(target["masks"], (0, right, 0, below))
    elif native:
        batch = [torch.tensor(mask, dtype=torch.int64) for mask in targets]
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
