"""Judges a finished run again: run=<folder> split=test."""

import hydra
from omegaconf import DictConfig

from paribus.door import door


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from paribus.evaluate import run

    run(cfg)


if __name__ == "__main__":
    door(main)
