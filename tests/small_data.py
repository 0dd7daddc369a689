"""Writes tiny data sets in the formats people have: `class_folders(tmp_path)` and you can train on it.

Images are blocks of one colour for each class, so that a network can learn them in a few steps.
"""

import gzip
import json
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ((220, 40, 40), (40, 200, 60), (50, 70, 230), (230, 210, 40), (200, 60, 210))
Box = tuple[str, tuple[float, float, float, float]]  # a class and x1, y1, x2, y2 with edges counted from 0


def picture(label: int, size: tuple[int, int] = (24, 32), seed: int = 0) -> np.ndarray:
    """uint8 RGB [H, W, 3]: the label's colour with a little noise."""
    noise = np.random.default_rng(seed).integers(-20, 20, (*size, 3))
    return (np.array(COLOURS[label % len(COLOURS)]) + noise).clip(0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def class_folders(
    root: Path,
    classes: tuple[str, ...] = ("cat", "dog", "emu"),
    splits: tuple[str, ...] = ("train", "val", "test"),
    each: int = 8,
    size: tuple[int, int] = (24, 32),
    suffix: str = ".jpg",
) -> Path:
    """root/<split>/<class>/<number>; `splits=("",)` gives root/<class>/<number>."""
    for part, split in enumerate(splits):
        for label, name in enumerate(classes):
            for i in range(each):
                save(root / split / name / f"{i:03d}{suffix}", picture(label, size, seed=100 * part + i))
    return root


def mask_folders(
    root: Path,
    splits: tuple[str, ...] = ("train", "val", "test"),
    each: int = 6,
    size: tuple[int, int] = (24, 32),
    classes: int = 3,
) -> Path:
    """root/<split>/<number>.png and root/<split>annot/<number>.png: two halves of two classes each, and a
    first row of 255."""
    width = size[1]
    for part, split in enumerate(splits):
        for i in range(each):
            mask = np.full(size, i % classes, np.uint8)
            mask[:, width // 2 :] = (i + 1) % classes
            image = np.where(
                (np.arange(width) < width // 2)[None, :, None],
                picture(i % classes, size, seed=100 * part + i),
                picture((i + 1) % classes, size, seed=100 * part + i + 50),
            )
            mask[0] = 255
            save(root / split / f"{i:03d}.png", image)
            save(root / f"{split}annot" / f"{i:03d}.png", mask)
    return root


def scene(i: int, classes: tuple[str, ...], size: tuple[int, int]) -> tuple[np.ndarray, list[Box]]:
    """A grey image with `i % 3` coloured rectangles, and their boxes."""
    height, width = size
    image = np.random.default_rng(i).integers(100, 130, (*size, 3)).astype(np.uint8)
    boxes: list[Box] = []
    for k in range(i % 3):
        label = (i + k) % len(classes)
        x1, y1 = (k * width // 2 + 2), 3 + i % 4
        x2, y2 = x1 + width // 3, y1 + height // 2
        image[y1:y2, x1:x2] = COLOURS[label]
        boxes.append((classes[label], (x1, y1, x2, y2)))
    return image, boxes


def voc_xml(path: Path, boxes: list[Box], size: tuple[int, int], difficult: int = 0) -> Path:
    """Writes an annotation; boxes are turned into VOC's pixels counted from 1."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1 + 1:g}</xmin>"
        f"<ymin>{y1 + 1:g}</ymin><xmax>{x2:g}</xmax><ymax>{y2:g}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in boxes
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
        f"{objects}</annotation>"
    )
    return path


def voc(
    root: Path,
    classes: tuple[str, ...] = ("ball", "cube"),
    splits: tuple[str, ...] = ("train", "val", "test"),
    each: int = 6,
    size: tuple[int, int] = (48, 64),
) -> Path:
    """JPEGImages, Annotations and ImageSets/Main; every third image has no object."""
    for part, split in enumerate(splits):
        names = [f"{split}_{i:03d}" for i in range(each)]
        for i, name in enumerate(names):
            image, boxes = scene(i + 10 * part, classes, size)
            save(root / "JPEGImages" / f"{name}.jpg", image, quality=95)
            voc_xml(root / "Annotations" / f"{name}.xml", boxes, size)
        list_file = root / "ImageSets" / "Main" / f"{split}.txt"
        list_file.parent.mkdir(parents=True, exist_ok=True)
        list_file.write_text("\n".join(names) + "\n")
    return root


def coco(
    root: Path,
    classes: tuple[str, ...] = ("ball", "cube"),
    splits: tuple[str, ...] = ("train", "val", "test"),
    each: int = 6,
    size: tuple[int, int] = (48, 64),
) -> Path:
    """<split>2017 and annotations/instances_<split>2017.json; category ids 10, 20, …; polygons; every third
    image has no object."""
    for part, split in enumerate(splits):
        images, annotations = [], []
        for i in range(each):
            image, boxes = scene(i + 10 * part, classes, size)
            save(root / f"{split}2017" / f"{i:06d}.jpg", image, quality=95)
            images.append({"id": 1000 + i, "file_name": f"{i:06d}.jpg", "height": size[0], "width": size[1]})
            for name, (x1, y1, x2, y2) in boxes:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 1000 + i,
                        "category_id": 10 * (classes.index(name) + 1),
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                        "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                    }
                )
        categories = [{"id": 10 * (k + 1), "name": name} for k, name in enumerate(classes)]
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


def yolo_line(label: int, box: tuple[float, float, float, float], size: tuple[int, int]) -> str:
    """`class cx cy w h` of a box in pixels."""
    (height, width), (x1, y1, x2, y2) = size, box
    values = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
    return " ".join([str(label), *(f"{value:.9f}" for value in values)])


def yolo(
    root: Path,
    classes: tuple[str, ...] = ("ball", "cube"),
    splits: tuple[str, ...] = ("train", "val", "test"),
    each: int = 6,
    size: tuple[int, int] = (48, 64),
) -> Path:
    """images/<split>, labels/<split> and data.yaml; every third image has no object, the first no text file."""
    for part, split in enumerate(splits):
        for i in range(each):
            image, boxes = scene(i + 10 * part, classes, size)
            save(root / "images" / split / f"{i:03d}.jpg", image, quality=95)
            lines = [yolo_line(classes.index(name), box, size) for name, box in boxes]
            if i or lines:
                path = root / "labels" / split / f"{i:03d}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("\n".join(lines))
    names = "".join(f"  {label}: {name}\n" for label, name in enumerate(classes))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{names}")
    return root


def cifar10(root: Path, each: int = 20) -> Path:
    """cifar-10-batches-py with `each` images in each of its six batches."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    for part, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        labels = [i % 10 for i in range(each)]
        images = [picture(label, (32, 32), seed=100 * part + i) for i, label in enumerate(labels)]
        data = np.stack(images).transpose(0, 3, 1, 2).reshape(each, 3072)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=2))
    return root


def mnist(root: Path, train: int = 40, test: int = 20, zipped: bool = True) -> Path:
    """The four idx files, gzipped or not; the image of digit d is d + 1 bright rows."""
    root.mkdir(parents=True, exist_ok=True)
    for stem, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % 10
        images = np.zeros((count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4 : 5 + label] = 200
        for kind, values in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            header = struct.pack(f">4B{values.ndim}i", 0, 0, 8, values.ndim, *values.shape)
            path = root / f"{stem}-{kind}-ubyte{'.gz' if zipped else ''}"
            with gzip.open(path, "wb") if zipped else open(path, "wb") as file:
                file.write(header + values.tobytes())
    return root
