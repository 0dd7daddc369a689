"""Makes the W&B report of an ablation or of a folder of runs: ablation=<name> or runs=<folder>."""

import re
import sys

import hydra
from omegaconf import DictConfig

from paribus.door import door


@hydra.main(version_base="1.3", config_path="../conf", config_name="dashboard")
def main(cfg: DictConfig) -> None:
    from paribus import dashboard
    from paribus.report.run import find_folder

    folder = find_folder(name=cfg.name, runs=cfg.runs, root=cfg.root)
    dashboard.run(folder=folder, metric=cfg.metric, entity=cfg.entity, project=cfg.project)


if __name__ == "__main__":
    # Hydra takes `ablation=` for a choice from the group conf/ablation, which this script does not compose.
    sys.argv[1:] = [re.sub("^ablation=", "name=", argument) for argument in sys.argv[1:]]
    door(main)
