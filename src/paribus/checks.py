"""The check of every key, before anything is loaded.

Three layers know what is valid: dataclasses for the root and the trainer (Hydra and OmegaConf hold
configs to them), the constructor's signature for every node with a ``_target_``, and the contradictions
between groups. All are read as text: a wrong key costs half a second, not the import of torch.
"""

import ast
import copy
import difflib
import json
import typing
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paribus.config import (
    CONF,
    AblationConfig,
    AugmentationConfig,
    ConfigError,
    ConvertConfig,
    ProfileConfig,
    TrainConfig,
    TrainerConfig,
)
from paribus.contradictions import answers, contradictions
from paribus.origins import origin
from paribus.signatures import Signature, TargetError, alias, signature

# What the builder hands to each group's constructor, and a config therefore may not set.
SUPPLIED = {
    "data": {"augmentation", "seed", "channels_last"},
    "model": {"backbone", "num_classes"},
    "task": {"model", "metrics", "optimizer", "scheduler", "log_every", "seed", "teacher_model"},
    "optimizer": {"params"},
    "logger": {"folder", "config"},
}
UNSAID = "(not said)"  # in place of a value that is missing and not needed
NEEDED = ("data", "backbone", "model", "task", "optimizer", "scheduler")


def check(cfg: DictConfig) -> TrainConfig:
    """The config as plain typed objects, once every key in it is known to be read and to fit.

    Raises ConfigError with every fault at once, each with its origin, the nearest valid key and what
    would be valid. Reads source files only; neither torch nor any data is touched.
    """
    config: TrainConfig = _objects(cfg)
    if config.data.get("batch_size") == "auto":  # a run by itself has a number by now, see batch_size.py
        raise ConfigError(
            "`data.batch_size=auto` would give the runs of a sweep batches of different sizes, and all else must be "
            "equal: find it once, with one run, and then give the number"
        )
    if config.trainer.autotune and config.ablation:
        raise ConfigError(
            "`trainer.autotune=true` may give the runs of a sweep different precisions, and all else must be equal: "
            "find the fastest with one run, and then give trainer.precision and trainer.channels_last"
        )
    # So that the run folder can be judged from anywhere.
    paths = ((config.data.get("reader", {}), "root"), (config.backbone, "weights"), (config.task, "teacher"))
    for node, key in paths:
        if isinstance(node, dict) and isinstance(node.get(key), str):
            node[key] = str(Path(node[key]).expanduser().absolute())
    faults = _faults(cfg, config, NEEDED) or contradictions(config)
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def check_profile(cfg: DictConfig) -> ProfileConfig:
    """As ``check``, for scripts/profile.py. It opens no data set: what one lacks yet is no fault."""
    cfg = copy.deepcopy(cfg)
    for key in OmegaConf.missing_keys(cfg):
        if key.startswith(("data.", "task.")):
            OmegaConf.update(cfg, key, UNSAID)
    config: ProfileConfig = _objects(cfg)
    faults = _faults(cfg, config, ("backbone", "model", "task", "optimizer"))
    if "_target_" not in config.data:
        faults += [
            f"`data.{key}`: choose an option first, data=..." for key in {*config.data} - {"channels", "size"}
        ]
    faults = faults or answers(config)
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def check_convert(cfg: DictConfig) -> ConvertConfig:
    """As ``check``, for scripts/convert.py."""
    config: ConvertConfig = _objects(cfg)
    if faults := _faults(cfg, config, ("data",)):
        raise ConfigError("\n".join(faults))
    return config


def _objects(cfg: DictConfig) -> Any:
    """The dataclasses that a config's schema names, every interpolation resolved; refused if a value misses."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError(
            "\n".join(
                f"`{key}` has no value{origin(key)}: set it on the command line, {key}=..." for key in missing
            )
        )
    try:
        OmegaConf.resolve(plain := OmegaConf.create(cfg))
        return OmegaConf.to_object(plain)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{str(error).splitlines()[0]} (key `{error.full_key}`)") from None


def _faults(cfg: DictConfig, config: Any, needed: tuple[str, ...]) -> list[str]:
    """Keys that nothing reads, groups without a choice, and what the constructors do not take."""
    faults = list(_unknown(cfg, type(config)))
    for group in needed:
        if "_target_" not in getattr(config, group):
            faults.append(f"`{group}` names no `_target_`: choose an option, {group}={_options(group)[0]}")
    for path, node in _targets("", {name: getattr(config, name) for name in config.__dataclass_fields__}):
        faults += _node_faults(path, node)
    return faults


def _unknown(cfg: DictConfig, root: Any) -> Iterator[str]:
    """Keys beside the schema's, which ``+key=`` and ``++key=`` add without a word."""
    for path, schema in (
        ("", root),
        ("trainer", TrainerConfig),
        ("augmentation", AugmentationConfig),
        ("ablation", AblationConfig),
    ):
        if path and path not in root.__dataclass_fields__:
            continue
        node = cfg[path] if path else cfg
        valid = list(schema.__dataclass_fields__)
        for key in node or ():
            if key not in valid:
                where = f"{path}.{key!s}".lstrip(".")
                yield f"`{where}`{origin(where)} is no key{near(str(key), valid)}; valid: {', '.join(valid)}"


