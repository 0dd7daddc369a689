"""Boxes written in the formats that the readers of boxes read, so that they read what was written bit for bit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import yaml


class Annotated(NamedTuple):
    """One image of a new set.

    file: its name in the new set. size: (height, width). target: as in a sample, but for the masks, which are run
    lengths (COCO's compressed form), ``segments``.
    """

    file: str
    size: tuple[int, int]
    target: dict[str, Any]


# The folder of a split's images, by format.
IMAGES = {"voc": "JPEGImages", "coco": "{split}2017", "yolo": "images/{split}"}


def write_voc(folder: Path, splits: dict[str, list[Annotated]], classes: Sequence[str]) -> None:
    """Annotations/*.xml and ImageSets/Main/<split>.txt. Pixels are counted from 1, see `VocDetection`."""
    for name, images in splits.items():
        for image in images:
            tree = _voc_tree(image, classes)
            ElementTree.indent(tree)
            path = folder / "Annotations" / f"{Path(image.file).stem}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            tree.write(path, encoding="utf-8")
        stems = [Path(image.file).stem for image in images]
        _write(folder / "ImageSets" / "Main" / f"{name}.txt", "".join(f"{stem}\n" for stem in stems))


def _voc_tree(image: Annotated, classes: Sequence[str]) -> ElementTree.ElementTree:
    def add(parent: ElementTree.Element, **texts: Any) -> None:
        for key, text in texts.items():
            ElementTree.SubElement(parent, key).text = str(text)

    root = ElementTree.Element("annotation")
    add(root, folder="JPEGImages", filename=image.file)
    size = ElementTree.SubElement(root, "size")
    add(size, width=image.size[1], height=image.size[0], depth=3)
    target = image.target
    difficult = marks(target, "difficult") | marks(target, "iscrowd")
    for box, label, hard in zip(target["boxes"], target["labels"], difficult, strict=True):
        element = ElementTree.SubElement(root, "object")
        add(element, name=classes[label], difficult=int(hard))
        ends = [_decimals(float(end) + 1, -1, end) for end in box[:2]] + [
            _decimals(end, 0, end) for end in box[2:]
        ]
        add(ElementTree.SubElement(element, "bndbox"), xmin=ends[0], ymin=ends[1], xmax=ends[2], ymax=ends[3])
    return ElementTree.ElementTree(root)


def write_coco(folder: Path, splits: dict[str, list[Annotated]], classes: Sequence[str]) -> None:
    """annotations/instances_<split>2017.json; a class's category is its label + 1."""
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    for name, images in splits.items():
        entries: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, image in enumerate(images, start=1):
            height, width = image.size
            entries.append({"id": number, "file_name": image.file, "height": height, "width": width})
            for entry in _coco_objects(image.target):
                annotations.append({"id": len(annotations) + 1, "image_id": number, **entry})
        content = {"images": entries, "annotations": annotations, "categories": categories}
        _write(folder / "annotations" / f"instances_{name}2017.json", json.dumps(content))


def _coco_objects(target: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    areas, crowds = areas_of(target), marks(target, "iscrowd")
    segments = target.get("segments") or [None] * len(areas)
    for box, label, area, crowd, segment in zip(
        target["boxes"], target["labels"], areas, crowds, segments, strict=True
    ):
        bbox: list[float] = []
        for low, high in zip(box[:2], box[2:], strict=True):
            start = float(_decimals(low, 0, low))
            side = float(_decimals(float(high) - start, start, high))
            bbox += [start, side]
        entry = {
            "category_id": int(label) + 1,
            "bbox": [bbox[0], bbox[2], bbox[1], bbox[3]],
            "area": float(str(area)),
            "iscrowd": int(crowd),
        }
        found.append(entry if segment is None else entry | {"segmentation": segment})
    return found


def write_yolo(folder: Path, splits: dict[str, list[Annotated]], classes: Sequence[str]) -> None:
    """labels/<split>/*.txt, an empty one for an image without objects, and data.yaml."""
    for name, images in splits.items():
        for image in images:
            objects = zip(image.target["boxes"], image.target["labels"], strict=True)
            lines = [f"{label} {_yolo_box(box, image.size)}\n" for box, label in objects]
            _write(folder / "labels" / name / f"{Path(image.file).stem}.txt", "".join(lines))
    content = {name: f"images/{name}" for name in splits} | {"names": dict(enumerate(classes))}
    _write(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _yolo_box(box: np.ndarray, size: tuple[int, int]) -> str:
    """``cx cy w h``, with as few digits as bring the box back."""
    centres, sides = [], []
    for low, high, whole in zip(box[:2], box[2:], size[::-1], strict=True):
        for digits in range(6, 18):
            side = round((float(high) - float(low)) / whole, digits)
            centre = round(float(low) / whole + side / 2, digits + 1)  # so that an edge at 0 stays at 0
            back = np.clip(np.array([centre - side / 2, centre + side / 2]) * whole, 0, whole)
            if (back.astype(np.float32) == (low, high)).all():
                break
        centres.append(f"{centre:.{digits + 1}f}")
        sides.append(f"{side:.{digits}f}")
    return " ".join([*centres, *sides])


def _decimals(value: float, offset: float, wanted: float) -> str:
    """The value with as few decimals as bring back what is wanted, in float32, when the offset is added."""
    for digits in range(18):
        text = f"{float(value):.{digits}f}"
        if np.float32(float(text) + offset) == wanted:
            break
    return text


def marks(target: dict[str, Any], key: str) -> np.ndarray:
    """bool ``[N]``: ``iscrowd`` or ``difficult``; no object is, where the target does not say."""
    return np.asarray(target.get(key, np.zeros(len(target["boxes"]))), bool)


def areas_of(target: dict[str, Any]) -> np.ndarray:
    """float32 ``[N]``: those of the objects, or where the target does not say of their boxes."""
    sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
    return target.get("area", sides.prod(1))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
