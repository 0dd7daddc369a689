"""Writes a set of boxes in another format: data=<option> to=voc|coco|yolo output=<folder>."""

import hydra
from omegaconf import DictConfig

from paribus.door import door


@hydra.main(version_base="1.3", config_path="../conf", config_name="convert")
def main(cfg: DictConfig) -> None:
    from paribus.checks import check_convert
    from paribus.convert import run

    run(check_convert(cfg))


if __name__ == "__main__":
    door(main)
