"""Applies a finished run to images: run=<folder> images=<file, folder or glob>."""

import hydra
from omegaconf import DictConfig

from paribus.door import door


@hydra.main(version_base="1.3", config_path="../conf", config_name="predict")
def main(cfg: DictConfig) -> None:
    from paribus.predict import run

    run(cfg)


if __name__ == "__main__":
    door(main)
