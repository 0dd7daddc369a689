"""Reader of image classification sets: a folder of images for each class."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from paribus.data.files import SUFFIXES, FileSplit, existing_root, read_image
from paribus.data.samples import DataError, Sample
from paribus.data.splits import Splits


class _Item(NamedTuple):
    path: str  # relative to the root
    label: int


class ClassFolders:
    """A folder for each class: ``root/train/<class>/**.jpg``, and so for val and test.

    Where root has no such folders it is itself the one set: ``root/<class>/**.jpg``. Any image format,
    at any depth below the class folder; hidden files are passed over.

    classes: their order gives the labels; default: the folders of train, sorted. Every split must have
    just these folders (one may be empty, except in train).
    splits, split, split_seed: see `paribus.data.splits.Splits`; `split` is stratified by class.

    Raises:
        DataError: root or a split is missing or empty, or class names disagree.
    """

    target: str = "label"
    palette: list[tuple[int, int, int]] | None = None

    def __init__(
        self,
        *,
        root: str,
        classes: list[str] | None = None,
        splits: dict[str, str] | None = None,
        split: dict[str, float] | None = None,
        split_seed: int = 0,
    ):
        self.root = existing_root(root)
        if splits is None and not any((self.root / name).is_dir() for name in ("train", "val", "test")):
            splits = {"train": "."}
        self.splits = Splits(splits, split, split_seed)
        self.classes = tuple(classes or self._folders(self.splits.first))
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"data.reader.classes names a class twice: {list(self.classes)}.")

    def split(self, name: str) -> FileSplit:
        items = self.splits.items(
            name,
            self._items,
            key=lambda item: item.path,
            group=lambda item: item.label,
        )
        return FileSplit(root=self.root, items=items, read=self._read, sources=self._sources)

    def _read(self, item: _Item) -> Sample:
        return Sample(read_image(os.path.join(self.root, item.path)), item.label, item.path)

    def _sources(self, item: _Item) -> list[str]:
        return [os.path.join(self.root, item.path)]  # a path of its own is 15 times as slow to make

    def _folders(self, folder: str) -> list[str]:
        path = self.root / folder
        if not path.is_dir():
            raise DataError(
                f"The folder {path.absolute()} does not exist: make it, with a folder for each class, or "
                "name another one in `data.reader.splits`, or take it from train with `data.reader.split`."
            )
        names = sorted(e.name for e in os.scandir(path) if e.is_dir() and not e.name.startswith("."))
        if not names:
            raise DataError(
                f"The folder {path.absolute()} holds no class folders: put <class>/<image> into it."
            )
        return names

    def _items(self, folder: str) -> list[_Item]:
        found, expected = set(self._folders(folder)), set(self.classes)
        if found != expected:
            more, less = sorted(found - expected), sorted(expected - found)
            raise DataError(
                f"The class names disagree: {self.root / folder} has"
                + (f" the folders {more}, which are no class" if more else "")
                + (" and" if more and less else "")
                + (f" no folder for {less}" if less else "")
                + f"; the classes are {list(self.classes)}, "
                + "from `data.reader.classes` or the folders of train. Rename, move or make the folders (an "
                "empty one will do in val and test), or correct `data.reader.classes`."
            )
        items = []
        for label, name in enumerate(self.classes):
            paths = sorted(_images(str(self.root), os.path.normpath(os.path.join(folder, name))))
            if not paths and folder == self.splits.names.get("train"):
                raise DataError(
                    f"The class folder {self.root / folder / name} holds no image ({', '.join(SUFFIXES)}): "
                    "put some there or remove it."
                )
            items += [_Item(path, label) for path in paths]
        return items


def _images(root: str, folder: str) -> Iterator[str]:
    """The images below a folder, as paths relative to the root."""
    for entry in os.scandir(os.path.join(root, folder)):
        if entry.name.startswith("."):  # .ipynb_checkpoints holds copies of images
            continue
        path = os.path.join(folder, entry.name)
        if entry.is_dir():
            yield from _images(root, path)
        elif entry.name.lower().endswith(SUFFIXES):
            yield path
