"""The one data module, for all tasks: reader -> samples -> batches on the device.

Three promises are kept here. A seed repeats exactly, with any number of workers and processes: order
and augmentation are functions of (seed, epoch, index) and of nothing else. A resumed run sees exactly
the batches it had not seen. Evaluation counts every sample once, however many processes share it.
"""

import logging
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from paribus.data.batched import augmented, keys
from paribus.data.batches import Order, Samples
from paribus.data.frequencies import Frequencies, count
from paribus.data.remembered import remembered
from paribus.data.samples import DataError, Problem, Reader, Split, Target
from paribus.data.scales import drawn_size, need_sizes, resize_batch
from paribus.data.tiers import AnyLoader, Tiers
from paribus.data.transforms import Transform

log = logging.getLogger(__name__)
EMPTY: tuple = (torch.empty(0, 3, 1, 1, dtype=torch.uint8), [], [])  # a batch without a sample


class DataModule(LightningDataModule):
    """Batches of ``(images, targets, ids)``.

    Images arrive at the model as float ``[B, 3, H, W]`` (``[B, 1, H, W]`` with ``channels=1``),
    normalized on the device; until there they are uint8. Targets: int64 ``[B]`` (label), float
    ``[B, C]`` (labels), int64 ``[B, H, W]`` with 255 ignored (mask), a list of dicts (boxes). Images
    of unequal size are padded to the batch's largest, masks with 255. Judged at their native size, masks
    come as a list of int64 ``[H, W]``, and no number depends on the size of the batch.

    Args:
        batch_size: images of one optimizer step, over all processes and accumulated parts.
        judged_batch_size: images of one forward pass of one process for val and test, which take less memory than
            in training; None: as many as there.
        size: (H, W) the network sees; None keeps every image's own.
        fit: how an image of another size gets there: stretched, cropped or padded.
        judge_at: of masks, for val and test: fitted as the images are, or native, untouched: then the answer
            is brought back to the mask's size. Boxes are always judged native, against all of the file's.
        mean, std: of the training images scaled to [0, 1], one number a channel.
        num_workers: that read beside the process that trains; 0: none.
        workers: what they are; auto: threads, but processes where augmentations or made-up scenes keep Python busy.
        cache: samples are read and fitted once, and then taken from memory (ram) or from one packed copy that all runs
            share (disk), see packed.py. What is learned is the same, bit for bit.
        cache_side: where augmentations see images before the resize, the cache holds them shrunk to this shorter
            side, in pixels, and they see those.
        cache_folder: of the packed copies; None: in the user's cache folder.
        resident: what has been read stays on the device and is not read again, see resident.py; auto: where nothing
            is drawn for it on the host, images are of one size, and they are few enough. What is learned is the same.
        on_error: stop before training, or skip, the samples that cannot be used.
        verify: read every file once before the first training on it.
        train_fraction: share of the training samples that is used, chosen by the seed.
        mosaic: of boxes and masks, the probability that a training sample is joined with three others, see mosaic.py.
        scales: (least, largest) factor on the size of a training batch, drawn for each step, see scales.py.
    """

    def __init__(
        self,
        *,
        reader: Reader,
        batch_size: int,
        judged_batch_size: int | None = None,
        mean: list[float],
        std: list[float],
        size: tuple[int, int] | None = None,
        fit: Literal["stretch", "crop", "pad"] = "stretch",
        judge_at: Literal["fitted", "native"] = "fitted",
        channels: Literal[1, 3] = 3,
        num_workers: int = 0,
        workers: Literal["auto", "threads", "processes"] = "auto",
        cache: Literal["none", "ram", "disk"] = "none",
        cache_side: int | None = None,
        cache_folder: str | None = None,
        resident: bool | Literal["auto"] = "auto",
        on_error: Literal["stop", "skip"] = "stop",
        verify: bool = True,
        train_fraction: float = 1.0,
        mosaic: float = 0.0,
        scales: tuple[float, float] | None = None,
        augmentation: dict[str, list] | None = None,
        seed: int = 0,
        channels_last: bool = False,
    ):
        super().__init__()
        if len(mean) != channels or len(std) != channels:
            raise ValueError(
                f"`data.mean` and `data.std` need {channels} numbers, one a channel: {mean}, {std}"
            )
        if not 0 < train_fraction <= 1:
            raise ValueError(f"`data.train_fraction={train_fraction}`: more than 0, at most 1")
        for key, number in (("batch_size", batch_size), ("judged_batch_size", judged_batch_size)):
            if number is not None and number < 1:
                raise ValueError(f"`data.{key}={number}`: 1 or more")
        native = judge_at == "native"
        if native and reader.target != "mask":
            raise ValueError(
                f"`data.judge_at=native` is for masks, and `{reader.target}` is judged: leave it at fitted"
            )
        if native and size and fit == "crop":
            raise ValueError(
                "`data.judge_at=native` judges every pixel, and data.fit=crop cuts some off unseen: "
                "data.fit=stretch or pad, or data.judge_at=fitted"
            )
        if not 0 <= mosaic <= 1:
            raise ValueError(f"`data.mosaic={mosaic}`: a probability, from 0 to 1")
        if mosaic and reader.target not in ("boxes", "mask"):
            raise ValueError(
                f"`data.mosaic={mosaic}` is for boxes and masks, and here is `{reader.target}`: data.mosaic=0"
            )
        if mosaic and not size:
            raise ValueError(f"`data.mosaic={mosaic}` joins images of one size: data.size=[height,width]")
        if scales is not None:
            need_sizes(size, scales)
        self.tiers = Tiers(
            reader,
            num_workers=num_workers,
            workers=workers,
            cache=cache,
            cache_side=cache_side,
            cache_folder=cache_folder,
            resident=resident,
            planes=not channels_last,
        )
        self.mosaic, self.scales = mosaic, scales
        self.reader, self.batch_size, self.num_workers = reader, batch_size, num_workers
        self.judged_batch_size = judged_batch_size
        self.on_error, self.verify, self.train_fraction, self.seed = on_error, verify, train_fraction, seed
        self.channels, self.channels_last = channels, channels_last
        self.size = (size[0], size[1]) if size else None
        self.mean = torch.tensor(mean).mul(255).view(1, -1, 1, 1)
        self.scale = torch.tensor(std).mul(255).reciprocal().view(1, -1, 1, 1)
        augmentation = dict(augmentation or {})
        self.on_device: list[Any] = augmentation.pop("on_device", [])
        target = reader.target
        self._refuse_on_device()
        self.train_transform = Transform(target=target, size=self.size, fit=fit, native=False, **augmentation)  # type: ignore[arg-type]
        # Boxes are always judged in pixels of the file.
        self.eval_transform = Transform(
            target=target, size=self.size, fit=fit, native=native or target == "boxes"
        )
        self.splits: dict[str, Split] = {}
        # How proposals are searched for a detector that takes some, see proposals.py; set when it is built.
        self.search: dict[str, Any] | None = None

    @property
    def target(self) -> Target:
        return self.reader.target

    @property
    def classes(self) -> tuple[str, ...]:
        return self.reader.classes

    def _refuse_on_device(self) -> None:
        names = [type(change).__name__ for change in self.on_device]
        if not all(hasattr(change, "draws") for change in self.on_device):
            raise ValueError(
                f"`augmentation.on_device` holds {', '.join(names)}; it takes those of paribus.data.batched"
            )
        if self.target == "boxes" and not all(change.boxes for change in self.on_device):
            still = [type(change).__name__ for change in self.on_device if not change.boxes]
            raise ValueError(
                f"`augmentation.on_device`: {', '.join(still)} moves images and masks, and here are boxes: "
                "augmentation.on_device=[{_target_: paribus.data.batched.Flip}], say"
            )
        if any(change.moves for change in self.on_device) and self.size is None:
            raise ValueError(
                f"`augmentation.on_device`: {', '.join(names)} need images of one size: data.size=[h,w]"
            )

    # --- the sets ----------------------------------------------------------------------------------

    def open(self, *names: str) -> None:
        """Opens and verifies splits; a set that does not hold what the config says raises DataError."""
        for name in names:
            if name in self.splits:
                continue
            split = self.reader.split(name)
            problems = self._problems(split) if self.verify else []
            if problems and self.on_error == "stop":
                raise DataError(problems)
            if problems:
                log.warning(
                    "%s: %d of %d samples left out (data.on_error=skip)", name, len(problems), len(split)
                )
                split = split.without({p.index for p in problems})
            if not len(split):
                raise DataError(f"the {name} split is empty")
            if self.search is not None:
                from paribus.data.proposals import with_proposals

                indices = self._chosen(split) if name == "train" else np.arange(len(split))
                processes = max(self.num_workers, torch.get_num_threads())
                split = with_proposals(self.reader, split, self.search, indices=indices, processes=processes)
            self.splits[name] = split

    def _chosen(self, split: Split) -> np.ndarray:
        """Of the training samples the indices of those that are used."""
        if self.train_fraction == 1:
            return np.arange(len(split))
        count = max(1, round(len(split) * self.train_fraction))
        return np.sort(np.random.default_rng(self.seed).permutation(len(split))[:count])

    def _problems(self, split: Split) -> list[Problem]:
        """What is wrong with a split; remembered, so that a set is read whole once and not every run."""
        notice = "reading every file once (data.verify=false leaves this out)"
        return [Problem(*row) for row in remembered("verified", self.reader, split, split.problems, notice)]

    def frequencies(self) -> Frequencies:
        """Of the classes in the masks of the training split, as they are stored; remembered.

        Of all of them whatever `train_fraction` and `seed` are, so that these change the samples and nothing
        else.
        """
        self.open("train")
        split = self.splits["train"]
        notice = "counting the classes of the training masks once"
        found = remembered("frequencies", self.reader, split, lambda: count(split, len(self.classes)), notice)
        return Frequencies(*found)

    def fit_judged(self, size: tuple[int, int]) -> None:
        """From now on images that are judged are fitted to another size."""
        before = self.eval_transform
        self.eval_transform = Transform(target=self.target, size=size, fit=before.fit, native=before.native)

    def setup(self, stage: str) -> None:
        self.open(*{"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ()))

    # --- the loaders -------------------------------------------------------------------------------

    def train_dataloader(self) -> AnyLoader:
        split = self.splits["train"]
        chosen = self._chosen(split)
        rank, world = self._share()
        size = self._batch_size()
        order = Order(
            chosen, seed=self.seed, progress=self._progress, batch_size=size, rank=rank, world=world
        )
        if not len(order):
            raise DataError(
                f"{len(chosen)} training samples do not fill one batch of {size * world}: "
                f"data.batch_size={len(chosen) // world * world or 1}"
            )
        # Proposals are there of those that are trained on only.
        indices = np.arange(len(split)) if self.search is None else chosen
        return self._loader("train", indices, self.train_transform, order, self.seed, self.mosaic, chosen)

    def val_dataloader(self) -> AnyLoader:
        return self.eval_dataloader("val")

    def test_dataloader(self) -> AnyLoader:
        return self.eval_dataloader("test")

    def eval_dataloader(self, name: str) -> AnyLoader:
        """Every sample of a split once, in order, this process's share of them; one empty batch if it has none, for
        without any it would not come to where the processes put together what they counted.
        """
        rank, world = self._share()
        order = range(len(self.splits[name]))[rank::world]
        if not order:
            return DataLoader([EMPTY], batch_size=None, collate_fn=tuple)  # type: ignore[arg-type]
        return self._loader(name, np.arange(len(self.splits[name])), self.eval_transform, order, None)

    def _loader(
        self, name: str, indices: np.ndarray, transform: Transform, order: Any, *drawn: Any
    ) -> AnyLoader:
        """drawn: what `Samples` draws by."""
        split = self.tiers.split(name, self.splits[name], transform, indices=indices, search=self.search)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        samples = Samples(split, transform, *drawn)
        images = self._batch_size()
        if transform is self.eval_transform:
            images = self.judged_batch_size or images
        return self.tiers.loader(samples, order, batch_size=images, device=device)

    def _share(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _batch_size(self) -> int:
        """Images of one forward pass of one process."""
        parts = self._share()[1] * (self.trainer.accumulate_grad_batches if self.trainer else 1)
        if self.batch_size % parts:
            raise ValueError(
                f"`data.batch_size={self.batch_size}` does not divide among {parts} devices x accumulated parts: "
                f"data.batch_size={max(1, self.batch_size // parts) * parts}"
            )
        return self.batch_size // parts

    def _progress(self) -> tuple[int, int]:
        """(epoch, batches of it already trained on), from the progress that a checkpoint restored.

        Lightning restores its loops but not a loader's place, and builds the first iterator before it
        calls ``set_epoch`` (Lightning issue 21938); hence this look at its semi-private progress.
        """
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        epoch: Any = loop.epoch_progress.current
        batch: Any = loop.epoch_loop.batch_progress
        if epoch.ready <= epoch.processed:
            return epoch.processed, 0
        if batch.is_last_batch:
            return epoch.processed + 1, 0
        return epoch.processed, batch.current.processed

    # --- on the device -----------------------------------------------------------------------------

    def transfer_batch_to_device(self, batch: tuple, device: torch.device, dataloader_idx: int) -> tuple:
        images, targets, ids = batch  # Lightning would ask each id whether it is a tensor
        return *super().transfer_batch_to_device((images, targets), device, dataloader_idx), ids

    def on_after_batch_transfer(self, batch: tuple, dataloader_idx: int) -> tuple:
        images, targets, ids = batch
        if self.on_device and self.trainer is not None and self.trainer.training:
            drawn = keys(self.seed, self.trainer.current_epoch, ids, images.device)
            images, targets = augmented(images, targets, self.on_device, drawn)
        images = self.normalize(images)
        if self.scales is not None and self.trainer is not None and self.trainer.training:
            # By the step, which a checkpoint restores and every process knows.
            size = drawn_size(images.shape[-2:], self.scales, self.seed, self.trainer.global_step)
            images, targets = resize_batch(images, targets, size)
        return images, targets, ids

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 ``[B, 3, H, W]`` -> float ``[B, channels, H, W]``, normalized."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        result = images.to(torch.float32, memory_format=layout)
        if self.channels == 1:
            result = result.mean(1, keepdim=True)
        if self.mean.device != result.device:  # once: the host would wait for each copy
            self.mean, self.scale = self.mean.to(result.device), self.scale.to(result.device)
        if self.channels_last and result.device.type == "cpu":
            # Row by row: a quarter of the time that three numbers at a time take.
            rows, width = result.permute(0, 2, 3, 1).flatten(2), result.shape[3]
            rows.sub_(self.mean.flatten().repeat(width)).mul_(self.scale.flatten().repeat(width))
            return result
        return result.sub_(self.mean).mul_(self.scale)
