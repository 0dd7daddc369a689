"""Writes a finished run as ONNX and torch.export programs: run=<folder> format=onnx|torch|both."""

import hydra
from omegaconf import DictConfig, OmegaConf

from paribus.door import door


@hydra.main(version_base="1.3", config_path="../conf", config_name="export")
def main(cfg: DictConfig) -> None:
    from paribus.export.run import run

    run(OmegaConf.to_object(cfg))  # type: ignore[arg-type]


if __name__ == "__main__":
    door(main)
