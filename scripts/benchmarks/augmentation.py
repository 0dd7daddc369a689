"""Augmentation for masks and for boxes, on one core: what is left to the host where a batch is augmented on its device,
against albumentations' whole pipeline, as it runs in a DataLoader's workers.

Masks: an image of 960 x 720 at half to twice its size, of it a crop of 512 x 512, mirrored; colour and normalization.
Boxes: a crop that keeps 20 boxes, resized to 640 x 640, mirrored; colour and normalization. That both cut and resize
alike is checked first. What the changes of a batch take is told beside it, on this processor and without a claim: on a
GPU they are free beside the network.
"""

import cv2
from measure import claim, end, in_turn, quick, ratio, table, timed

from paribus.data.transforms import Transform

import albumentations as A  # isort: skip  # after paribus, which keeps it from asking for updates
import numpy as np
import torch

from paribus.data.batched import Color, Flip, augmented, keys
from paribus.data.samples import Sample
from paribus.data.scaled_crop import ScaledCrop
from paribus.device import keep_memory

CROP, SIDE, WHOLE = (512, 512), (640, 640), (720, 960)
FITS = min(new / old for new, old in zip(CROP, WHOLE, strict=True))
COLOR = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def scene(boxes: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A smooth image, its mask, and boxes in it."""
    rng = np.random.default_rng(0)
    image = cv2.resize(
        rng.integers(0, 256, (45, 60, 3), np.uint8), WHOLE[::-1], interpolation=cv2.INTER_CUBIC
    )
    mask = np.repeat(np.repeat(rng.integers(0, 11, (72, 96), np.uint8), 10, 0), 10, 1)
    corners = rng.integers((100, 100), (800, 560), (boxes, 2))
    return image, mask, np.hstack([corners, corners + rng.integers(20, 120, (boxes, 2))]).astype(np.float32)


def scaled(least: float, largest: float) -> list:
    """albumentations' way to a crop of an image at a random scale."""
    limits = least - 1, largest - 1
    return [A.RandomScale(limits, p=1), A.PadIfNeeded(*CROP, fill_mask=255, p=1), A.RandomCrop(*CROP, p=1)]


def check(image: np.ndarray, mask: np.ndarray) -> None:
    """At its own size and at 1.5 times, with smaller masks: places are drawn, and so the sets of values are compared."""
    for factor in (1.0, 1.5):
        ours = Transform(
            target="mask", size=CROP, before_resize=[ScaledCrop(size=CROP, scale=[factor / FITS] * 2)]
        )
        theirs = A.Compose(scaled(factor, factor))
        found, wanted = [], []
        for seed in range(40):
            sample = ours(Sample(image, mask, "a"), seed)
            out = theirs(image=image, mask=mask)
            assert sample.image.shape == out["image"].shape == (*CROP, 3)
            assert sample.target.shape == out["mask"].shape == CROP
            found.append([sample.image.mean(), sample.image.std(), (sample.target == 3).mean()])
            wanted.append([out["image"].mean(), out["image"].std(), (out["mask"] == 3).mean()])
        assert np.allclose(np.mean(found, 0), np.mean(wanted, 0), rtol=0.05, atol=0.01), (found, wanted)


def on_device(images: torch.Tensor) -> torch.Tensor:
    """The changes of a batch, and its normalization."""
    drawn = keys(0, 0, [str(i) for i in range(len(images))], images.device)
    targets: object = torch.zeros(len(images), *images.shape[2:], dtype=torch.uint8)
    images, _ = augmented(images, targets, [Flip(), Color(**COLOR)], drawn)
    mean, std = (255 * torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    return images.float().sub_(mean).div_(std)


def main() -> None:
    fast = quick(__doc__)
    keep_memory()
    torch.set_num_threads(1)
    image, mask, boxes = scene()
    check(image, mask)
    number, rounds = (4, 1) if fast else (40, 7)
    colours = [
        A.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (0, 0), p=1),
        A.Normalize(MEAN, STD),
        A.ToTensorV2(),
    ]
    crop = ScaledCrop(size=CROP, scale=[0.5 / FITS, 2.0 / FITS])
    ours = Transform(target="mask", size=CROP, before_resize=[crop])
    geometry = [*scaled(0.5, 2.0), A.HorizontalFlip(p=0.5)]
    theirs, theirs_alone = A.Compose([*geometry, *colours]), A.Compose(geometry)
    safe = A.BBoxSafeRandomCrop(erosion_rate=0.0, p=1)
    ours_boxes = Transform(target="boxes", size=SIDE, before_resize=[safe])
    labelled = A.BboxParams("pascal_voc", label_fields=["labels"])
    theirs_boxes = A.Compose([safe, A.Resize(*SIDE), A.HorizontalFlip(p=0.5), *colours], bbox_params=labelled)
    labels = np.arange(len(boxes))
    target = {"boxes": boxes, "labels": labels}
    batch = torch.from_numpy(np.stack([ours(Sample(image, mask, "a"), i).image for i in range(8)])).permute(
        0, 3, 1, 2
    )
    ways = {
        "masks: ours, on the host": lambda i: ours(Sample(image, mask, "a"), i),
        "masks: albumentations, its geometry alone": lambda i: theirs_alone(image=image, mask=mask),
        "masks: albumentations": lambda i: theirs(image=image, mask=mask),
        "boxes: ours, on the host": lambda i: ours_boxes(Sample(image, target, "a"), i),
        "boxes: albumentations": lambda i: theirs_boxes(image=image, bboxes=boxes, labels=labels),
        "mirror, colour and normalization of a batch": lambda i: i % 8 or on_device(batch),
    }
    found = in_turn(
        {name: timed(lambda way=way: [way(i) for i in range(number)]) for name, way in ways.items()}, rounds
    )
    table({name: [s / number for s in values] for name, values in found.items()}, "ms a sample", 1e3)
    for kind, bound in (("masks", ">=5"), ("boxes", ">=3")):
        faster = ratio(found[f"{kind}: albumentations"], found[f"{kind}: ours, on the host"])
        why = "the crop around boxes is albumentations' own, in both" if kind == "boxes" else ""
        claim(f"augmentation of {kind}, up to the device", "albumentations", faster, bound, not fast, why)
    end()


if __name__ == "__main__":
    main()
