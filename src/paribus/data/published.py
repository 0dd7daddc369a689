"""Readers of sets that fit into memory, in their published files: CIFAR-10 and -100, MNIST, Fashion-MNIST."""

import gzip
import pickle
from collections import UserDict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paribus.data.download import one_at_a_time
from paribus.data.samples import DataError, Problem, Sample
from paribus.data.splits import Splits


class ArraySplit:
    """Samples from arrays in memory: uint8 images ``[N, H, W]`` or ``[N, H, W, 3]``, int64 labels ``[N]``."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, ids: list[str], files: list[Path]):
        self.images, self.labels, self.ids, self._files = images, labels, ids, files

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        image = self.images[index]
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        return Sample(image, int(self.labels[index]), self.ids[index])

    def problems(self) -> list[Problem]:
        """None: sizes and labels were checked when the arrays were read."""
        return []

    def without(self, indices: set[int]) -> "ArraySplit":
        return self.only([index for index in range(len(self)) if index not in indices])

    def files(self) -> list[Path]:
        return self._files

    def only(self, kept: list[int]) -> "ArraySplit":
        """Those samples, in that order."""
        return ArraySplit(self.images[kept], self.labels[kept], [self.ids[i] for i in kept], self._files)


def _take(name: str, splits: Splits, part: ArraySplit, classes: tuple[str, ...]) -> ArraySplit:
    """One of our splits, out of the published part that it comes from."""
    highest = part.labels.max(initial=0)
    if len(part.images) != len(part.labels) or highest >= len(classes):
        raise DataError(
            f"{part.files()[0]} belongs to another set: {len(part.images)} images, {len(part.labels)} labels "
            f"up to {highest}, where there are {len(classes)} classes. Download it again."
        )
    kept = splits.items(
        name,
        lambda _: list(range(len(part))),
        key=lambda index: part.ids[index],
        group=lambda index: int(part.labels[index]),
    )
    return part if len(kept) == len(part) else part.only(kept)


class Cifar:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009) in the published "python version". 32 x 32.

    root: the folder that holds ``cifar-10-batches-py`` or ``cifar-100-python`` (or that folder itself).
    `split` takes val from the 50,000 training images, stratified; test is the published test set.
    download: fetch it with torchvision where it is absent.

    Raises:
        DataError: the files are absent, with what to put where, or damaged.
    """

    target: str = "label"
    palette: list[tuple[int, int, int]] | None = None

    def __init__(
        self,
        *,
        root: str,
        version: Literal[10, 100] = 10,
        split: dict[str, float] | None = None,
        split_seed: int = 0,
        download: bool = False,
    ):
        self.root = Path(root).expanduser()
        self._splits = Splits({"train": "train", "test": "test"}, split, split_seed)
        self._parts: UserDict[str, ArraySplit] = UserDict()
        self.folder = self.root / ("cifar-10-batches-py" if version == 10 else "cifar-100-python")
        if not self.folder.is_dir() and self.root.name == self.folder.name:
            self.folder = self.root
        if version == 10:
            self._names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
            self._meta, self._key, self._classes_key = "batches.meta", "labels", "label_names"
        else:
            self._names = {"train": ["train"], "test": ["test"]}
            self._meta, self._key, self._classes_key = "meta", "fine_labels", "fine_label_names"
        wanted = [self._meta, *self._names["train"], *self._names["test"]]
        missing = [name for name in wanted if not (self.folder / name).is_file()]
        if missing and download:
            from torchvision import datasets

            with one_at_a_time(self.folder.parent):  # torchvision fetches only what is not there, whole
                dataset = datasets.CIFAR10 if version == 10 else datasets.CIFAR100
                dataset(str(self.folder.parent), download=True)
        elif missing:
            raise DataError(
                f"CIFAR-{version} is not there: {self.folder.absolute()} lacks {', '.join(missing)}. "
                f"Unpack cifar-{version}-python.tar.gz in {self.root.absolute()}, or let it be fetched: "
                "`data.reader.download=true`."
            )
        self.classes = tuple(str(name) for name in _unpickle(self.folder / self._meta)[self._classes_key])

    def split(self, name: str) -> ArraySplit:
        source = "test" if name == "test" else "train"
        if source not in self._parts:
            self._parts[source] = self._load(source)
        return _take(name, self._splits, self._parts[source], self.classes)

    def _load(self, part: str) -> ArraySplit:
        paths = [self.folder / name for name in self._names[part]]
        batches = [_unpickle(path) for path in paths]
        try:
            images = np.concatenate([np.asarray(b["data"], np.uint8).reshape(-1, 3, 32, 32) for b in batches])
            labels = np.concatenate([np.asarray(b[self._key], np.int64) for b in batches])
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{paths[0]} and its like are no CIFAR batches ({error}): download them again."
            ) from error
        ids = [
            f"{path.name}:{i}" for path, b in zip(paths, batches, strict=True) for i in range(len(b["data"]))
        ]
        return ArraySplit(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels, ids, paths)


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled arrays and plain values; a pickle that would run code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class("numpy._core.multiarray" if name == "_reconstruct" else "numpy", name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, no plain array")


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises whatever it stumbles on
        raise DataError(f"{path} cannot be read ({error}): download it again.") from error


class Mnist:
    """MNIST (LeCun et al. 1998) or Fashion-MNIST (Xiao et al. 2017), the published idx files. 28 x 28, grey.

    root: holds ``train-images-idx3-ubyte`` and its three fellows, gzipped or not, itself or in ``raw/``,
    ``MNIST/raw/`` or ``FashionMNIST/raw/``. `split` takes val from the 60,000 training images,
    stratified; test is the published test set. download: fetch it with torchvision where it is absent.

    Raises:
        DataError: the files are absent, with what to put where, or damaged.
    """

    target: str = "label"
    palette: list[tuple[int, int, int]] | None = None

    def __init__(
        self,
        *,
        root: str,
        version: Literal["digits", "fashion"] = "digits",
        split: dict[str, float] | None = None,
        split_seed: int = 0,
        download: bool = False,
    ):
        self.root = Path(root).expanduser()
        self._splits = Splits({"train": "train", "test": "test"}, split, split_seed)
        self._parts: UserDict[str, ArraySplit] = UserDict()
        self.classes = tuple("0123456789") if version == "digits" else FASHION
        self._folders = ("MNIST/raw" if version == "digits" else "FashionMNIST/raw", "raw", ".")
        stems = [f"{part}-{kind}" for part in ("train", "t10k") for kind in (_IMAGES, _LABELS)]
        missing = [stem for stem in stems if self._find(stem) is None]
        if missing and download:
            from torchvision import datasets

            with one_at_a_time(self.root):
                dataset = datasets.MNIST if version == "digits" else datasets.FashionMNIST
                dataset(str(self.root), download=True)
        elif missing:
            raise DataError(
                f"MNIST ({version}) is not there: {self.root.absolute()} lacks {', '.join(missing)}. "
                "Put them there, gzipped or not, or set `data.reader.download=true`."
            )

    def _find(self, stem: str) -> Path | None:
        paths = (self.root / folder / (stem + end) for folder in self._folders for end in ("", ".gz"))
        return next((path for path in paths if path.is_file()), None)

    def split(self, name: str) -> ArraySplit:
        source = "test" if name == "test" else "train"
        if source not in self._parts:
            self._parts[source] = self._load(source)
        return _take(name, self._splits, self._parts[source], self.classes)

    def _load(self, part: str) -> ArraySplit:
        stem = "train" if part == "train" else "t10k"
        paths = [path for kind in (_IMAGES, _LABELS) if (path := self._find(f"{stem}-{kind}"))]
        images, labels = _idx(paths[0], 3), _idx(paths[1], 1)
        ids = [f"{stem}:{i}" for i in range(len(images))]
        return ArraySplit(images, labels.astype(np.int64), ids, paths)


_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
FASHION = (
    *("t-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


def _idx(path: Path, ndim: int) -> np.ndarray:
    """An idx file of bytes: 0, 0, 8 (uint8), ndim, the sizes as big-endian int32, the values."""
    try:
        data = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
        if data[:4] != bytes([0, 0, 8, ndim]):
            raise ValueError(f"it does not begin as an idx file of {ndim} dimension(s)")
        shape = np.frombuffer(data, ">i4", count=ndim, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): download it again.") from error
