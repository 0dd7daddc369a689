"""Batch norm over all processes (Peng et al. 2018, MegDet, section 3.2), on processors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce


class HostSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What nn.SyncBatchNorm computes, which torch has for GPUs only: there DDP refuses it on a processor, and its
    kernels too. Two sums travel a layer and pass, one for the means and one for the variances.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not distributed.is_initialized():
            return super().forward(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        count = all_reduce(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = all_reduce(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(axes)) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
                share = 0.1 if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * count / (count - 1), share)
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        return normal if self.weight is None else normal * self.weight.view(shape) + self.bias.view(shape)


class HostSyncBatchNormAct(HostSyncBatchNorm):
    """As timm's SyncBatchNormAct, with the dropout and the activation that were in its BatchNormAct2d."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))  # type: ignore[operator]


@contextmanager
def on_the_host(model: nn.Module) -> Iterator[None]:
    """Inside, a model's synchronized batch norms compute on the processor; their weights and their keys stay."""
    found = [layer for layer in model.modules() if isinstance(layer, nn.SyncBatchNorm)]
    kinds: list[Any] = [type(layer) for layer in found]
    for layer in found:
        # By its part, as timm is a second that other networks need not wait for.
        layer.__class__ = HostSyncBatchNormAct if hasattr(layer, "act") else HostSyncBatchNorm  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer, kind in zip(found, kinds, strict=True):
            layer.__class__ = kind
