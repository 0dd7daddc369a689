"""A set of boxes, read by its reader and written in another format: Pascal VOC, COCO or YOLO's text files."""

import json
import logging
import os
import re
import secrets
import shlex
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from paribus.build import make
from paribus.config import ConfigError, ConvertConfig
from paribus.data.samples import DataError, Reader, Split
from paribus.data.splits import SPLITS
from paribus.data.writing import IMAGES, Annotated, areas_of, marks, write_coco, write_voc, write_yolo

log = logging.getLogger(__name__)

WRITE = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo}
OPTIONS = {"voc": "voc_detection", "coco": "coco", "yolo": "yolo_text"}  # of conf/data


def run(config: ConvertConfig) -> Path:
    """Writes the set of ``config.data`` as ``config.to`` into ``config.output``; returns the folder.

    All of the set is read before anything is written, and the folder appears when all is in it. Boxes, classes and
    their order, crowds, areas and masks are the reader's, as far as the format has them; what it has not is said, with
    counts.

    Raises:
        ConfigError: the set has no boxes, the folder exists, a split is none.
        DataError: what training would have said of the set.
    """
    output = Path(config.output).expanduser()
    if output.exists():
        raise ConfigError(f"output={config.output}: exists already; name another folder, or remove it")
    reader: Reader = make(config.data["reader"])
    if reader.target != "boxes":
        raise ConfigError(
            f"data.reader answers with {reader.target}, and boxes are converted: data=coco, say"
        )
    splits = {name: _checked(name, reader.split(name), config) for name in _splits(reader, config.splits)}
    lost: Counter[str] = Counter()
    sets = {
        name: [_held(i, config.to, lost) for i in _read(split, config.to)] for name, split in splits.items()
    }
    names = _names(sets, config.to)
    part = output.parent / f".{output.name}.{secrets.token_hex(4)}"
    try:
        for name, images in sets.items():
            folder = part / IMAGES[config.to].replace("{split}", name)
            folder.mkdir(parents=True, exist_ok=True)
            for index, (image, file) in enumerate(zip(images, names[name], strict=True)):
                stored = _store(reader, splits[name], index, image, folder / file, config)
                images[index] = image._replace(file=stored.name)
        WRITE[config.to](part, sets, reader.classes)
        part.rename(output)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for name, images in sets.items():
        log.info("%s: %d images, %d objects", name, len(images), sum(len(i.target["boxes"]) for i in images))
    if missed := +lost:  # what is not 0
        log.info("%s has no: %s", config.to, "; ".join(f"{what} ({count})" for what, count in missed.items()))
    log.info("%s\n%s", output, _command(output, config.to, reader, list(sets)))
    return output


def _splits(reader: Reader, asked: list[str] | None) -> list[str]:
    """Of train, val and test those that are asked for, or that the set has: each once, where test is val's."""
    if asked is None:
        known: Any = getattr(reader, "splits", None)
        return known.own() if known is not None else list(SPLITS)
    if not asked or not set(asked) <= set(SPLITS):
        raise ConfigError(f"splits={asked}: some of {', '.join(SPLITS)}, or null for those that the set has")
    return asked


def _checked(name: str, split: Split, config: ConvertConfig) -> Split:
    """The split without what cannot be used, if that is to be left out; DataError if not."""
    problems = split.problems()
    if problems and config.data.get("on_error") != "skip":
        raise DataError(problems)
    if problems:
        log.warning("%s: %d of %d samples left out (data.on_error=skip)", name, len(problems), len(split))
    return split.without({problem.index for problem in problems})


def _read(split: Split, to: str) -> list[Annotated]:
    """What is known of each image but its pixels; ``file`` is its id."""

    def read(index: int) -> Annotated:
        image, target, name = split[index]
        target = dict(target)
        masks = target.pop("masks", None)
        if masks is not None:
            target["segments"] = (
                [_run_lengths(mask) for mask in masks] if to == "coco" else [None] * len(masks)
            )
        return Annotated(name, image.shape[:2], target)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return list(threads.map(read, range(len(split))))


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    from faster_coco_eval.core import mask as coco_masks

    found = coco_masks.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": found["counts"].decode()}


