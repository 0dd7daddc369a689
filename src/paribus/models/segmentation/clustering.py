"""Segmentation by clustering: what the lectures teach before any network, and the baseline below all of them."""

import inspect
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, NoReturn

import numpy as np
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from paribus.models.segmentation.segments import METHODS, lab, means

Method = Literal["kmeans", "mean_shift", "slic", "felzenszwalb", "watershed"]
IGNORED = 255
FEATURES = 5  # L, a, b, y, x


class NoBackbone(nn.Module):
    """In the place of a backbone, for a model that sees the pixels themselves."""

    @property
    def channels(self) -> NoReturn:
        """Raises ValueError, as all that asks for maps."""
        raise ValueError(
            "backbone=none has no maps and goes with model=clustering only: choose another backbone"
        )

    strides = embedding = embed = dense = channels


class Clustering(nn.Module):
    """normalized images [B, C, H, W] -> log of the share of each class [B, num_classes, H, W].

    An image is cut into segments (`method`, see segments.py; on the CPU, a thread an image). Each segment's mean
    colour and place finds the nearest of the `prototypes`, and has its classes: the shares that they have among
    the training pixels nearest to it. The largest is the majority class. `fit` finds the prototypes; the
    parameters are they and their classes, and no gradient reaches them.

    mean, std: that the images are normalized with.
    prototypes: number of them.
    position: weight of a place; the image's height and its width each count as so many steps of L, which has 100.
    spacing: pixels between those that are learned from, in both directions.
    segments, compactness, sigma, scale, smallest, spatial_radius, color_radius: the method's own keys; None is its
        default. A key that the method does not have is refused.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        num_classes: int,
        method: Method,
        mean: Sequence[float],
        std: Sequence[float],
        prototypes: int = 1024,
        position: float = 50.0,
        spacing: int = 8,
        segments: int | None = None,
        compactness: float | None = None,
        sigma: float | None = None,
        scale: float | None = None,
        smallest: int | None = None,
        spatial_radius: float | None = None,
        color_radius: float | None = None,
    ):
        super().__init__()
        if not isinstance(backbone, NoBackbone):
            raise ValueError("model=clustering sees the pixels themselves: backbone=none")
        if prototypes < 1 or spacing < 1 or position < 0:
            raise ValueError(
                f"model.prototypes={prototypes}, spacing={spacing}, position={position}: 1, 1 and 0 or more"
            )
        given = {
            "segments": segments,
            "compactness": compactness,
            "sigma": sigma,
            "scale": scale,
            "smallest": smallest,
            "spatial_radius": spatial_radius,
            "color_radius": color_radius,
        }
        keys = {key: value for key, value in given.items() if value is not None}
        own = list(inspect.signature(METHODS[method]).parameters)[1:]
        for key, value in keys.items():
            if key not in own:
                raise ValueError(
                    f"model.{key}={value}: {method} has no such key, its own are {', '.join(own)}"
                )
            zero = key == "sigma" or (key == "compactness" and method != "slic")
            if value < 0 or (value == 0 and not zero):
                raise ValueError(f"model.{key}={value}: {'0 or more' if zero else 'above 0'}")
        self.backbone = backbone
        self.segment = partial(METHODS[method], **keys)
        self.position, self.spacing = position, spacing
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)
        self.prototypes = nn.Parameter(torch.zeros(prototypes, FEATURES), requires_grad=False)
        self.classes = nn.Parameter(torch.zeros(prototypes, num_classes), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        prototypes, classes = self.prototypes.cpu().numpy(), self.classes.float()

        def nearest(image: np.ndarray) -> np.ndarray:
            """The prototype of each pixel, int [H, W]."""
            numbers = self.segment(image)
            centres = means(self._features(image).reshape(-1, FEATURES), numbers.ravel())
            return cdist(centres, prototypes).argmin(1)[numbers]

        # OpenMP's number of threads is the calling thread's own: the images are the threads.
        single = partial(threadpool_limits, 1, "openmp")
        with ThreadPoolExecutor(min(torch.get_num_threads(), len(images)), initializer=single) as threads:
            found = np.stack(list(threads.map(nearest, self._pixels(images))))
        return classes[torch.from_numpy(found).to(classes.device)].permute(0, 3, 1, 2)

    def draw(self, images: Tensor, masks: Tensor) -> Tensor:
        """Of a training batch what `fit` needs: float32 [N, 6] on the CPU, the features and the class of the pixels
        on a grid, without the ignored."""
        start = self.spacing // 2
        grid = (..., slice(start, None, self.spacing), slice(start, None, self.spacing))
        features = np.stack([self._features(image) for image in self._pixels(images)])
        labels = masks[grid].cpu()
        places = torch.from_numpy(np.moveaxis(features, -1, 1))[grid].movedim(1, -1)
        drawn = torch.cat([places, labels[..., None].float()], dim=-1)
        return drawn[labels != IGNORED]

    def fit(self, drawn: Tensor, seed: int) -> None:
        """Prototypes by k-means (Sculley 2010, in batches), and their classes, from what `draw` gave of the whole
        training set, in whatever order.

        Raises ValueError for fewer pixels than prototypes.
        """
        if len(drawn) < len(self.prototypes):
            raise ValueError(
                f"model.prototypes={len(self.prototypes)}, but {len(drawn)} labelled pixels were drawn from the "
                "training set: fewer prototypes, or a smaller model.spacing"
            )
        rows = drawn.numpy()
        rows = rows[np.lexsort(rows.T)]  # k-means draws by place in the list
        features, labels = rows[:, :FEATURES], rows[:, FEATURES].astype(int)
        count, classes = self.classes.shape
        with threadpool_limits(1):  # sums of other threads differ in the last digits
            clusters = MiniBatchKMeans(count, batch_size=4096, n_init=1, random_state=seed).fit(features)
        pairs = np.bincount(clusters.labels_ * classes + labels, minlength=count * classes)
        # Smoothed by one pixel of the whole set's frequencies: no share is 0, and no prototype without a vote.
        whole = np.bincount(labels, minlength=classes) + 1
        seen = pairs.reshape(count, classes) + whole / whole.sum()
        shares = np.log(seen / seen.sum(1, keepdims=True))
        self.prototypes.copy_(torch.from_numpy(clusters.cluster_centers_))
        self.classes.copy_(torch.from_numpy(shares))

    def _pixels(self, images: Tensor) -> np.ndarray:
        """The images before they were normalized: uint8 RGB [B, H, W, 3], gray ones too."""
        pixels = images.detach().float().cpu().numpy().transpose(0, 2, 3, 1) * self.std + self.mean
        pixels = np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:3], 3)))

    def _features(self, image: np.ndarray) -> np.ndarray:
        """Colour and place of every pixel, float32 [H, W, 5]: L, a, b, and y and x from 0 to `position`."""
        height, width = image.shape[:2]
        y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) * (self.position / height)
        x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) * (self.position / width)
        y, x = np.broadcast_arrays(y, x)
        return np.concatenate([lab(image), np.stack([y, x], axis=-1)], axis=-1)
