"""How often each class occurs in the masks of a training set, and the weights that even this out."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np

from paribus.data.samples import Split

ClassWeights = Literal["none", "inverse_frequency", "median_frequency"]


class Frequencies(NamedTuple):
    """Of each class its pixels, and all pixels of the masks in which it occurs; without the ignored."""

    pixels: list[int]
    around: list[int]

    def weights(self, kind: ClassWeights) -> list[float]:
        """Of each class, for a loss that is divided by the sum of the weights.

        inverse_frequency: all pixels / (classes that occur * its pixels), as scikit-learn's ``balanced``.
        median_frequency: the median of the classes' frequencies / its frequency, which is its pixels / the
            pixels of the masks in which it occurs (Eigen and Fergus 2015, Predicting Depth, Surface Normals
            and Semantic Labels; Badrinarayanan et al. 2017, SegNet, section 3.1).

        A class that does not occur has 0: nothing can be learned of it, and any other number would be made up
        and change only the validation's loss and where label smoothing leads.
        """
        pixels, around = np.array(self.pixels, float), np.array(self.around, float)
        there = pixels > 0
        weights = np.zeros(len(pixels))
        if kind == "inverse_frequency":
            weights[there] = pixels.sum() / (there.sum() * pixels[there])
        elif kind == "median_frequency" and there.any():
            share = pixels[there] / around[there]
            weights[there] = np.median(share) / share
        else:
            weights[:] = kind == "none"
        return weights.tolist()


def count(split: Split, classes: int) -> Frequencies:
    """Reads every mask of a split as it is stored, not resized; files in threads, a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    def of_one(index: int) -> np.ndarray:
        return np.bincount(split[index].target.ravel(), minlength=256)[:classes]

    pixels, around = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    # Decoding frees the interpreter; generated samples would only wait for one another.
    workers = min(8, os.cpu_count() or 1) if hasattr(split, "files") else 1
    console = Console(file=sys.stdout)
    with ThreadPoolExecutor(workers) as threads:
        found = threads.map(of_one, range(len(split)))
        for counts in track(
            found, "classes", len(split), console=console, transient=True, disable=not console.is_terminal
        ):
            pixels += counts
            around += (counts > 0) * counts.sum()
    return Frequencies(pixels.tolist(), around.tolist())
