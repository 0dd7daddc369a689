"""Weights from a file into a module, all of them or an error: a network is never silently random."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def checkpoint_file(path: str) -> Path:
    """The file itself; of a Paribus run folder the best checkpoint, else the last."""
    given = Path(path).expanduser()
    candidates = [given, given / "checkpoints" / "best.ckpt", given / "checkpoints" / "last.ckpt"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if given.exists():
        raise ValueError(f"weights: {given} is no run folder, it has no checkpoints/best.ckpt or last.ckpt")
    raise ValueError(f"weights: there is no {given}")


def read_weights(path: str) -> dict[str, Tensor]:
    """The tensors of a .pth, .pt, .ckpt or .safetensors file, or of a run folder, by their names.

    What torch.compile and DataParallel prefix is taken off. Only tensors and plain data are unpickled.
    """
    file = checkpoint_file(path)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # many kinds: unpickling, zip, end of file
        raise ValueError(
            f"weights: {file} cannot be read as tensors and plain data ({type(error).__name__}); "
            "save `model.state_dict()` with torch.save, and take that"
        ) from error
    content = content if isinstance(content, dict) else {}
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"weights: {file} holds no state dict")
    return {name.replace("_orig_mod.", "").removeprefix("module."): value for name, value in tensors.items()}


def load_weights(
    module: nn.Module,
    path: str,
    prefixes: Sequence[str] = ("",),
    ignore: Sequence[str] = (),
    content: dict[str, Tensor] | None = None,
) -> int:
    """Loads a file or run folder into the module; returns the number of tensors loaded.

    prefixes: where in the file the module may be ("model.backbone." in a Lightning checkpoint). The one that
        gives most of the module's names is taken; what is outside of it is another module's.
    ignore: modules that the file may have and this module not (a classifier).
    content: what read_weights(path) gave, if it was read.

    A file of another library, none of whose names is ours, is taken in order, see in_order(). A learned slope
    (PReLU) that the file does not know keeps its first value.

    Raises ValueError, and loads nothing, if any name is missing, unexpected or of another shape.
    """
    content, own = content or read_weights(path), module.state_dict()
    learned_slopes = slopes(module)
    inside = [{k.removeprefix(p): v for k, v in content.items() if k.startswith(p)} for p in prefixes]
    found = max(inside, key=lambda tensors: len(tensors.keys() & own.keys()))
    left_out = tuple(f"{name}." for name in ignore)
    found = {k: v for k, v in found.items() if k in own or not k.startswith(left_out)}
    if not found.keys() & own.keys():
        found = in_order(module, content) or found

    common = [k for k in own if k in found]
    problems = {
        # The number of batches seen is bookkeeping, which old files lack.
        "missing in the file": [
            k
            for k in own
            if k not in found and k not in learned_slopes and not k.endswith("num_batches_tracked")
        ],
        "unexpected in the file": [k for k in found if k not in own],
        "of another shape": [
            f"{k} {tuple(found[k].shape)}, not {tuple(own[k].shape)}"
            for k in common
            if found[k].shape != own[k].shape
        ],
    }
    if any(problems.values()):
        matched = len(common) - len(problems["of another shape"])
        raise ValueError(
            f"weights: {matched} of the network's {len(own)} tensors match {checkpoint_file(path)}"
            + "".join(f"; {what}: {_listed(names)}" for what, names in problems.items() if names)
        )
    module.load_state_dict(found, strict=False)
    return len(common)


def in_order(module: nn.Module, content: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Another library's tensors for the same network under this module's names, matched by their order; None
    unless every tensor fits. What follows in the file is a classifier, and left out.

    A convolution over a whole map and a linear layer on it flattened have the same numbers in the same order.
    """
    left_out = slopes(module)
    own = [
        (k, v)
        for k, v in module.state_dict().items()
        if not k.endswith("num_batches_tracked") and k not in left_out
    ]
    theirs = [v for k, v in content.items() if not k.endswith("num_batches_tracked")]
    pairs = list(zip(own, theirs, strict=False))
    if len(pairs) < len(own) or any(
        a.shape != (b.flatten(1) if a.ndim == 2 and b.ndim == 4 else b).shape for (_, a), b in pairs
    ):
        return None
    return {name: value.reshape(mine.shape) for (name, mine), value in pairs}


def slopes(module: nn.Module) -> set[str]:
    """The names of the learned slopes (PReLU), which files of the same network with another activation lack."""
    return {f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, nn.PReLU)}


def load_published(module: nn.Module, source: str) -> None:
    """Weights that a library publishes for this network, downloaded or from its cache: "timm/resnet50",
    "torchvision/alexnet". Raises ValueError where they cannot be had or do not fit.
    """
    library, _, name = source.partition("/")
    try:
        if library == "timm":
            import timm

            network: Any = timm.create_model(name, pretrained=True)
        else:
            import torchvision

            network = torchvision.models.get_model(name, weights="DEFAULT")
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            f"backbone.pretrained: {library}'s weights of {name} cannot be had ({type(error).__name__}: "
            f"{reason}); offline, set `backbone.pretrained=false backbone.weights=<file>`"
        ) from error
    tensors = in_order(module, network.state_dict())
    if tensors is None:
        raise ValueError(
            f"backbone.pretrained: {library}'s weights of {name} do not fit this network, whose knobs change "
            "its layers: set them as the published network has them, or backbone.pretrained=false"
        )
    module.load_state_dict(tensors, strict=False)


def _listed(names: list[str], limit: int = 8) -> str:
    more = f", … and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
