"""Batches read by threads, into memory that is used again."""

import copy
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import cv2
import torch

from paribus.data.batches import Samples, collate
from paribus.data.samples import Sample

AHEAD = 2  # batches that are read while one is trained on
HELD = 2  # batches that whoever asked for them may still look at


class ThreadLoader:
    """What a DataLoader gives, with threads in the place of worker processes.

    OpenCV and numpy let other threads run while they decode, resize and copy, so nothing has to be sent from process
    to process, nothing is started at an epoch, and an image is written once, into a batch of memory that stays where
    it is (pinned, for a GPU to copy from). Where Python itself is busy, with augmentations, processes are faster.
    The samples, their order and what is drawn for them are those of a DataLoader, for any number of threads. After two
    further batches the images of a batch are written over: take a copy of what is to be kept.

    planes: images lie channel by channel in memory, and not pixel by pixel as they are read: the threads do in passing
    what takes torch as long as all else that is done to a batch.
    """

    batch_sampler = None  # Lightning asks whether there is one

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        sampler: Any,
        threads: int,
        pin_memory: bool,
        planes: bool = False,
    ):
        self.planes = planes
        self.samples, self.batch_size, self.sampler = samples, batch_size, sampler
        self.threads, self.pin_memory = threads, pin_memory
        self.native = samples.transform.native
        self.size = samples.transform.size
        self.slots: list[_Slot] = []

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        keys, mine = iter(self.sampler), threading.local()
        waiting: deque[tuple[_Slot | None, list[Future[list[Sample]]]]] = deque()
        self._make_slots()
        free, held = deque(self.slots), deque[_Slot]()

        def read(keys: list[Any], slot: "_Slot | None", start: int) -> list[Sample]:
            if not hasattr(mine, "samples"):  # a transform holds its generator: one a thread
                mine.samples = copy.copy(self.samples)
                mine.samples.transform = copy.deepcopy(self.samples.transform)
            found = []
            for place, key in enumerate(keys, start):
                sample = mine.samples[key]
                if slot is not None:
                    slot.put(place, sample)
                found.append(sample)
            return found

        with ThreadPoolExecutor(self.threads) as pool:

            def begin() -> None:
                batch = list(islice(keys, self.batch_size))
                if not batch:
                    return
                slot = free.popleft() if free else None
                if slot is not None:
                    slot.wait()
                each = -(-len(batch) // self.threads)
                starts = range(0, len(batch), each)
                parts = [pool.submit(read, batch[at : at + each], slot, at) for at in starts]
                waiting.append((slot, parts))

            try:
                for _ in range(AHEAD):
                    begin()
                while waiting:
                    slot, parts = waiting.popleft()
                    found = [sample for part in parts for sample in part.result()]
                    begin()
                    yield collate(found, self.native, slot.images(len(found)) if slot else None)
                    if slot is not None:
                        held.append(slot)
                        if len(held) > HELD:
                            free.append(held.popleft().copied())
            finally:
                pool.shutdown(cancel_futures=True)

    def _make_slots(self) -> None:
        """Where every image is of one size; else each batch takes memory of its own."""
        if not self.slots and self.size is not None:
            self.slots = [
                _Slot(self.batch_size, self.size, self.pin_memory, self.planes)
                for _ in range(AHEAD + 1 + HELD + 1)
            ]


class _Slot:
    """Memory for the images of a batch, uint8: as planes [B, 3, H, W], or [B, H, W, 3]."""

    def __init__(self, batch_size: int, size: tuple[int, int], pin_memory: bool, planes: bool):
        shape = (batch_size, 3, *size) if planes else (batch_size, *size, 3)
        self.size, self.planes = (*size, 3), planes
        self.buffer = torch.empty(shape, dtype=torch.uint8, pin_memory=pin_memory)
        self.array, self.filled = self.buffer.numpy(), [False] * batch_size
        self.event = torch.cuda.Event() if pin_memory else None

    def put(self, place: int, sample: Sample) -> None:
        self.filled[place] = sample.image.shape == self.size
        if not self.filled[place]:
            return
        if self.planes:
            cv2.split(sample.image, list(self.array[place]))
        else:
            self.array[place] = sample.image

    def images(self, number: int) -> torch.Tensor | None:
        """[B, 3, H, W]; None where an augmentation has changed a size."""
        if not all(self.filled[:number]):
            return None
        return self.buffer[:number] if self.planes else self.buffer[:number].permute(0, 3, 1, 2)

    def copied(self) -> "_Slot":
        """The GPU's copy of it has been asked for by now, and may not be made yet."""
        if self.event is not None:
            self.event.record()
        return self

    def wait(self) -> None:
        if self.event is not None:
            self.event.synchronize()
