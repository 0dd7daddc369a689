"""Where samples come from, and who reads them: files, a packed copy, the device's own memory."""

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from paribus.data.batches import Loader, Samples, collate
from paribus.data.packed import Packed, pack
from paribus.data.resident import TARGETS, ResidentLoader, fits
from paribus.data.samples import Reader, Split
from paribus.data.threads import ThreadLoader
from paribus.data.transforms import Transform

AnyLoader = DataLoader | ThreadLoader | ResidentLoader


class Tiers:
    """Makes loaders of samples; whatever they come from, the batches are the same, bit for bit.

    The keys are those of `DataModule`, which has them from the config.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        num_workers: int,
        workers: Literal["auto", "threads", "processes"],
        cache: Literal["none", "ram", "disk"],
        cache_side: int | None,
        cache_folder: str | None,
        resident: bool | Literal["auto"],
        planes: bool = False,
    ):
        self.planes = planes  # whether what learns wants images channel by channel, and not pixel by pixel
        self.reader, self.num_workers, self.workers = reader, num_workers, workers
        self.cache, self.cache_side, self.cache_folder, self.resident = (
            cache,
            cache_side,
            cache_folder,
            resident,
        )
        self.packed: dict[tuple[str, Any], Packed] = {}

    def split(
        self,
        name: str,
        split: Split,
        transform: Transform,
        *,
        indices: np.ndarray,
        search: dict[str, Any] | None = None,
    ) -> Split:
        """A split as it is read, or packed: then only the samples `indices` of it.

        transform: what it is for. search: how its proposals were searched.

        ValueError where images are cached that a transform wants as they are in their files.
        """
        if self.cache == "none":
            return split
        if transform.before and self.cache_side is None:
            raise ValueError(
                f"`data.cache={self.cache}` holds fitted images, and `augmentation.before_resize` sees them as they "
                "are in their files: data.cache_side=256 (pixels of the shorter side that it then sees), or "
                "data.cache=none"
            )
        whole = bool(transform.before)  # what comes before the resize is still to come
        fitted = Transform(
            target=transform.target,
            size=None if whole else transform.size,
            fit=transform.fit,
            native=transform.native,
            side=self.cache_side if whole else None,
        )
        known = (name, fitted.size)
        if known not in self.packed:
            self.packed[known] = pack(
                self.reader,
                split,
                fitted,
                where=self.cache,
                indices=indices,
                search=search,
                folder=self.cache_folder,
                processes=self.num_workers or torch.get_num_threads() - 1,
            )
        return self.packed[known]

    def loader(self, samples: Samples, order: Any, *, batch_size: int, device: torch.device) -> AnyLoader:
        """order: of keys of the samples; a sampler, or a range."""
        if not self._stay(samples, device):
            return self._reading(samples, order, batch_size=batch_size)
        read = partial(self._reading, samples, batch_size=batch_size)
        return ResidentLoader(samples, read, batch_size=batch_size, sampler=order, device=device)

    def _stay(self, samples: Samples, device: torch.device) -> bool:
        """Whether the samples are kept on the device; ValueError where they should and cannot."""
        transform = samples.transform
        training = samples.seed is not None
        drawn = training and bool(transform.before or transform.after or samples.mosaics)
        able = (
            transform.target in TARGETS and transform.size is not None and not drawn and not transform.native
        )
        if self.resident is True and training and not able:
            raise ValueError(
                "`data.resident=true` is for labels and fitted masks, images of one size (data.size), and no change "
                "that is drawn on the host: augmentation=on_device, data.mosaic=0, or data.resident=auto"
            )
        small = self.resident is True or fits(len(samples), transform.size or (0, 0), device)
        return bool(self.resident) and able and small

    def _reading(self, samples: Samples, order: Any, *, batch_size: int) -> DataLoader | ThreadLoader:
        transform = samples.transform
        busy = samples.seed is not None and bool(transform.before or transform.after)
        made_up = not hasattr(samples.split, "files") and self.cache == "none"
        threads = self.workers == "threads" or (self.workers == "auto" and not (busy or made_up))
        pinned = torch.cuda.is_available()
        if self.num_workers and threads:
            return ThreadLoader(
                samples,
                batch_size=batch_size,
                sampler=order,
                threads=self.num_workers,
                pin_memory=pinned,
                planes=self.planes,
            )
        return Loader(
            samples,
            batch_size=batch_size,
            sampler=order,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=partial(collate, native=transform.native),
            pin_memory=pinned,
        )
