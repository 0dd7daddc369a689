"""What networks cost: a table layer by layer, of several networks a comparison. No data is read."""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from paribus.build import make
from paribus.checks import check_profile, near
from paribus.config import ConfigError, ProfileConfig, TrainerConfig
from paribus.door import quoted

if TYPE_CHECKING:
    from paribus.profile.complexity import Layer
    from paribus.profile.footprint import Footprint
    from paribus.profile.measure import Pass

CLASSES = {"label": 1000, "labels": 20, "mask": 21, "boxes": 91}  # ImageNet, VOC, VOC's masks, COCO


@dataclass(kw_only=True)
class Profile:
    """What one network costs.

    layers: those of the table; with `until` (a layer's name) not all, and then training is None.
    states: values that the optimizer keeps for each parameter.
    measured: a forward pass and a training step, on the device.
    """

    name: str
    size: tuple[int, int]
    classes: int
    batch_size: int
    optimizer: str
    layers: "list[Layer]"
    until: str = ""
    training: "Footprint | None" = None
    states: int = 0
    measured: "tuple[Pass, Pass] | None" = None
    device: str = ""

    @property
    def memory(self) -> int:
        """Bytes of the outputs, of one image."""
        return sum(layer.memory for layer in self.layers)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)


def run(cfg: DictConfig, others: Sequence[Sequence[str]] = ()) -> list[Profile]:
    """Prints the table of a network; with ``others``, the overrides of further ones, a comparison.

    Raises ConfigError for keys and choices that do not go together, ValueError where a network cannot be built
    or does not take images of that size.
    """
    overrides = [
        list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else [],
        *map(list, others),
    ]
    names = named(overrides)
    found: list[Profile] = []
    settings = None
    for name, own in zip(names, overrides, strict=True):
        if found:
            cfg = _composed(own)
        config = _checked(cfg)
        settings = settings or config
        try:
            found.append(_profile(name, config))
        except ValueError as error:
            raise ConfigError(f"{name}: {error}" if others else str(error)) from error
    assert settings is not None

    from paribus.profile import table

    print(table.page(found, settings.format), end="")
    if settings.output:
        folder = table.write(found, Path(settings.output))
        print(f"Tables and figure: {folder}", file=sys.stderr)
    return found


# --- several networks ------------------------------------------------------------------------------


def variants(arguments: list[str]) -> list[list[str]]:
    """A command line for each combination of the values that its overrides list (``backbone=a,b``)."""
    parser = OverridesParser.create()
    choices: list[list[str]] = []
    for argument in arguments:
        if argument in ("-m", "--multirun"):
            continue  # what it would do is done without
        choices.append([quoted(argument)])
        if argument.startswith("-"):
            continue
        try:
            override = parser.parse_override(choices[-1][0])
        except HydraException:
            continue  # Hydra itself will say what is wrong with it
        if override.is_sweep_override():
            key = override.get_key_element()
            choices[-1] = [f"{key}={value}" for value in override.sweep_string_iterator()]
    return [list(chosen) for chosen in itertools.product(*choices)]


def named(overrides: list[list[str]]) -> list[str]:
    """What tells networks apart: the overrides that not all have; of one network its backbone."""
    shared = set(overrides[0]).intersection(*overrides[1:])
    names = []
    for own in overrides:
        differ = [o for o in own if o not in shared] or [o for o in own if o.startswith("backbone=")]
        said = [o.partition("=")[2] if o.startswith(("backbone=", "model=")) else o for o in differ]
        names.append(", ".join(said) or "convnet")
    return names


def _composed(overrides: list[str]) -> DictConfig:
    cfg = compose("profile", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)  # origins of keys are told from it
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def _checked(cfg: DictConfig) -> ProfileConfig:
    """The checked config of one network, its ``data.size`` the input's, as interpolations may ask for it."""
    size = OmegaConf.to_container(cfg)["input_size"]  # type: ignore[call-overload, index]
    if size is not None:
        sides = [size, size] if isinstance(size, int) else size
        whole = isinstance(sides, list) and all(type(side) is int and side > 0 for side in sides)
        if not whole or len(sides) != 2:
            raise ConfigError(f"input_size={size}: pixels a side, input_size=224, or input_size=[320,480]")
        with open_dict(cfg):
            cfg.data.size = sides
    config = check_profile(cfg)
    if config.data.get("size") is None:
        raise ConfigError("data.size=null, each image keeps its own: say for which, input_size=[480,640]")
    return config


# --- one network -----------------------------------------------------------------------------------


def _profile(name: str, config: ProfileConfig) -> Profile:
    import torch

    from paribus.profile.complexity import KINDS, layers
    from paribus.profile.footprint import footprint, states

    device = _device(config) if config.measure else None  # or nothing is done
    model_of = _maker(config)
    try:
        with torch.device("meta"):
            model = model_of()
    except (RuntimeError, NotImplementedError):  # a constructor that computes with values
        model = model_of()
    size, channels = (config.data["size"][0], config.data["size"][1]), config.data["channels"]
    found = layers(model, size, channels)
    if not config.all:
        found = [layer for layer in found if layer.kind in KINDS or layer.parameters or layer.macs]
    profile = Profile(
        name=name,
        size=size,
        classes=_classes(config),
        batch_size=config.batch_size,
        optimizer=config.optimizer["_target_"].rpartition(".")[2],
        layers=found,
    )
    optimizer = make(config.optimizer)
    if config.until is not None:
        last = _last(found, config.until)
        profile.layers, profile.until = found[: last + 1], found[last].name
    else:
        profile.training = footprint(model, size, channels, config.batch_size, optimizer)
        profile.states = states(optimizer)
    if device:
        from paribus.device import device_name, set_threads
        from paribus.profile.measure import measure

        trainer = TrainerConfig(accelerator=config.accelerator)
        threads = set_threads(trainer)
        profile.measured = measure(model_of(), size, channels, config.batch_size, optimizer, device)
        profile.device = device_name(trainer) + f", {threads} thread{'s' * (threads > 1)}" * (
            device.type == "cpu"
        )
    return profile


def _maker(config: ProfileConfig) -> Any:
    """Builds the model, untrained."""
    from paribus.models.backbones import freeze_stages

    node = dict(config.backbone)
    for key, nothing in (("pretrained", False), ("weights", None)):  # a shape costs the same without
        if key in node:
            node[key] = nothing

    def model_of() -> Any:
        model = make(config.model, backbone=make(node), num_classes=_classes(config))
        freeze_stages(model.backbone, config.task.get("freeze", "none"))
        return model

    return model_of


def _classes(config: ProfileConfig) -> int:
    listed = config.data.get("reader", {}).get("classes")
    known = len(listed) if isinstance(listed, list) else CLASSES[config.task["target"]]
    return config.classes or known


def _last(layers: "list[Layer]", until: Any) -> int:
    """The place of the first layer of a stride, or of a name or the end of one."""
    if isinstance(until, int):
        for place, layer in enumerate(layers):
            if layer.jump and max(layer.jump) >= until:
                return place
        strides = sorted({int(max(layer.jump)) for layer in layers if layer.jump})
        raise ConfigError(
            f"until={until}: no layer has that stride; there are {', '.join(map(str, strides))}"
        )
    names = [layer.name for layer in layers]
    for place, name in enumerate(names):
        if name == until or name.endswith(f".{until}"):
            return place
    raise ConfigError(f"until={until}: no such layer{near(str(until), names)}; or a stride, until=8")


def _device(config: ProfileConfig) -> Any:
    import torch

    if config.accelerator == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    raise ConfigError("accelerator=gpu: this machine shows no GPU to torch; accelerator=cpu")
