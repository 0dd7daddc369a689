"""What a step asks of a device: where the host would wait for it, and of which shapes the results are."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):
    """Notes the operations for which the host waits for a device, and boolean indexing."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        boolean = name.startswith("index") and any(
            i is not None and i.dtype == torch.bool
            for i in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if name in ("_local_scalar_dense", "nonzero", "_unique2", "bincount", "masked_select") or boolean:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class Shapes(Waits):
    """Notes the shape of every operation's result, too."""

    def __init__(self):
        super().__init__()
        self.shapes: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self.shapes.append((func.overloadpacket.__name__, tuple(getattr(result, "shape", ()))))
        return result
