"""Readers of object detection sets: Pascal VOC (an XML file for each image), COCO (a JSON for each split)."""

import json
import math
import os
import xml.etree.ElementTree as ElementTree
from collections import UserDict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paribus.data.files import RESTORE, FileSplit, existing_root, read_list
from paribus.data.objects import Objects, object_split
from paribus.data.samples import DataError
from paribus.data.splits import Splits


class VocDetection:
    """Pascal VOC's layout: ``JPEGImages/``, ``Annotations/*.xml`` and lists of names for each split.

    Coordinates: VOC counts pixels from 1 and both ends of a box belong to it, so that 1, 1, W, H is the
    whole image. Here, as in COCO and in every model, a box runs between the pixels' edges, 0 to W: 1 is
    subtracted from xmin and ymin, xmax and ymax stay (as detectron2 does). A box whose xmin = xmax or
    ymin = ymax, formally one pixel wide, is reported as empty: it is a slip of the annotator's mouse.
    `first_pixel: 0` is for sets in this layout that count edges from 0.

    lists: pattern of the files that name the images (``{split}`` is the split's own name); null: every
    file of Annotations, with `split` to divide them.
    classes: their order gives the labels; default: the names found in train, sorted.
    difficult: whether objects marked as difficult are kept. unknown: what an object of no class does.
    keep_empty: whether images without objects are kept. clip_boxes: boxes that reach out of the image
    are clipped, empty ones left out, instead of being reported.
    splits, split, split_seed: see `paribus.data.splits.Splits`.

    Target: ``boxes``, ``labels``, ``difficult`` (1 where VOC's average precision passes an object over). The EXIF
    orientation of an image is applied, unless the annotation's <size> is that of the unturned image.

    Raises:
        DataError: root, folder or list is missing, a split is empty. What is wrong with one annotation
            is among the split's problems.
    """

    target: str = "boxes"
    palette: list[tuple[int, int, int]] | None = None

    def __init__(
        self,
        *,
        root: str,
        classes: list[str] | None = None,
        lists: str | None = "ImageSets/Main/{split}.txt",
        difficult: Literal["keep", "drop"] = "keep",
        unknown: Literal["stop", "drop"] = "stop",
        keep_empty: bool = True,
        clip_boxes: bool = False,
        first_pixel: Literal[0, 1] = 1,
        splits: dict[str, str] | None = None,
        split: dict[str, float] | None = None,
        split_seed: int = 0,
    ):
        self.root = existing_root(root)
        self.lists, self.difficult, self.unknown = lists, difficult, unknown
        self.keep_empty, self.clip_boxes, self.first_pixel = keep_empty, clip_boxes, first_pixel
        if lists is None:
            splits = splits or {"train": ""}
        self.splits = Splits(splits, split, split_seed)
        for folder in ("JPEGImages", "Annotations"):
            if not (self.root / folder).is_dir():
                raise DataError(
                    f"The folder {(self.root / folder).absolute()} does not exist: `data.reader.root` is "
                    "the folder that holds JPEGImages and Annotations (VOCdevkit/VOC2012, say)."
                )
        self._parsed: UserDict[str, list[Objects]] = UserDict()
        self.classes = tuple(classes or self._discovered())

    def split(self, name: str) -> FileSplit:
        shared = [self.root / self.lists.replace("{split}", self.splits.source(name))] if self.lists else []
        return object_split(self, name, self._objects, shared)

    def _discovered(self) -> list[str]:
        names = {name for item in self._objects(self.splits.first) for name in item.names}
        if not names:
            raise DataError(
                f"{self.root / 'Annotations'} holds no object for train: set `data.reader.classes`."
            )
        return sorted(names)

    def _objects(self, split: str) -> list[Objects]:
        if split not in self._parsed:
            if self.lists:
                path = self.root / self.lists.replace("{split}", split)
                # VOC's lists for one class add a 1 or -1 to each name.
                names = [line.split()[0] for line in read_list(path)]
            else:
                names = sorted(path.stem for path in (self.root / "Annotations").glob("*.xml"))
            images = {
                Path(name).stem: name for name in sorted(os.listdir(self.root / "JPEGImages"), reverse=True)
            }
            self._parsed[split] = [self._parse(name, images.get(name, f"{name}.jpg")) for name in names]
        return self._parsed[split]

    def _parse(self, name: str, image: str) -> Objects:
        source = f"Annotations/{name}.xml"
        item = Objects(f"JPEGImages/{image}", source, None, [], [], np.zeros((0, 4)), {})
        try:
            tree = ElementTree.parse(self.root / source).getroot()
            objects = list(enumerate(tree.iter("object"), start=1))
            if self.difficult == "drop":
                objects = [(i, o) for i, o in objects if not _difficult(o)]
            size = [int(float(tree.findtext(f"size/{side}") or 0)) for side in ("height", "width")]
            boxes = [[float(o.findtext(f"bndbox/{end}") or "nan") for end in _ENDS] for _, o in objects]
            names = [(o.findtext("name") or "").strip() for _, o in objects]
        except FileNotFoundError:
            return item._replace(broken=("file is missing", f"annotate the image: {RESTORE}"))
        except (ElementTree.ParseError, ValueError) as error:
            return item._replace(broken=(f"is no valid XML annotation ({error})", RESTORE))
        if any(math.isnan(value) for box in boxes for value in box):
            return item._replace(broken=("has an object whose <bndbox> lacks a coordinate", RESTORE))
        return item._replace(
            size=(size[0], size[1]) if all(size) else None,
            names=names,
            ids=[i for i, _ in objects],
            difficult=tuple(_difficult(o) for _, o in objects),
            boxes=np.array(boxes, np.float64).reshape(-1, 4),
            more={"difficult": np.array([_difficult(o) for _, o in objects], np.int64)},
            first_pixel=self.first_pixel,
        )


