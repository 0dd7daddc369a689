"""Reports the runs of an ablation or of a folder, ablation=<name> or runs=<folder>; with neither, all that there are."""

import re
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from paribus.door import door


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(cfg: DictConfig) -> None:
    from paribus.report import index, reproduction
    from paribus.report import run as report

    if cfg.against:
        same = reproduction.run(folder=Path(cfg.against), root=Path(cfg.root), name=cfg.name)
        sys.exit(not same)
    if cfg.name is None and cfg.runs is None:
        if cfg.metric:
            raise ValueError(
                f"metric={cfg.metric}: of which runs? Say `ablation=<name>` or `runs=<folder>` too"
            )
        index.run(root=cfg.root, output=cfg.output)
        return
    folder = report.find_folder(name=cfg.name, runs=cfg.runs, root=cfg.root)
    report.run(folder=folder, metric=cfg.metric, output=cfg.output)


if __name__ == "__main__":
    # Hydra takes `ablation=` for a choice from the group conf/ablation, which this script does not compose.
    sys.argv[1:] = [re.sub("^ablation=", "name=", argument) for argument in sys.argv[1:]]
    door(main)
