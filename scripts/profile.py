"""What a network costs, layer by layer: backbone=<one or several> input_size=227."""

import sys

import hydra
from omegaconf import DictConfig

from paribus.door import door


@hydra.main(version_base="1.3", config_path="../conf", config_name="profile")
def main(cfg: DictConfig) -> None:
    from paribus.profile.run import run

    run(cfg, others=networks[1:])


if __name__ == "__main__":
    from paribus.profile.run import variants

    # Hydra takes `backbone=a,b` for a sweep; here it is one table of both.
    networks = variants(sys.argv[1:])
    sys.argv[1:] = networks[0]
    door(main)
