"""An image cut into segments that are alike inside, without learning: five published methods, by libraries.

Each function maps a uint8 RGB image [H, W, 3] to the numbers of its pixels' segments, int [H, W] from 0. Its
keywords are the method's own keys. None of them draws anything: an image has one answer.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage import segmentation
from skimage.filters import gaussian, sobel
from sklearn.cluster import KMeans


def kmeans(image: np.ndarray, *, segments: int = 250, compactness: float = 10.0) -> np.ndarray:
    """Lloyd's k-means (MacQueen 1967; Lloyd 1982) on colour and place, begun on a grid of about `segments` cells.

    A pixel is (L, a, b, m y / S, m x / S), S the side of a cell and m the `compactness`: SLIC's distance (Achanta
    et al. 2012, equation 3), but every pixel is compared with every centre, and a cluster may lie in pieces.
    """
    height, width = image.shape[:2]
    side = math.sqrt(height * width / segments)
    rows, columns = (min(max(round(n / side), 1), n) for n in (height, width))
    y, x = np.mgrid[:height, :width]
    cells = (y * rows // height * columns + x * columns // width).ravel()
    places = np.stack([y, x], axis=-1) * (compactness / side)
    features = np.concatenate([lab(image), places], axis=-1).reshape(-1, 5)
    centres = means(features, cells)
    clusters = KMeans(len(centres), init=centres, n_init=1, max_iter=10).fit(features)
    return clusters.labels_.reshape(height, width)


def mean_shift(image: np.ndarray, *, spatial_radius: float = 8.0, color_radius: float = 8.0) -> np.ndarray:
    """Mean shift (Comaniciu and Meer 2002, section 4): every pixel climbs to its mode in the joint domain.

    spatial_radius: h_s in pixels. color_radius: h_r in 8-bit Lab, where L has 255 steps. OpenCV filters (section
    4.1); the grouping of neighbours whose modes are closer than h_r (section 4.2), which it lacks, follows here.
    """
    height, width = image.shape[:2]
    modes = cv2.pyrMeanShiftFiltering(
        cv2.cvtColor(image, cv2.COLOR_RGB2LAB), spatial_radius, color_radius, maxLevel=0
    ).astype(np.float32)
    number = np.arange(height * width).reshape(height, width)
    joined = []
    for axis in (0, 1):
        alike = (np.diff(modes, axis=axis) ** 2).sum(-1) < color_radius**2
        one, other = np.delete(number, -1, axis)[alike], np.delete(number, 0, axis)[alike]
        joined.append(np.stack([one, other]))
    one, other = np.concatenate(joined, axis=1)
    graph = coo_matrix((np.ones(len(one), bool), (one, other)), shape=(number.size, number.size))
    return connected_components(graph, directed=False)[1].reshape(height, width)


def slic(
    image: np.ndarray, *, segments: int = 250, compactness: float = 10.0, sigma: float = 0.0
) -> np.ndarray:
    """SLIC superpixels (Achanta et al. 2012): k-means within 2 S of a centre, then made connected.

    compactness: m. sigma: of a Gaussian before, in pixels.
    """
    return segmentation.slic(
        image, n_segments=segments, compactness=compactness, sigma=sigma, start_label=0, channel_axis=-1
    )


def felzenszwalb(
    image: np.ndarray, *, scale: float = 100.0, sigma: float = 0.8, smallest: int = 20
) -> np.ndarray:
    """Felzenszwalb and Huttenlocher 2004: segments of a graph of neighbours, merged while the edge between two is
    no stronger than what each has inside.

    scale: their k, larger is coarser (of colours in [0, 255]). sigma: of the Gaussian before, in pixels.
    smallest: pixels; segments below are merged with a neighbour.
    """
    return segmentation.felzenszwalb(image, scale=scale, sigma=sigma, min_size=smallest, channel_axis=-1)


def watershed(
    image: np.ndarray, *, segments: int = 250, compactness: float = 0.0, sigma: float = 1.0
) -> np.ndarray:
    """Flooding of the gradient of L (Vincent and Soille 1991) from markers (Meyer and Beucher 1990), a grid of
    about `segments`.

    compactness: above 0 evens out the segments' sizes (Neubert and Protzel 2014). sigma: of a Gaussian before.
    """
    height, width = image.shape[:2]
    gradient = sobel(gaussian(lab(image)[..., 0], sigma))
    return segmentation.watershed(gradient, min(segments, height * width), compactness=compactness) - 1


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "kmeans": kmeans,
    "mean_shift": mean_shift,
    "slic": slic,
    "felzenszwalb": felzenszwalb,
    "watershed": watershed,
}


def lab(image: np.ndarray) -> np.ndarray:
    """uint8 RGB [..., H, W, 3] -> float32 CIE L*a*b* of the same shape, L from 0 to 100."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def means(features: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Mean of the features [N, D] with each number 0, 1, ... of int [N]: float32 [numbers, D]."""
    counts = np.bincount(numbers)
    sums = [np.bincount(numbers, weights=column) for column in features.T]
    return (np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]).astype(np.float32)
