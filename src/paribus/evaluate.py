"""A finished run, judged again: the numbers of training's own test, to the last digit."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from paribus import results
from paribus.checks import check
from paribus.config import ConfigError, EvaluateConfig, Parts, TrainConfig, build
from paribus.train import CHECKPOINT, judge, quiet

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, float]:
    """Judges the best checkpoint of ``cfg.run`` on ``cfg.split``; writes evaluation_<split>.json there."""
    settings: EvaluateConfig = OmegaConf.to_object(cfg)  # type: ignore[assignment]
    if settings.split not in ("val", "test"):
        raise ConfigError(f"split={settings.split}: val or test")
    folder, config = run_config(settings.run)
    if settings.data_root is not None:
        config.data["reader"]["root"] = settings.data_root
    config.data["batch_size"] = settings.batch_size or config.data["batch_size"]
    if settings.num_workers is not None:
        config.data["num_workers"] = settings.num_workers
    one_device(config, settings.accelerator)
    parts = restored(folder, config)

    from paribus.examples import Examples

    quiet()
    metrics = judge(parts, config.trainer, settings.split, callbacks=[Examples(folder)])
    written = folder / f"evaluation_{settings.split}.json"
    per_class = parts.task.per_class[settings.split]
    results.write_json(
        written,
        {
            "split": settings.split,
            "metrics": metrics,
            "per_class": per_class,
            "checkpoint": str(CHECKPOINT),
            "finished": results.utc_now(),
            **results.environment(),
        },
    )
    _print(metrics, per_class)
    log.info("%s", written)
    return metrics


def run_config(folder: str | Path) -> tuple[Path, TrainConfig]:
    """The folder and the checked config of a run; ConfigError where there is none to load."""
    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(f"run={folder}: no such folder; a run folder looks like runs/<name>/<job>")
    if not (path / "config.yaml").is_file():
        inside = sorted(p.parent.name for p in path.glob("*/config.yaml"))
        hint = f"; it holds runs: {', '.join(inside[:5])}" if inside else ""
        raise ConfigError(f"run={folder}: no config.yaml there, so it is no run folder{hint}")
    stored = OmegaConf.load(path / "config.yaml")
    try:
        return path, check(OmegaConf.merge(OmegaConf.structured(TrainConfig), stored))  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"{path / 'config.yaml'} was written for another Paribus:\n{error}") from None


def one_device(config: TrainConfig, accelerator: str) -> None:
    """Judging goes on in one process: which device trained the run is no matter."""
    trainer = config.trainer
    trainer.accelerator, trainer.devices, trainer.num_nodes, trainer.strategy = accelerator, 1, 1, "auto"
    trainer.accumulate = 1
    if accelerator == "cpu" and trainer.precision == "16-mixed":
        trainer.precision = "bf16-mixed"


def restored(folder: Path, config: TrainConfig) -> Parts:
    """The parts of a run with the weights of its best checkpoint."""
    from paribus.device import check_device, set_threads

    checkpoint = folder / CHECKPOINT
    if not checkpoint.is_file():
        raise ConfigError(f"{checkpoint} is missing: the run has not finished an epoch; train it first")
    set_threads(config.trainer)
    import torch

    check_device(config.trainer)
    for key in ("pretrained", "weights"):  # the checkpoint holds every weight
        if key in config.backbone:
            config.backbone[key] = False if key == "pretrained" else None
    parts = build(config)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    parts.task.load_state_dict(state["state_dict"])
    return parts


def _print(metrics: dict[str, float], per_class: dict[str, list[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("metric", "value")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)
    if per_class:
        table = Table(*per_class)
        for row in zip(*per_class.values(), strict=True):
            table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row))
        console.print(table)
