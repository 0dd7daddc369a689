"""A finished run's parts, with the weights of its best checkpoint."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paribus import results
from paribus.build import Parts, build
from paribus.checks import check
from paribus.config import ConfigError, TrainConfig
from paribus.garbage import uncollected
from paribus.train import CHECKPOINT
from paribus.trust import refuse_foreign


def run_config(folder: str | Path) -> tuple[Path, TrainConfig]:
    """The folder and the checked config of a run; ConfigError where there is none to load, or it names what the
    config of a run may not (trust.py).
    """
    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(f"run={folder}: no such folder; a run folder looks like runs/<name>/<job>")
    if not (path / "config.yaml").is_file():
        inside = sorted(p.parent.name for p in path.glob("*/config.yaml"))
        hint = f"; it holds runs: {', '.join(inside[:5])}" if inside else ""
        raise ConfigError(f"run={folder}: no config.yaml there, so it is no run folder{hint}")
    file = path / "config.yaml"
    try:
        stored = OmegaConf.load(file)
    except (yaml.YAMLError, OSError) as error:  # the second: of a YAML that is one word
        raise ConfigError(f"{file} is no YAML of a run: {error}") from None
    refuse_foreign(OmegaConf.to_container(stored), file)
    try:
        config = check(OmegaConf.merge(OmegaConf.structured(TrainConfig), stored))  # type: ignore[arg-type]
    except (ConfigError, OmegaConfBaseException, TypeError) as error:
        raise ConfigError(f"{file} was written for another Paribus:\n{error}") from None
    if config.data.get("reader", {}).get(
        "archives"
    ):  # addresses that the run names: train.py fetches, on demand
        config.data["reader"]["download"] = False
    return path, config


def one_device(config: TrainConfig, accelerator: str) -> None:
    """Judging goes on in one process: which device trained the run is no matter."""
    trainer = config.trainer
    trainer.accelerator, trainer.devices, trainer.num_nodes, trainer.strategy = accelerator, 1, 1, "auto"
    trainer.accumulate = 1
    if accelerator == "cpu" and trainer.precision == "16-mixed":
        trainer.precision = "bf16-mixed"


def masks_as(
    config: TrainConfig, *, resize: Any, window: list[int] | None, overlap: float | None
) -> dict[str, Any]:
    """Changes how large images are and how they are answered, where masks are asked for; returns what changed.

    resize: [H, W] that images are fitted to, or ``native``: none is. window, overlap: see windows.py.

    Raises ConfigError for other targets, and for windows that hold the whole image.
    """
    asked = {"resize": resize, "window": window, "overlap": overlap}
    changed = {key: value for key, value in asked.items() if value is not None}
    if not changed:
        return {}
    target = config.task["target"]
    if target != "mask":
        key, value = next(iter(changed.items()))
        raise ConfigError(f"{key}={value}: of masks, and this run answers with {target}: leave it out")
    if resize is not None:
        numbers = resize if isinstance(resize, list) and len(resize) == 2 else [0]
        if resize != "native" and not all(isinstance(n, int) and n > 0 for n in numbers):
            raise ConfigError(f"resize={resize}: [height, width] in pixels, or native")
        config.data["size"] = None if resize == "native" else resize
    config.task |= {key: changed[key] for key in ("window", "overlap") if key in changed}
    window, size = config.task.get("window"), config.data.get("size")
    if overlap is not None and not window:
        raise ConfigError(f"overlap={overlap} is that of windows: window=[height,width] too")
    if window and size and len(window) == 2 and window[0] >= size[0] and window[1] >= size[1]:
        raise ConfigError(
            f"window={window} holds the whole image, which is fitted to {size} (data.size): resize=native "
            "leaves it at its own size, resize=[height,width] fits it to another"
        )
    return changed


def without_data_set(folder: Path, config: TrainConfig) -> None:
    """A finished run says its classes itself: its data set, which may be elsewhere by now, is not opened."""
    known = results.Run.read(folder).result
    if "classes" in known:
        config.data["reader"] = {
            "_target_": "paribus.data.samples.Known",
            "target": config.task["target"],
            "classes": known["classes"],
            "palette": known["palette"],
        }


def restored(folder: Path, config: TrainConfig) -> Parts:
    """The parts of a run with the weights of its best checkpoint."""
    from paribus.device import check_device, set_threads

    checkpoint = folder / CHECKPOINT
    if not checkpoint.is_file():
        raise ConfigError(f"{checkpoint} is missing: the run has not finished an epoch; train it first")
    set_threads(config.trainer)
    with uncollected():  # torch and lightning
        from paribus.checkpoints import state_of

    check_device(config.trainer)
    for key in ("pretrained", "weights"):  # the checkpoint holds every weight
        if key in config.backbone:
            config.backbone[key] = False if key == "pretrained" else None
    if config.task.get("teacher"):  # it has taught
        config.task["teacher"] = None
    state, wrong = state_of(checkpoint)
    if wrong:
        raise ConfigError(f"{checkpoint} {wrong}: fetch it again, or remove the run and train it again")
    parts = build(config)
    parts.task.load_state_dict(state["state_dict"])
    return parts


def teacher_model(path: str, data: Any) -> Any:
    """The model of a finished run, to be distilled on ``data``: of the same classes, normalized alike."""
    try:
        folder, config = run_config(path)
        without_data_set(folder, config)
        one_device(config, "cpu")  # what it was trained on is no matter, and the student says the threads
        config.trainer.threads = None
        known = restored(folder, config)
    except ConfigError as error:
        raise ConfigError(f"task.teacher: {error}") from None
    for key, there, here in (
        ("reader.classes", list(known.data.classes), list(data.classes)),
        ("mean", known.data.mean.tolist(), data.mean.tolist()),
        ("std", known.data.scale.tolist(), data.scale.tolist()),
    ):
        if there != here:
            raise ConfigError(f"task.teacher={path} was trained with another data.{key}: {there}, not {here}")
    return known.task.model