def _held(image: Annotated, to: str, lost: Counter[str]) -> Annotated:
    """The objects that the format can hold; what it cannot is counted."""
    target = image.target
    sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
    crowd, held = marks(target, "iscrowd"), np.ones(len(sides), bool)
    if to == "yolo":
        held = ~crowd
        lost["crowds, which are left out"] += int(crowd.sum())
    if to == "voc":
        held = (sides > 1).all(1)
        lost["boxes of one pixel or less, which are left out"] += int((~held).sum())
        lost["crowds, which are written as difficult"] += int((crowd & held).sum())
        fractions = (target["boxes"] % 1 > 0).any(1) & held
        lost["fractions of a pixel, which are written as decimals and cut off by some tools"] += int(
            fractions.sum()
        )
    if to != "voc":
        lost["marks of difficult objects"] += int((marks(target, "difficult") & held).sum())
    if to != "coco":
        lost["areas but those of the boxes"] += int(
            (~np.isclose(areas_of(target), sides.prod(1)) & held).sum()
        )
        lost["masks"] += int(held.sum()) if "segments" in target else 0
    index = np.flatnonzero(held)
    kept = {key: [v[i] for i in index] if key == "segments" else v[index] for key, v in target.items()}
    return image._replace(target=kept)


def _names(sets: dict[str, list[Annotated]], to: str) -> dict[str, list[str]]:
    """The images' new names: their own, or where two are the same their paths. VOC's are in one folder."""
    if to == "voc":
        names = iter(
            _distinct([re.sub(r"\s", "_", image.file) for images in sets.values() for image in images])
        )
        return {name: [next(names) for _ in images] for name, images in sets.items()}
    return {name: _distinct([image.file for image in images]) for name, images in sets.items()}


def _distinct(files: list[str]) -> list[str]:
    paths = [PurePath(file) for file in files]
    for names in (
        [path.name for path in paths],
        ["_".join(p for p in path.parts if p not in "/..") for path in paths],
    ):
        stems = Counter(PurePath(name).stem for name in names)
        if len(stems) == len(names):
            return names
    twice = [file for file, name in zip(files, names, strict=True) if stems[PurePath(name).stem] > 1]
    raise DataError(f"{twice[0]} and {twice[1]} would have one name in the new set: rename one of them.")


def _store(
    reader: Reader, split: Split, index: int, image: Annotated, path: Path, config: ConvertConfig
) -> Path:
    """Puts an image's file at the path; pixels without a file, or not as their file is turned, as PNG."""
    root: Any = getattr(reader, "root", None)
    source = root / image.file if root is not None else None
    if source is None or not source.is_file() or (config.to == "yolo" and _upright(source) != image.size):
        path = path.with_name(f"{path.stem}.png")
        Image.fromarray(split[index].image).save(path)
        return path
    if config.files == "link":
        try:
            os.link(os.path.realpath(source), path)
            return path
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(source, path)
    return path


def _upright(path: Path) -> tuple[int, int]:
    """(height, width) of an image as its EXIF orientation turns it: what YOLO's shares are of, which claim no size."""
    with Image.open(path) as image:
        width, height = image.size
        return (width, height) if image.getexif().get(0x0112, 1) in range(5, 9) else (height, width)


def _command(output: Path, to: str, reader: Reader, splits: list[str]) -> str:
    """What trains on the new set."""
    words = ["python", "scripts/train.py", f"data={OPTIONS[to]}", f"data.reader.root={output}"]
    if to == "voc":
        words.append(f"data.reader.classes={json.dumps(list(reader.classes), ensure_ascii=False)}")
    words += ["data.reader.classes=null"] if to == "coco" else []
    words += ["data.reader.splits.test=test"] if "test" in splits else []
    return shlex.join([*words, "task=detection", "model=retinanet"])
