"""What training holds in memory, predicted on the meta device.

A step is run on tensors without values, and every storage is watched from its birth to its end: what autograd
keeps is seen, and not guessed from the layers. In float32.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from paribus.models.meta import on_meta
from paribus.profile.complexity import fitting, forward

Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@dataclass(kw_only=True)
class Footprint:
    """Bytes that training holds.

    parameters: with the buffers. gradients: of the parameters that are trained. states: of the optimizer.
    activations: what autograd keeps between forward and backward, the images and the answer among it.
    activation_gradients: the most of them that are alive at once; each is freed when it has been used.
    """

    parameters: int
    gradients: int
    states: int
    activations: int
    activation_gradients: int

    @property
    def total(self) -> int:
        """Their sum, which a step does not pass: activations go as the gradients come."""
        return sum(vars(self).values())


def footprint(
    model: nn.Module, size: tuple[int, int], in_channels: int, batch_size: int, optimizer: Optimizer
) -> Footprint:
    """Of a training step on `batch_size` images of `size` (H, W), without the loss's own.

    Attention counts in its plain form, which keeps tokens x tokens values; fused kernels keep less. A detector
    is what its `raw` computes. Workspaces of convolutions and an allocator's waste are not in it.

    Raises ValueError where the network does not take such images.
    """
    meta = on_meta(model).train()
    trained = [p for p in meta.parameters() if p.requires_grad]
    watch = _Watch()
    with fitting(model, size) as able, watch:
        forward(meta)(torch.zeros(batch_size, in_channels, *size, device="meta"))
        answers = watch.answers()
        kept = watch.alive()
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(lambda p: watch.ours.add(watch.number(p.grad)))
        loss(answers).backward()
    if not able:
        raise ValueError(f"{type(model).__name__} needs values to run: its memory cannot be predicted")
    gradients = total_bytes(trained)
    return Footprint(
        parameters=total_bytes([*meta.parameters(), *meta.buffers()]),
        gradients=gradients,
        states=states(optimizer) * gradients,
        activations=sum(kept.values()),
        activation_gradients=watch.peak(without=watch.ours | kept.keys()),
    )


def loss(answer: Any) -> Tensor:
    """A number with a gradient for every value of an answer, where the task's loss is beside the point."""
    return torch.stack([t.mean() for t in tree_leaves(answer) if isinstance(t, Tensor)]).sum()


def states(optimizer: Optimizer) -> int:
    """Values that an optimizer keeps for each parameter (SGD 0, with momentum 1, Adam 2), from one step."""
    parameter = nn.Parameter(torch.zeros(2, 3, device="cpu"))
    made = optimizer([parameter])
    parameter.grad = torch.ones_like(parameter)
    made.step()
    kept = made.state[parameter].values()
    return sum(isinstance(value, Tensor) and value.shape == parameter.shape for value in kept)


def total_bytes(tensors: list[Any]) -> int:
    """Of all tensors, one that comes twice counted once."""
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


class _Watch(TorchDispatchMode):
    """The births and ends of all storages, in order: (number, bytes), the bytes negative at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, int]] = []
        self.numbers: dict[int, int] = {}  # of the storages that live, by their address
        self.ours: set[int] = set()  # gradients of parameters, which are counted apart
        self.unused: dict[int, Tensor] | None = {}  # results that no operation has taken yet

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        result = func(*args, **(kwargs or {}))
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        inside = {t.untyped_storage()._cdata for t in inputs}
        for tensor in outputs:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.numbers and storage._cdata not in inside:
                self._born(storage)
        if (
            self.unused is not None and func.overloadpacket.__name__ != "detach"
        ):  # by which autograd keeps one
            for tensor in inputs:
                self.unused.pop(id(tensor), None)
            self.unused |= {id(tensor): tensor for tensor in outputs}
        return result

    def answers(self) -> list[Tensor]:
        """What the forward pass ends with, and losses begin with: of a detector more than it returns."""
        found = [tensor for tensor in (self.unused or {}).values() if tensor.requires_grad]
        self.unused = None
        return found

    def _born(self, storage: Any) -> None:
        number, size, address = len(self.events), storage.nbytes(), storage._cdata
        self.numbers[address] = number
        self.events.append((number, size))
        weakref.finalize(storage, self._ended, number, size, address)

    def _ended(self, number: int, size: int, address: int) -> None:
        self.events.append((number, -size))
        if self.numbers.get(address) == number:
            del self.numbers[address]

    def number(self, tensor: Any) -> int:
        return self.numbers.get(tensor.untyped_storage()._cdata, -1)

    def alive(self) -> dict[int, int]:
        sizes: dict[int, int] = {}
        for number, size in self.events:
            sizes[number] = sizes.get(number, 0) + size
        return {number: size for number, size in sizes.items() if size}

    def peak(self, without: set[int]) -> int:
        now = most = 0
        for number, size in self.events:
            now += 0 if number in without else size
            most = max(most, now)
        return most
