"""Losses that are summed on the device while it trains.

Nothing goes through ``self.log`` in a training step: each call costs 0.3 ms, whatever ``log_every_n_steps`` says. The
sums are written every ``log_every`` steps, the only moments at which the host waits for the device.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor


class Summed(LightningModule, ABC):
    """What Lightning trains, with the sums of its losses since the last row of the log.

    log_every: optimizer steps between two rows.
    """

    def __init__(self, log_every: int):
        super().__init__()
        self.log_every = log_every
        self.sums: dict[str, Tensor] = {}
        self.summed = 0
        # The losses and the ids of each batch since then.
        self.recent: list[tuple[dict[str, Tensor], list[str]]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes every hook that it enters and leaves, 40 times a step, and a module looks each time whether
        # that is a parameter: 0.1 ms.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def add(self, losses: dict[str, Tensor], ids: list[str]) -> Tensor:
        """The sum of a batch's named losses, of one shape, which is noted with them."""
        several = len(losses) > 1
        loss = torch.stack(list(losses.values())).sum(0) if several else next(iter(losses.values()))
        named = {"loss": loss, **(losses if several else {})}
        values = {name: value.detach() for name, value in named.items()}
        for name, value in values.items():
            kept = self.sums.get(name)
            self.sums[name] = value if kept is None else kept + value
        self.summed += 1
        self.recent.append((values, ids))
        return loss

    @abstractmethod
    def flush(self) -> None:
        """Writes the mean losses since the last row; raises DivergedError if they are not finite."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._flush_if_due()

    def on_train_epoch_end(self) -> None:
        self.flush()

    def _flush_if_due(self) -> None:
        if self.summed >= self.log_every * self.trainer.accumulate_grad_batches:
            self.flush()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._flush_if_due()  # checkpoints are written before on_train_batch_end comes to this module
        # What is lost is not kept for a run to go on from. Several processes find out together, in flush().
        if self.trainer.world_size == 1 and not all(value.isfinite().all() for value in self.sums.values()):
            self.flush()
        checkpoint["sums"], checkpoint["summed"] = self.sums, self.summed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.sums, self.summed = checkpoint["sums"], checkpoint["summed"]
