"""The checkpoints of a stack: of each network a file, the same that it would have alone."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from paribus.callbacks import Checkpoint
from paribus.checkpoints import WholeFiles


class CheckpointOf(Checkpoint):
    """Keeps the checkpoints of the network at a place of the stack, by the metrics of that one."""

    def __init__(self, place: int, **kept: Any):
        super().__init__(**kept)
        self.prefix = f"{place}/"

    @property
    def state_key(self) -> str:
        """As it is alone."""
        return super().state_key.replace(type(self).__qualname__, Checkpoint.__qualname__, 1)

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        found = super()._monitor_candidates(trainer)
        mine = _under(self.prefix, found)
        return mine | {name: found[name] for name in ("epoch", "step")}


def _passed_on(name: str) -> Any:
    def hook(self: Any, *given: Any, **named: Any) -> None:
        for callback in itertools.chain(*self.each):
            getattr(callback, name)(*given, **named)

    return hook


class OfEach(Callback):
    """What keeps the checkpoints of each network, as one callback: Lightning asks every one a dozen times a step.

    each: a list for each network.
    """

    def __init__(self, each: Sequence[Sequence[Checkpoint]]):
        self.each = each

    setup = _passed_on("setup")
    on_train_start = _passed_on("on_train_start")
    on_train_batch_end = _passed_on("on_train_batch_end")
    on_train_epoch_end = _passed_on("on_train_epoch_end")
    on_train_end = _passed_on("on_train_end")
    on_validation_end = _passed_on("on_validation_end")
    on_exception = _passed_on("on_exception")
    on_load_checkpoint = _passed_on("on_load_checkpoint")

    def state_dict(self) -> dict[str, Any]:
        return {"each": [{one.state_key: one.state_dict() for one in callbacks} for callbacks in self.each]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for callbacks, states in zip(self.each, state_dict["each"], strict=True):
            for callback in callbacks:
                if callback.state_key in states:
                    callback.load_state_dict(states[callback.state_key])


class FilesOfEach(WholeFiles):
    """Writes into the folder of a network what is that network's, and reads all their files as one."""

    def __init__(self, folders: Sequence[Path]):
        super().__init__()
        self.folders = [folder / "checkpoints" for folder in folders]

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        place = self.folders.index(Path(path).parent)
        super().save_checkpoint(part(checkpoint, place), path, storage_options)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        files = (folder / Path(path).name for folder in self.folders)
        return joined([super(FilesOfEach, self).load_checkpoint(file, *args, **kwargs) for file in files])


def part(checkpoint: dict[str, Any], place: int) -> dict[str, Any]:
    """Of a stack's checkpoint what is the network's at a place."""
    return {
        **checkpoint,
        "state_dict": _under(f"tasks.{place}.", checkpoint["state_dict"]),
        "callbacks": checkpoint["callbacks"][OfEach.__qualname__]["each"][place],
        "optimizer_states": [
            {**optimizer, "state": {i: _mapped(lambda v: v[place], s) for i, s in optimizer["state"].items()}}
            for optimizer in checkpoint["optimizer_states"]
        ],
        "sums": {name: value[place] for name, value in checkpoint["sums"].items()},
    }


def joined(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The checkpoint of a stack, of those of its networks, which stand at one step."""
    first = each[0]
    optimizers = []
    for number, optimizer in enumerate(first["optimizer_states"]):
        states = [one["optimizer_states"][number]["state"] for one in each]
        kept = {
            i: {name: _joined(name, [s[i][name] for s in states]) for name in state}
            for i, state in optimizer["state"].items()
        }
        optimizers.append({**optimizer, "state": kept})
    return {
        **first,
        "state_dict": {
            f"tasks.{i}.{k}": v for i, one in enumerate(each) for k, v in one["state_dict"].items()
        },
        "callbacks": {OfEach.__qualname__: {"each": [one["callbacks"] for one in each]}},
        "optimizer_states": optimizers,
        "sums": {name: torch.stack([one["sums"][name] for one in each]) for name in first["sums"]},
    }


def _under(prefix: str, named: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def _mapped(change: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Of a weight's state in the optimizer; `step` counts for all."""
    return {k: change(v) if isinstance(v, Tensor) and k != "step" else v for k, v in state.items()}


def _joined(name: str, values: list[Any]) -> Any:
    return torch.stack(values) if isinstance(values[0], Tensor) and name != "step" else values[0]
