"""What a model costs, in figures that need no clock: parameters, multiply-adds, and a table layer by layer.

All is found by running the model on the meta device, where a tensor has a shape and no values: a large
network takes no memory and no time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from paribus.models.meta import on_meta
from paribus.profile.operations import KINDS, Weights, meaning
from paribus.profile.receptive_field import WHOLE, Field, followed


def count(model: nn.Module, size: tuple[int, int], in_channels: int = 3) -> tuple[int, int | None]:
    """Parameters, and multiply-adds of one image of `size` (H, W): torch's flop counter / 2.

    On the meta device: nothing is computed, and attention is counted, which on a CPU in evaluation mode runs
    as a fused operator that the counter does not know.

    Classifiers and segmenters are counted whole. Detectors: backbone, pyramid and heads (Faster R-CNN's box
    head for the full number of proposals), which is all but the selection of boxes (their `raw`). None for a
    network that cannot run without values.

    Raises ValueError where the network does not take images of this size.
    """
    meta = on_meta(model).eval()
    counter = FlopCounterMode(display=False)
    with fitting(model, size) as able, torch.no_grad(), counter:
        forward(meta)(torch.zeros(1, in_channels, *size, device="meta"))
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, counter.get_total_flops() // 2 if able else None


def forward(model: Any) -> Any:
    """What is run to count: a detector's `raw`, which leaves out the selection of boxes, else the model."""
    return getattr(model, "raw", model)


@contextmanager
def fitting(model: nn.Module, size: tuple[int, int]) -> Iterator[list[bool]]:
    """Turns a network's complaint about the size into a ValueError that names it. The list it gives is empty
    afterwards if the network cannot run without values."""
    able = [True]
    try:
        yield able
    except (RuntimeError, AssertionError) as error:
        if "meta" in str(error):
            able.clear()
            return
        raise ValueError(
            f"{type(model).__name__} does not take images of {size[0]} x {size[1]} (`data.size`; in a profile "
            f"`input_size`): {error}; a timm network tied to one size takes another with `backbone.image_size`"
        ) from error


# --- layer by layer --------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Layer:
    """What one layer makes of one image.

    name: the module's path in the model; with #2, #3 for its further calls.
    kind: one of operations.KINDS; for what a table may leave out the name of the module's class or of the operation.
    kernel, stride, padding, dilation: (rows, columns).
    output: C, H, W of a map; a further dimension in front where a layer sees parts of the image as a batch.
    field: the receptive field in pixels, (rows, columns); inf is the whole image, or what attention mixes; None
        for what the image did not reach (the box head of a detector, which sees boxes cut out of maps).
    jump: pixels between neighbours of the map; None where the field is None or the whole image.
    memory: bytes of the output in float32; 0 if it is written over the input, or is a view of it.
    parameters: those that no layer above it has used.
    macs: multiply-adds, counted once.
    """

    name: str
    kind: str
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    output: tuple[int, ...] = ()
    field: tuple[float, float] | None = None
    jump: tuple[float, float] | None = None
    memory: int = 0
    parameters: int = 0
    macs: int = 0


def layers(model: nn.Module, size: tuple[int, int], in_channels: int = 3) -> list[Layer]:
    """Every layer in the order of computation, for one image of `size` (H, W), in evaluation.

    Parameters and multiply-adds add up to those of `count`. Followed are the operations and not the modules,
    so what a network does by functions is found too; modules give the names.

    Raises ValueError where the network does not take images of this size, or needs values to run.
    """
    meta = on_meta(model).eval()
    images = torch.zeros(1, in_channels, *size, device="meta")
    images.origin = Field((1, 1), (1, 1), size[0] * size[1])  # type: ignore[attr-defined]
    counter = FlopCounterMode(display=False)
    follower = _Follower(meta, counter)
    with fitting(model, size) as able, torch.no_grad(), counter, follower:
        forward(meta)(images)
    if not able:
        raise ValueError(f"{type(model).__name__} needs values to run: there are no layers without")
    return follower.finish()


@dataclass
class _Call:
    """A module at work: its name; its layer, if it is one layer and no container; else its attention."""

    name: str
    layer: Layer | None = None
    is_norm: bool = False
    attention: Layer | None = None


