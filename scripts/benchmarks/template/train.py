"""One run as lightning-hydra-template makes it: what sweep.py and startup.py are measured against.

Written from that project's public description, with none of its code: a Hydra app that instantiates a data module, a
module, callbacks (checkpoint, early stopping, model summary, progress bar), a CSV logger and a Trainer from config
groups, prints the config as a tree, trains, tests the best checkpoint and returns the metric. Its imports are at the
top of the file, as there.

    python scripts/benchmarks/template/train.py data.root=<folder of MNIST's files> [-m seed=0,1]
"""

import hydra
import lightning
import rich
import rich.syntax
from hydra.utils import instantiate
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from rich.tree import Tree


def show(config: DictConfig) -> None:
    tree = Tree("CONFIG")
    for key, value in config.items():
        text = OmegaConf.to_yaml(value, resolve=True) if isinstance(value, DictConfig) else str(value)
        tree.add(key).add(rich.syntax.Syntax(text, "yaml"))
    rich.print(tree)


@hydra.main(version_base="1.3", config_path=".", config_name="train.yaml")
def main(config: DictConfig) -> float:
    show(config)
    lightning.seed_everything(config.seed, workers=True)
    data: LightningDataModule = instantiate(config.data)
    model: LightningModule = instantiate(config.model)
    callbacks: list[Callback] = [instantiate(one) for one in config.callbacks.values()]
    loggers: list[Logger] = [instantiate(one) for one in config.logger.values()]
    trainer: Trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers)
    trainer.fit(model=model, datamodule=data)
    found = dict(trainer.callback_metrics)
    trainer.test(model=model, datamodule=data, ckpt_path=trainer.checkpoint_callback.best_model_path or None)
    found |= trainer.callback_metrics
    return float(found["val/acc"])


if __name__ == "__main__":
    main()
