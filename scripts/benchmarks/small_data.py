"""Small images: an epoch of 32 x 32, padded by 4, cropped at random and mirrored, to normalized float batches of 128.

Ours with the set in memory (`data.resident`) and augmentation of whole batches, against a DataLoader with Pillow and
torchvision's transforms, and one with albumentations on the arrays. One core, no workers. That the batches hold the
samples of the set is checked first.
"""

from collections.abc import Callable, Iterator
from typing import Any

import albumentations as A
import numpy as np
import torch
from loader import MEAN, STD, drained, trained_on
from measure import claim, end, in_turn, quick, ratio, table, timed
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from paribus.data.batched import Flip, Shift
from paribus.data.module import DataModule
from paribus.data.samples import Sample

BATCH = 128
SIZE = (BATCH, 3, 32, 32)


class Arrays:
    """A reader of a set that lies in memory."""

    target, palette = "label", None
    classes: tuple[str, ...] = ("a", "b")

    def __init__(self, images: np.ndarray):
        self.images = images

    def split(self, name: str) -> "Arrays":
        return self

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index], index % 2, str(index))

    def problems(self) -> list[Any]:
        return []


class Transformed(Dataset):
    def __init__(self, images: np.ndarray, transform: Callable[[np.ndarray], torch.Tensor]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), index % 2


def ours(images: np.ndarray, augment: bool = True) -> Callable[[], Iterator[torch.Tensor]]:
    data = DataModule(
        reader=Arrays(images),  # type: ignore[arg-type]
        batch_size=BATCH,
        mean=MEAN,
        std=STD,
        size=(32, 32),
        augmentation={"on_device": [Shift(), Flip()] if augment else []},
    )
    return trained_on(data)


def theirs(
    images: np.ndarray, transform: Callable[[np.ndarray], torch.Tensor]
) -> Callable[[], Iterator[torch.Tensor]]:
    loader = DataLoader(Transformed(images, transform), BATCH, shuffle=True, drop_last=True)
    return lambda: (batch for batch, _ in loader)


def check(images: np.ndarray) -> None:
    """Every image once an epoch, from the second epoch on out of memory."""
    epoch = ours(images, augment=False)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    wanted = np.sort(images[: len(images) // BATCH * BATCH].sum((1, 2, 3)))
    for _ in range(3):
        pixels = (torch.cat([*epoch()]) * std + mean) * 255
        assert np.array_equal(np.sort(pixels.round().long().sum((1, 2, 3)).numpy()), wanted)


def main() -> None:
    fast = quick(__doc__)
    number = BATCH * (2 if fast else 40)
    images = np.random.default_rng(0).integers(0, 256, (number, 32, 32, 3), np.uint8)
    check(images)
    whole = A.Compose(
        [
            A.CropAndPad(px=4, keep_size=False, p=1.0),
            A.RandomCrop(32, 32),
            A.HorizontalFlip(p=0.5),
            A.Normalize(MEAN, STD),
            A.ToTensorV2(),
        ]
    )
    pillow = T.Compose(
        [T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)]
    )
    ways = {
        "ours, resident": ours(images),
        "DataLoader, Pillow": theirs(images, lambda pixels: pillow(Image.fromarray(pixels))),
        "DataLoader, albumentations": theirs(images, lambda pixels: whole(image=pixels)["image"]),
    }
    drained(ways["ours, resident"](), SIZE)  # the first epoch reads
    found = in_turn(
        {name: timed(lambda way=way: drained(way(), SIZE)) for name, way in ways.items()}, 1 if fast else 7
    )
    table({name: [s / number for s in values] for name, values in found.items()}, "us an image", 1e6)
    for against, bound in (("DataLoader, Pillow", ">=6"), ("DataLoader, albumentations", ">=2")):
        claim("small images", against, ratio(found[against], found["ours, resident"]), bound, not fast)
    end()


if __name__ == "__main__":
    main()
