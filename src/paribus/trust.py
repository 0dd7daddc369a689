"""What the config in a run folder may name: a folder from a stranger must run no code of its own.

Hydra calls whatever a ``_target_`` names, ``os.system`` as well; it refuses a few of such, not all. A user's own
YAML may name anything, a run folder only classes of the rooms below, as their source files define them. A path
through a module (``paribus.results.os.system``), a function (``torch.hub.load``) and a class of another library
that a room imports are none.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paribus.config import ConfigError
from paribus.signatures import class_module

ROOMS = (
    *("paribus.data", "paribus.models", "paribus.tasks", "paribus.optimizers", "paribus.loggers"),
    *("torch.optim", "albumentations"),
)
VARIABLE = "PARIBUS_TRUST"


def refuse_foreign(stored: Any, file: Path) -> None:
    """Raises ConfigError for every ``_target_`` below ``stored``, the config in ``file``, that is not known.

    Nothing is imported to find out. PARIBUS_TRUST in the environment adds classes, functions, or whole packages,
    with commas between them.
    """
    trusted = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    faults, refused = [], []
    for path, value in _strings("", stored):
        if "${" in value:  # a run's config holds none; resolved, it might be a target
            faults.append(f"`{path}` is {value!r}: an interpolation, which the config of a run does not hold")
        elif path.rpartition(".")[2] == "_target_" and not _within(value, trusted) and not _known(value):
            faults.append(f"`{path}` is {value!r}: no class of {', '.join(ROOMS)}")
            refused.append(value)
    if faults:
        # What holds a = or a blank is no name, and nothing to be put into a command.
        names = ",".join(dict.fromkeys(name for name in refused if name.replace(".", "").isidentifier()))
        fix = f"\nIf you trust who made this run with all that you can do: {VARIABLE}={names} python ..."
        raise ConfigError(f"{file} is refused:\n" + "\n".join(faults) + (fix if names else ""))


def _strings(path: str, node: Any) -> Iterator[tuple[str, str]]:
    """Every string below a node with its dotted path, and whatever a ``_target_`` is."""
    if path.rpartition(".")[2] == "_target_":
        yield path, str(node)
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _strings(f"{path}.{key}".lstrip("."), value)
            if "${" in str(key):
                yield f"{path}.{key}".lstrip("."), str(key)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _strings(f"{path}[{index}]", value)
    elif isinstance(node, str):
        yield path, node


def _known(target: str) -> bool:
    module = class_module(target) if _within(target, ROOMS) else None
    return module is not None and _within(module, ROOMS)


def _within(name: str, rooms: Any) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)
