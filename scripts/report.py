"""Reports the runs of an ablation or of a folder: ablation=<name> or runs=<folder>."""

import re
import sys

import hydra
from omegaconf import DictConfig

from paribus.door import door


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(cfg: DictConfig) -> None:
    from paribus.report import run as report

    folder = report.find_folder(name=cfg.name, runs=cfg.runs, root=cfg.root)
    report.run(folder=folder, metric=cfg.metric, output=cfg.output)


if __name__ == "__main__":
    # Hydra takes `ablation=` for a choice from the group conf/ablation, which this script does not compose.
    sys.argv[1:] = [re.sub("^ablation=", "name=", argument) for argument in sys.argv[1:]]
    door(main)
