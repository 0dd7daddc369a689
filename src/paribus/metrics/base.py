"""What the metrics share: a table of the classes, a matrix of counts, collected samples."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class SetMetric(Metric):
    """What the four share: the classes, and a table that ``compute`` leaves behind."""

    full_state_update = False

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self._columns: dict[str, list] = {}

    def reset(self) -> None:
        # Lightning resets in inference mode; counts made there could not be added to outside of it.
        with torch.inference_mode(False):
            super().reset()

    def per_class(self) -> dict[str, list]:
        """One list a column, one entry a class, over all processes; NaN where not defined."""
        self.compute()  # torchmetrics keeps the result until the next update
        return {"class": list(self.classes), **self._columns}


class ConfusionMetric(SetMetric):
    """Counts pairs of truth and prediction in one int64 matrix ``[rows, C]``, kept flat."""

    counts: Tensor
    _confusion: Tensor

    def __init__(self, classes: Sequence[str], rows: int) -> None:
        super().__init__(classes)
        self.add_state("counts", torch.zeros(rows * len(self.classes), dtype=torch.int64), "sum")

    @property
    def confusion(self) -> Tensor:
        """int64 ``[C, C]`` on the CPU, over all processes: rows are the truth, columns the predictions."""
        self.compute()
        return self._confusion

    def _count(self, prediction: Tensor, target: Tensor) -> None:
        index = target.flatten().long().mul(len(self.classes)).add_(prediction.flatten())
        # One 1 for all: reading as many as there are pixels takes three times as long.
        self.counts.scatter_add_(0, index, self.counts.new_ones(()).expand_as(index))

    def _sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """float64 ``[C]``: how often each class was hit, true and predicted."""
        classes = len(self.classes)
        self._confusion = self.counts.reshape(-1, classes)[:classes].cpu()
        matrix = self._confusion.double()
        return matrix.diagonal(), matrix.sum(1), matrix.sum(0)


class CollectingMetric(SetMetric):
    """For values that need every sample: list states, gathered whatever number of them a process holds."""

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        # torchmetrics' own gathers one list entry after another, and so waits for ever, or fails, where
        # processes hold different numbers of entries or none.
        group = process_group or self.process_group
        for name in self._defaults:
            tensors: list[Tensor] = getattr(self, name)
            mine = (torch.cat(tensors).cpu() if tensors else None, [len(t) for t in tensors])
            parts: list[Any] = [None] * torch.distributed.get_world_size(group)
            torch.distributed.all_gather_object(parts, mine, group=group)
            splits = [joined.split(lengths) if lengths else () for joined, lengths in parts]
            # Process r of n holds the samples r, r + n, ...: this is the order of one process, which decides
            # between detections of equal score.
            setattr(self, name, [t for row in zip_longest(*splits) for t in row if t is not None])
