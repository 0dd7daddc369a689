"""Where a key of the config comes from: a file of conf/, or an override."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf


def origin(path: str) -> str:
    """Where a key comes from, as `` (conf/optimizer/sgd.yaml)`` or `` (override +a.b=1)``."""
    if not HydraConfig.initialized():
        return ""
    hydra = HydraConfig.get()
    key = path.replace("[", ".").replace("]", "")
    for override in reversed(hydra.overrides.task):
        name = override.lstrip("+~").split("=")[0]
        chooses = name in hydra.runtime.choices  # an option of a group: its file is the origin
        if not chooses and (key == name or key.startswith(name + ".") or name.startswith(key + ".")):
            return f" (override {override})"
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    for group in ("ablation", "experiment", key.split(".")[0]):  # the later in the defaults list wins
        choice = hydra.runtime.choices.get(group)
        inside = key if group in ("ablation", "experiment") else key.partition(".")[2]
        for file in [folder / group / f"{choice}.yaml" for folder in folders]:
            if file.is_file() and (not inside or _holds(OmegaConf.load(file), inside)):
                return f" ({file.parents[1].name}/{group}/{file.name})"
    return f" (conf/{hydra.job.config_name}.yaml)"


def _holds(node: Any, path: str) -> bool:
    """Whether a dotted path leads somewhere in a file; a value that is missing (???) is there too."""
    for key in path.split("."):
        if OmegaConf.is_list(node) and key.isdigit() and int(key) < len(node):
            node = node._get_node(int(key))
        elif OmegaConf.is_dict(node) and key in node._content:
            node = node._get_node(key)
        else:
            return False
    return True
