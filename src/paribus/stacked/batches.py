"""The batches of several data modules that differ in their seed alone, as one."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import Sampler

from paribus.data.batched import augmented, keys
from paribus.data.batches import Order, Samples
from paribus.data.module import DataModule
from paribus.data.resident import ResidentLoader
from paribus.data.samples import Sample

Key = tuple[int, int, int]  # index, epoch, place of the data module


class Joined(LightningDataModule):
    """Batches of images ``[K, B, C, H, W]``, targets ``[K, B]`` and K x B ids, each module's with its own order and
    augmentation; what is judged is the same for all, and comes as it is.

    The set is opened, verified and kept once for all.
    """

    def __init__(self, each: Sequence[DataModule]):
        super().__init__()
        self.each = list(each)
        for one in self.each[1:]:
            one.splits, one.tiers = self.each[0].splits, self.each[0].tiers

    def setup(self, stage: str) -> None:
        for one in self.each:
            one.trainer = self.trainer
            one.setup(stage)

    def train_dataloader(self) -> Any:
        loaders: list[Any] = [one.train_dataloader() for one in self.each]
        samples, size = _samples(loaders[0]), loaders[0].batch_size
        orders = Orders([loader.sampler for loader in loaders], size)
        every = EverySeed(samples, [one.seed for one in self.each])
        assert self.trainer is not None
        loader = self.each[0].tiers.loader(
            every, orders, batch_size=size * len(self.each), device=self.trainer.strategy.root_device
        )
        if isinstance(loader, ResidentLoader):
            loader.fill(np.unique(np.concatenate([order.indices for order in orders.orders])))
        return loader

    def val_dataloader(self) -> Any:
        return self.each[0].val_dataloader()

    def transfer_batch_to_device(self, batch: tuple, device: torch.device, dataloader_idx: int) -> tuple:
        return self.each[0].transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: tuple, dataloader_idx: int) -> tuple:
        first, number, trainer = self.each[0], len(self.each), self.trainer
        assert trainer is not None
        if not trainer.training:
            return first.on_after_batch_transfer(batch, dataloader_idx)
        images, targets, ids = batch
        if first.on_device:
            size = len(ids) // number
            drawn = torch.cat(
                [
                    keys(one.seed, trainer.current_epoch, ids[i * size : (i + 1) * size], images.device)
                    for i, one in enumerate(self.each)
                ]
            )
            images, targets = augmented(images, targets, first.on_device, drawn)
        images = first.normalize(images)
        return images.unflatten(0, (number, -1)), targets.unflatten(0, (number, -1)), ids


class EverySeed(Samples):
    """The samples as each of several seeds draws their augmentation."""

    def __init__(self, samples: Samples, seeds: Sequence[int]):
        super().__init__(samples.split, samples.transform, samples.seed)
        self.seeds = list(seeds)

    def __getitem__(self, key: Any) -> Sample:
        if not isinstance(key, tuple):
            return super().__getitem__(key)
        index, epoch, place = key
        self.seed = self.seeds[place]  # threads and workers have a copy each
        return super().__getitem__((index, epoch))


class Orders(Sampler[Key]):
    """Of each order a batch, in turn."""

    def __init__(self, orders: Sequence[Order], batch_size: int):
        self.orders, self.batch_size = orders, batch_size

    def set_epoch(self, epoch: int) -> None:
        for order in self.orders:
            order.set_epoch(epoch)

    def __iter__(self) -> Iterator[Key]:
        each = [iter(order) for order in self.orders]
        while True:
            for place, keys_of_one in enumerate(each):
                batch = [(*key, place) for key in islice(keys_of_one, self.batch_size)]
                if not batch:
                    return
                yield from batch

    def __len__(self) -> int:
        return sum(map(len, self.orders))


def _samples(loader: Any) -> Samples:
    return loader.samples if hasattr(loader, "samples") else loader.dataset
