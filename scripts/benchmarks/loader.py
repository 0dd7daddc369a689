"""Loader: JPEGs of 500 x 375 to normalized float batches of 224 x 224, on two cores.

From files, each image cropped at random, resized and mirrored: ours, against torchvision's ImageFolder with Pillow,
timm's loader, and OpenCV with albumentations behind a DataLoader. From the packed copy, images fitted to 224 before,
shifted and mirrored: against OpenCV with albumentations, which decodes, resizes, shifts and mirrors. What a batch holds
is compared first, without what is drawn. Two of them read at once, threads or processes, beside the one that asks; the
clock on the wall is looked at, so two cores have to be free.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from measure import claim, end, in_turn, quick, ratio, table, timed
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from paribus.data.batched import Flip, Shift
from paribus.data.classification import ClassFolders
from paribus.data.module import DataModule
from paribus.device import keep_memory

MEAN, STD, BATCH, SIDE = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 32, 224


def photographs(root: Path, number: int, splits: Sequence[str] = ("train", "val"), links: int = 1) -> None:
    """Crops of two photographs in four classes, 500 x 375, as JPEG of quality 90; in every split the same, and each so
    many times, by links."""
    shown = [cv2.resize(photo, (700, 470)) for photo in load_sample_images().images]
    starts = np.random.default_rng(0).integers((95, 200), size=(number, 2))
    for split in splits:
        for label in range(4):
            (root / split / f"class{label}").mkdir(parents=True)

    def write(i: int) -> None:
        y, x = starts[i]
        pixels = shown[i % 2][y : y + 375, x : x + 500, ::-1]
        first, *others = (
            root / split / f"class{i % 4}" / f"{i:05d}-{j}.jpg" for split in splits for j in range(links)
        )
        cv2.imwrite(str(first), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
        for other in others:
            os.link(first, other)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(number)))


def module(root: Path, **keys: Any) -> DataModule:
    reader = ClassFolders(root=str(root))
    return DataModule(
        reader=reader, batch_size=BATCH, mean=MEAN, std=STD, size=(SIDE, SIDE), verify=False, **keys
    )


def ours(
    root: Path, before: list[Any], on_device: list[Any], floats: bool = True, **keys: Any
) -> Callable[[], None]:
    augmentation = {"before_resize": before, "on_device": on_device}
    two = {"num_workers": 2, "workers": "threads", "resident": False}
    epoch = trained_on(module(root, augmentation=augmentation, **two, **keys), floats)
    return lambda: drained(epoch(), dtype=torch.float32 if floats else torch.uint8)


def trained_on(data: DataModule, floats: bool = True) -> Callable[[], Iterator[torch.Tensor]]:
    """An epoch of a data module's training batches, as a model meets them, or as they are sent to a device, which
    augments and normalizes them. What is asked of a trainer is made up."""
    data.open("train")
    batch = SimpleNamespace(is_last_batch=False, current=SimpleNamespace(processed=0))
    epoch = SimpleNamespace(current=SimpleNamespace(ready=0, processed=0))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        training=True,
        current_epoch=0,
        global_step=0,
        global_rank=0,
        world_size=1,
        accumulate_grad_batches=1,
        fit_loop=SimpleNamespace(epoch_progress=epoch, epoch_loop=SimpleNamespace(batch_progress=batch)),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    loader = data.train_dataloader()
    return lambda: ((data.on_after_batch_transfer(batch, 0) if floats else batch)[0] for batch in loader)


class OpenCV(Dataset):
    def __init__(self, root: Path, transform: A.Compose):
        self.files, self.transform = sorted(root.glob("train/*/*.jpg")), transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels = cv2.cvtColor(cv2.imread(str(self.files[index])), cv2.COLOR_BGR2RGB)
        return self.transform(image=pixels)["image"], 0


def opencv(root: Path, *transforms: Any) -> Callable[[], None]:
    whole = A.Compose([*transforms, A.Normalize(MEAN, STD), A.ToTensorV2()])
    loader = DataLoader(
        OpenCV(root, whole), BATCH, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    return lambda: drained(images for images, _ in loader)


def pillow(root: Path) -> Callable[[], None]:
    whole = T.Compose(
        [T.RandomResizedCrop(SIDE), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)]
    )
    loader = DataLoader(
        ImageFolder(str(root / "train"), whole),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
    )
    return lambda: drained(images for images, _ in loader)


def timms(root: Path) -> Callable[[], None]:
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", str(root / "train")),
        (3, SIDE, SIDE),
        BATCH,
        is_training=True,
        use_prefetcher=False,
        color_jitter=0.0,
        interpolation="bilinear",
        mean=tuple(MEAN),
        std=tuple(STD),
        num_workers=2,
        persistent_workers=True,
    )
    return lambda: drained(images for images, _ in loader)


def drained(
    batches: Iterable[torch.Tensor],
    size: tuple[int, ...] = (BATCH, 3, SIDE, SIDE),
    dtype: torch.dtype = torch.float32,
) -> None:
    for images in batches:
        assert images.shape == size
        assert images.dtype == dtype


def check(root: Path) -> None:
    """Without chance, the numbers of OpenCV's pipeline, whichever tier they come from."""
    whole = A.Compose(
        [A.Resize(SIDE, SIDE, interpolation=cv2.INTER_AREA), A.Normalize(MEAN, STD), A.ToTensorV2()]
    )
    wanted = torch.stack([image for image, _ in OpenCV(root, whole)])
    for keys in ({}, {"cache": "ram"}):
        data = module(root, **keys)
        data.open("val")
        found = torch.cat([data.on_after_batch_transfer(batch, 0)[0] for batch in data.val_dataloader()])
        assert (found - wanted).abs().mean() < 0.02, (found - wanted).abs().mean()


