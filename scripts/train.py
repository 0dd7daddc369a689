"""Trains, judges and records: one run, an ablation (ablation=...) or a sweep (-m key=a,b)."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from paribus.door import door


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    from paribus.train import run

    hydra_cfg = HydraConfig.get()
    return run(cfg, hydra_cfg.runtime.output_dir, in_sweep=hydra_cfg.mode is RunMode.MULTIRUN)


if __name__ == "__main__":
    # An ablation is a sweep, and says so itself; but Hydra refuses `seed=0,1` before it reads that.
    # Not beside flags that show something instead (--cfg job), which exclude it.
    flags = any(argument.startswith("-") for argument in sys.argv[1:])
    if any(argument.startswith("ablation=") for argument in sys.argv) and not flags:
        sys.argv.append("-m")
    door(main)
