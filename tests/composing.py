"""Composing configs in tests as the doors do."""

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, flag_override

from paribus import config


def composed(*overrides: str, root: str = "train", fill: bool = True) -> DictConfig:
    """The config of ``scripts/<root>.py overrides``; missing values filled in if ``fill``."""
    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = compose(root, list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg.copy())
    with flag_override(cfg, ["readonly", "struct"], [False, False]):
        cfg.pop("hydra")
    for key in OmegaConf.missing_keys(cfg) if fill else ():  # where the user's data lies
        OmegaConf.update(cfg, key, ["a", "b"] if key.endswith("classes") else "somewhere", force_add=True)
    return cfg