def main() -> None:
    fast = quick(__doc__)
    keep_memory()  # as a run does
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photographs(
            root, BATCH if fast else 4 * BATCH, links=1 if fast else 4
        )  # an epoch is more than its ends
        check(root)
        crop = lambda: A.RandomResizedCrop((SIDE, SIDE), p=1.0)  # noqa: E731
        ways = {
            "ours": ours(root, [crop()], [Flip()]),
            "ImageFolder, Pillow": pillow(root),
            "timm": timms(root),
            "OpenCV, albumentations": opencv(root, crop(), A.HorizontalFlip(p=0.5)),
            "ours, packed": ours(root, [], [Shift(), Flip()], cache="ram"),
            "ours, packed, for a device": ours(root, [], [Shift(), Flip()], floats=False, cache="ram"),
            "OpenCV, albumentations, shifted": opencv(
                root,
                A.Resize(SIDE, SIDE),
                A.CropAndPad(percent=0.125, keep_size=False, p=1.0),
                A.RandomCrop(SIDE, SIDE),
                A.HorizontalFlip(p=0.5),
            ),
        }
        for way in ways.values():
            way()  # the packed copy is made here
        found = in_turn({name: timed(way, time.perf_counter) for name, way in ways.items()}, 1 if fast else 7)
        images = BATCH if fast else 16 * BATCH
        table({name: [s / images for s in values] for name, values in found.items()}, "ms an image", 1e3)
        for against, bound in (
            ("ImageFolder, Pillow", ">=2.2"),
            ("timm", ">=2.1"),
            ("OpenCV, albumentations", ">=1.8"),
        ):
            why = "decoding and cropping are the same calls of OpenCV in both" if "OpenCV" in against else ""
            claim("loader", against, ratio(found[against], found["ours"]), bound, not fast, why)
        theirs = found["OpenCV, albumentations, shifted"]
        claim(
            "packed loader",
            "OpenCV, albumentations",
            ratio(theirs, found["ours, packed"]),
            ">=12",
            not fast,
            why="one thread shifts, mirrors and makes the floats of every batch, 0.2 ms an image, which a GPU does",
        )
        sent = ratio(theirs, found["ours, packed, for a device"])
        claim("packed loader, for a device", "OpenCV, albumentations", sent, ">=18", not fast)
    end()


if __name__ == "__main__":
    main()
