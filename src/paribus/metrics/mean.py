"""The mean of a loss over a set."""

import torch
from torch import Tensor
from torchmetrics import Metric


class WeightedMean(Metric):
    """Mean of values weighted by the samples they stand for, over all batches and processes.

    torchmetrics' MeanMetric looks for NaN on the host at every update, a wait for the device; told not to
    (``nan_strategy="disable"``, 1.9), it forgets the weights.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: int) -> None:
        self.total = self.total + value.double() * weight
        self.weight = self.weight + weight

    def compute(self) -> Tensor:
        return self.total / self.weight
