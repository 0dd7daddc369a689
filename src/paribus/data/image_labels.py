"""Reader of images with any number of classes each: an object detection set, of which no box is used."""

from typing import Literal

import numpy as np

from paribus.data.detection import VocDetection
from paribus.data.files import FileSplit
from paribus.data.objects import Objects, ReadObjects
from paribus.data.samples import Sample


class VocLabels:
    """The classes that are in an image, of a folder in Pascal VOC's layout (see `VocDetection`).

    An image has a class if an object of it is annotated. Boxes are not looked at: an empty one, or one
    that reaches out of the image, shows that its class is there.

    difficult: what an object marked as difficult says. ``ignore``, VOC's rule for its classification task
    (the 0 in ``ImageSets/Main/<class>_<split>.txt``): an image whose only objects of a class are difficult
    is neither learned nor judged for this class. ``keep``: that the class is there. ``drop``: nothing, so
    that the class is not there if no other object is of it.
    classes, lists, unknown, splits, split, split_seed: as in `VocDetection`.

    Target: ``labels``, float32 ``[C]`` of 1, 0 and NaN (neither learned nor judged).

    Raises:
        DataError: root, folder or list is missing, a split is empty. What is wrong with one annotation
            is among the split's problems.
    """

    target: str = "labels"
    palette: list[tuple[int, int, int]] | None = None

    def __init__(
        self,
        *,
        root: str,
        classes: list[str] | None = None,
        lists: str | None = "ImageSets/Main/{split}.txt",
        difficult: Literal["ignore", "keep", "drop"] = "ignore",
        unknown: Literal["stop", "drop"] = "stop",
        splits: dict[str, str] | None = None,
        split: dict[str, float] | None = None,
        split_seed: int = 0,
    ):
        if difficult not in ("ignore", "keep", "drop"):
            raise ValueError(f"data.reader.difficult={difficult}: one of ignore, keep, drop")
        self.detection = VocDetection(
            root=root,
            classes=classes,
            lists=lists,
            difficult="drop" if difficult == "drop" else "keep",
            unknown=unknown,
            splits=splits,
            split=split,
            split_seed=split_seed,
        )
        # In sight of the data module, which remembers of each set, read in this way, what is wrong with it.
        self.classes, self.difficult, self.unknown = self.detection.classes, difficult, unknown
        self.objects = ReadObjects(self.detection.root, self.classes, unknown, clip=True)

    def split(self, name: str) -> FileSplit:
        found = self.detection.split(name)
        return FileSplit(
            root=found.root, items=found.items, read=self._read, sources=found.sources, shared=found.shared
        )

    def _read(self, item: Objects) -> Sample:
        image = self.objects.image(item)
        target = np.zeros(len(self.classes), np.float32)
        for name, difficult in zip(item.names, item.difficult, strict=True):
            label = self.objects.labels.get(name)
            if label is None:
                continue
            if not difficult or self.difficult == "keep":
                target[label] = 1
            elif target[label] == 0:
                target[label] = np.nan
        return Sample(image, target, item.image)