_ENDS = ("xmin", "ymin", "xmax", "ymax")


def _difficult(element: ElementTree.Element) -> bool:
    return (element.findtext("difficult") or "0").strip() == "1"


class CocoDetection:
    """COCO's layout: a JSON file and a folder of images for each split.

    images, annotations: below the root; ``{split}`` is the split's own name. A set in one file has no
    ``{split}`` and is divided by `split`.
    classes: their order gives the labels; default: the categories of train's file by their id. Categories
    are known by their names, which must be the same in every split.
    masks: also decode the instance masks, polygons and run lengths.
    unknown, keep_empty, clip_boxes: as in `VocDetection`. splits, split, split_seed: see
    `paribus.data.splits.Splits`.

    Target: ``boxes`` (x, y, width, height turned into corners), ``labels``, ``iscrowd``, ``area`` (of the
    annotation, in pixels of the stored image) and ``masks`` uint8 ``[N, H, W]`` if asked for. The EXIF
    orientation of an image is applied, unless the JSON's width and height are those of the unturned image.

    Raises:
        DataError: root or JSON is missing or no COCO file, a split is empty, class names disagree.
    """

    target: str = "boxes"
    palette: list[tuple[int, int, int]] | None = None

    def __init__(
        self,
        *,
        root: str,
        images: str = "{split}2017",
        annotations: str = "annotations/instances_{split}2017.json",
        classes: list[str] | None = None,
        masks: bool = False,
        unknown: Literal["stop", "drop"] = "stop",
        keep_empty: bool = True,
        clip_boxes: bool = False,
        splits: dict[str, str] | None = None,
        split: dict[str, float] | None = None,
        split_seed: int = 0,
    ):
        self.root = existing_root(root)
        self.images, self.annotations, self.masks = images, annotations, masks
        self.unknown, self.keep_empty, self.clip_boxes = unknown, keep_empty, clip_boxes
        if "{split}" not in annotations:
            splits = splits or {"train": ""}
        self.splits = Splits(splits, split, split_seed)
        self._parsed: UserDict[str, list[Objects]] = UserDict()
        self._categories: UserDict[str, list[str]] = UserDict()
        if classes is None:
            self._objects(self.splits.first)
            classes = self._categories[self.splits.first]
        self.classes = tuple(classes)

    def split(self, name: str) -> FileSplit:
        return object_split(self, name, self._objects)

    def _objects(self, split: str) -> list[Objects]:
        if split not in self._parsed:
            source = self.annotations.replace("{split}", split)
            self._categories[split], self._parsed[split] = _parse_coco(
                self.root / source, source, self.images.replace("{split}", split), self.masks
            )
        if hasattr(self, "classes") and self.unknown == "stop":
            differ = set(self._categories[split]) ^ set(self.classes)
            if differ:
                raise DataError(
                    f"The class names disagree: {sorted(differ)} are not both categories of "
                    f"{self.root / self.annotations.replace('{split}', split)} and classes "
                    "(`data.reader.classes` or those of train). Rename them, or leave other objects out with "
                    "`data.reader.unknown=drop`."
                )
        return self._parsed[split]


def _parse_coco(path: Path, source: str, folder: str, masks: bool) -> tuple[list[str], list[Objects]]:
    """The category names by id, and the annotations by image."""
    if not path.is_file():
        raise DataError(
            f"The file {path.absolute()} does not exist: set `data.reader.annotations` to where it is."
        )
    try:
        content = json.loads(path.read_bytes())
        categories = {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}
        grouped: dict[Any, list[dict[str, Any]]] = {entry["id"]: [] for entry in content["images"]}
        for annotation in content["annotations"]:
            grouped[annotation["image_id"]].append(annotation)
        items = [
            _coco_objects(entry, grouped[entry["id"]], categories, source, folder, masks)
            for entry in content["images"]
        ]
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no valid JSON ({error}): {RESTORE}.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is no COCO file: it lacks, or an entry of it names, {error!r}. It needs images (id, "
            "file_name), categories (id, name), and annotations (id, image_id, category_id, bbox) of those."
        ) from error
    return list(categories.values()), items


def _coco_objects(
    entry: dict[str, Any],
    annotations: list[dict[str, Any]],
    categories: dict[int, str],
    source: str,
    folder: str,
    masks: bool,
) -> Objects:
    xywh = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    size = (int(entry.get("height") or 0), int(entry.get("width") or 0))
    segments = [a.get("segmentation") for a in annotations] if masks else None
    lacking = [a["id"] for a in annotations if not a.get("segmentation")] if masks else []
    return Objects(
        image=f"{folder}/{entry['file_name']}" if folder else entry["file_name"],
        source=source,
        size=size if all(size) else None,
        names=[categories.get(a["category_id"], f"category id {a['category_id']}") for a in annotations],
        ids=[a.get("id", i) for i, a in enumerate(annotations)],
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        more={
            "iscrowd": np.array([a.get("iscrowd", 0) for a in annotations], np.int64),
            "area": np.array(
                [a.get("area", w * h) for a, (w, h) in zip(annotations, xywh[:, 2:], strict=True)], np.float32
            ),
        },
        segments=segments,
        broken=(
            f"the objects {lacking} of {entry['file_name']} have no mask",
            "add it, or set `data.reader.masks=false`",
        )
        if lacking
        else None,
    )