class _Follower(TorchDispatchMode):
    """Sees every operation, knows the module that it belongs to, and marks its results with their origin.

    What torch's FlopCounterMode and the summaries of torchinfo and Lightning lack: operations that are no
    modules, and receptive fields.
    """

    def __init__(self, model: nn.Module, counter: FlopCounterMode):
        super().__init__()
        self.counter = counter
        self.found: list[Layer] = []
        self.calls = [_Call("")]
        self.times: dict[str, int] = {}
        self.unused = dict(model.named_parameters())
        for tensor in model.buffers():
            tensor.origin = Weights()  # type: ignore[attr-defined]
        for name, parameter in self.unused.items():
            parameter.origin = Weights([name])  # type: ignore[attr-defined]
        for name, module in model.named_modules():
            if name:
                module.register_forward_pre_hook(self._entering(name, module))
                module.register_forward_hook(self._leave)

    def _entering(self, name: str, module: nn.Module) -> Any:
        kind = type(module).__name__
        leaf = next(module.children(), None) is None
        # Norms with an activation inside (timm's BatchNormAct2d) are one layer, and blocks named after a norm no norm.
        is_norm = "norm" in kind.lower() and (leaf or bool(module._parameters))

        def enter(*_: Any) -> None:
            layer = self._new(name, "norm" if is_norm else kind) if leaf or is_norm else None
            self.calls.append(_Call(name, layer, is_norm))

        return enter

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        layer, tensors = self.calls.pop().layer, _tensors(output)
        if layer and tensors:
            layer.output, layer.memory = tuple(tensors[0].shape), _memory(_tensors(inputs), tensors[0])
            field = getattr(tensors[0], "origin", None)
            _place(layer, field if isinstance(field, Field) else None)
            if layer.parameters and layer.kind not in KINDS:
                layer.kind = "parameter"

    def _new(self, name: str, kind: str) -> Layer:
        self.times[name] = self.times.get(name, 0) + 1
        times = f" #{self.times[name]}" if self.times[name] > 1 else ""
        self.found.append(Layer(name=name + times, kind=kind))
        return self.found[-1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        macs = (self.counter.get_total_flops() - before) // 2
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        if not outputs:
            return result
        origins = [getattr(t, "origin", None) for t in inputs]
        weights = Weights().union(*(o for o in origins if isinstance(o, Weights)))
        if origins and not macs and all(isinstance(o, Weights) for o in origins):
            for tensor in outputs:  # still a weight: it has not met the image
                tensor.origin = weights
            return result

        call, operation = self.calls[-1], func.overloadpacket.__name__
        kind, window = ("norm", {}) if call.is_norm else meaning(operation, args)
        sources = [(t, o) for t, o in zip(inputs, origins, strict=True) if isinstance(o, Field)]
        field = followed(operation, args, sources, outputs[0], kind, window)
        if field:
            for tensor in outputs:
                tensor.origin = field
        learned = sorted(weights & self.unused.keys())
        layer = self._layer(kind, operation, learned, _memory(inputs, outputs[0]))
        if layer:
            layer.macs += macs
            layer.parameters += sum(self.unused.pop(name).numel() for name in learned)
            if kind in KINDS and (macs or layer.kind not in KINDS or layer.kind == kind):
                layer.kind = kind
                for key, value in window.items():
                    setattr(layer, key, value)
            if not call.layer:
                layer.output, layer.memory = tuple(outputs[0].shape), _memory(inputs, outputs[0])
                _place(layer, field)
        return result

    def _layer(self, kind: str, operation: str, learned: list[str], memory: int) -> Layer | None:
        """The layer that an operation belongs to; None for a view, which is no layer."""
        call = self.calls[-1]
        if call.layer:
            return call.layer
        if kind == "attention":  # both its products
            call.attention = call.attention or self._new(call.name or kind, kind)
            return call.attention
        if kind in KINDS:
            return self._new(call.name or kind, kind)
        if learned:
            return self._new(learned[0], "parameter")
        return self._new(call.name or operation, operation) if memory else None

    def finish(self) -> list[Layer]:
        for name, parameter in self.unused.items():
            module = name.rpartition(".")[0] or name
            if not self.found or (self.found[-1].kind, self.found[-1].name) != ("unused", module):
                self.found.append(Layer(name=module, kind="unused"))
            self.found[-1].parameters += parameter.numel()
        for layer in self.found:
            if layer.output[:1] == (1,):  # one image
                layer.output = layer.output[1:]
        return [layer for layer in self.found if layer.output or layer.parameters]


def _place(layer: Layer, field: Field | None) -> None:
    layer.field = field.size if field else None
    layer.jump = field.jump if field and field.size != WHOLE else None


def _tensors(tree: Any) -> list[Any]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(inputs: list[Tensor], output: Tensor) -> int:
    """Bytes that an operation adds: none for a view and for what is written in place."""
    storage = output.untyped_storage()._cdata
    return 0 if any(t.untyped_storage()._cdata == storage for t in inputs) else 4 * output.numel()