def _targets(path: str, node: Any) -> Iterator[tuple[str, dict]]:
    """Every node with a ``_target_`` below ``node``, with its dotted path."""
    if isinstance(node, AugmentationConfig):
        node = vars(node)
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _targets(f"{path}.{key}".lstrip("."), value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _targets(f"{path}[{index}]", value)


def _node_faults(path: str, node: dict) -> list[str]:
    """Faults of one ``_target_`` node: no such target, unknown key, missing key, wrong type."""
    target = node["_target_"]
    supplied = SUPPLIED.get(path, set())
    try:
        known = signature(target)
    except TargetError as error:
        return [f"`{path}._target_`{origin(path)}: {error}"]
    faults = []
    for key, value in node.items():
        where = f"{path}.{key}"
        if key in ("_target_", "_partial_"):
            continue
        if key in supplied:
            faults.append(f"`{where}`{origin(where)} is set by Paribus itself: remove it")
        elif key not in known.parameters and not known.open:
            valid = [k for k in known.parameters if k not in supplied]
            faults.append(
                f"`{where}`{origin(where)}: {target} has no parameter '{key}'{near(key, valid)}; "
                f"valid: {', '.join(valid)}"
            )
        elif value != UNSAID and not (isinstance(value, dict) and "_target_" in value):
            fault = _type_fault(value, known, key)
            if fault:
                faults.append(f"`{where}={value}`{origin(where)}: {fault}")
    for key, parameter in known.parameters.items():
        if parameter.required and key not in node and key not in supplied:
            faults.append(f"`{path}` lacks `{key}`, which {target} needs: {path}.{key}=...")
    return faults


def _type_fault(value: Any, known: Signature, key: str) -> str | None:
    """What is wrong with a value, by the parameter's annotation; None if it fits or cannot be known."""
    from pydantic import ValidationError

    parameter = known.parameters.get(key)
    if parameter is None or parameter.annotation is None:
        return None
    annotation = parameter.annotation
    adapter = _adapter(annotation, parameter.module)
    if adapter is None:
        return None
    try:
        # As JSON: there a list is a tuple and 1 is a float, and still "3" is no int.
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return (
            "; ".join(f"{e['msg'][0].lower()}{e['msg'][1:]}" for e in error.errors()[:1]) + f" ({annotation})"
        )
    return None


@lru_cache(maxsize=1024)
def _adapter(annotation: str, module: str) -> Any:
    """Judges values by an annotation in ``module``; None for a type of the library's own, whose constructor judges."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(_type(annotation, module))
    except (NameError, AttributeError, TypeError, SyntaxError, PydanticUserError):
        return None


def read(target: str) -> None:
    """Reads beforehand what a check of the node that names this target will ask of its parameters."""
    with suppress(TargetError):
        for parameter in signature(target).parameters.values():
            if parameter.annotation is not None:
                _adapter(parameter.annotation, parameter.module)


def _type(annotation: str, module: str) -> Any:
    """The type that an annotation in ``module`` means; NameError if it is none that a YAML can hold."""
    node = ast.parse(annotation, mode="eval").body
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        members = [node.left, node.right]
    elif isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Union", "typing.Union"):
        members = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    elif isinstance(node, ast.Name) and (meant := alias(module, node.id)):
        return _type(*meant)
    else:  # source of ours or of a library, never of the config
        return eval(annotation, {**vars(typing), "Sequence": list, "Path": str})
    texts = [ast.unparse(member) for member in members]
    # A config holds no tensor: of `float | Tensor` the float is left.
    return typing.Union[tuple(_type(text, module) for text in texts if text != "Tensor")]  # noqa: UP007


def near(key: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    return f", nearest: '{close[0]}'" if close else ""


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml")) or ["?"]
