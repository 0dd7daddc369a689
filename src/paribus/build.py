"""From a config to the parts that a run is made of."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from paribus.config import TrainConfig


class Parts(NamedTuple):
    """What a run is made of."""

    data: Any
    task: Any
    logger: Any


def make(node: dict[str, Any], **supplied: Any) -> Any:
    """What a node's ``_target_`` makes of its keys and of the objects supplied; a partial for ``_partial_``."""
    from hydra.utils import instantiate

    made = instantiate(
        OmegaConf.create(node), _convert_="all", _partial_=bool(supplied) or "_partial_" in node
    )
    # Through a partial: instantiate itself would make plain dicts of supplied dataclasses.
    return made(**supplied) if supplied else made


def build(config: TrainConfig, folder: Path | None = None) -> Parts:
    """The data module, the task around its model, and the logger, as the config describes them.

    The backbone comes first and the data second: what a network cannot do is said before a file is
    read. With ``folder`` None no logger is made (evaluation, prediction).
    """
    from paribus import metrics

    judge: Any = {
        "label": metrics.ClassificationMetrics,
        "labels": metrics.MultilabelMetrics,
        "mask": metrics.SegmentationMetrics,
        "boxes": metrics.DetectionMetrics,
    }[config.task["target"]]
    backbone = make(config.backbone)
    augmentation = {name: [make(t) for t in nodes] for name, nodes in asdict(config.augmentation).items()}
    data = make(
        config.data,
        augmentation=augmentation,
        seed=config.seed,
        channels_last=config.trainer.channels_last,
    )
    model = make(config.model, backbone=backbone, num_classes=len(data.classes))
    if config.members > 1:
        from paribus.models.ensemble import Ensemble

        others = [
            make(config.model, backbone=make(config.backbone), num_classes=len(data.classes))
            for _ in range(1, config.members)
        ]
        model = Ensemble([model, *others], target=config.task["target"])
    data.search = getattr(model, "search", None)  # proposals, which come with the images
    if config.trainer.channels_last:
        import torch

        model = model.to(memory_format=torch.channels_last)
    teacher = {}
    if config.task.get("teacher"):
        from paribus.restore import teacher_model

        teacher = {"teacher_model": teacher_model(config.task["teacher"], data)}
    task = make(
        config.task,
        model=model,
        metrics=partial(judge, data.classes),
        optimizer=make(config.optimizer),
        scheduler=make(config.scheduler),
        log_every=config.trainer.log_every,
        seed=config.seed,
        **teacher,
    )
    logger = None
    if folder is not None and "_target_" in config.logger:
        logger = make(config.logger, folder=str(folder), config=asdict(config))
    return Parts(data, task, logger)
