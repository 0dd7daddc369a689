"""A finished run, judged again: the numbers of training's own test, to the last digit.

Or judged on several views of each image, or with other runs as an ensemble: then on the mean probability.
Or masks in windows, at another size, or at the size of their files.
"""

import glob
import logging
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from paribus import results
from paribus.build import Parts
from paribus.config import ConfigError, EvaluateConfig, TrainConfig
from paribus.restore import masks_as, one_device, restored, run_config, without_data_set
from paribus.train import CHECKPOINT, judge
from paribus.trainer import quiet

log = logging.getLogger(__name__)

Member = tuple[Path, TrainConfig]
SAME = ("reader", "size", "fit", "channels", "mean", "std")  # of the members' data


def run(cfg: DictConfig) -> dict[str, float]:
    """Judges the best checkpoint of ``cfg.run`` on ``cfg.split``; writes evaluation_<split>.json there.

    What is not as in training names the file and the pictures: evaluation_test_flip_x0.75_x1.json and
    figures/test_flip_x0.75_x1_examples.png. Several runs are judged on the data and at the precision of the
    first, and written to ``cfg.output``, by default the folder ``ensemble`` beside the first run.

    Raises ConfigError or ValueError for runs, views and scales of which no average can be taken, and for
    sizes and windows that cannot be.
    """
    settings: EvaluateConfig = OmegaConf.to_object(cfg)  # type: ignore[assignment]
    if settings.split not in ("val", "test"):
        raise ConfigError(f"split={settings.split}: val or test")
    members = [run_config(folder) for folder in run_folders(settings.run)]
    folder, config = members[0]
    named = _named(settings, config)
    settings.views = settings.views or config.views
    averaged = len(members) > 1 or settings.views != "none" or settings.scales != [1.0]
    if averaged:
        _refuse(settings, config, len(members))
    resize = _resize(settings, config)
    one_device(config, settings.accelerator)
    for other in members[1:]:
        _same_question(members[0], other)
    asked: dict[str, Any] = {}  # what a plain evaluation does not say
    changed = _changed(settings, config)
    if len(members) > 1 or named:
        asked = {"runs": [str(path) for path, _ in members], "views": settings.views}
        asked |= {"scales": settings.scales, "resize": resize, **changed}
    if settings.data_root is not None:
        config.data["reader"]["root"] = settings.data_root
    config.data["batch_size"] = settings.batch_size or config.data["batch_size"]
    if settings.num_workers is not None:
        config.data["num_workers"] = settings.num_workers
    parts = _averaged(members, settings, resize) if averaged else restored(folder, config)

    from paribus.callbacks import JudgingSpeed
    from paribus.confusion import Confusion
    from paribus.detected import Detected
    from paribus.examples import Examples
    from paribus.judged_images import JudgedImages

    output = Path(settings.output) if settings.output else folder
    if len(members) > 1 and not settings.output:
        output = folder.parent / "ensemble"
    written = output / f"{'_'.join(['evaluation', settings.split, *named])}.json"
    quiet()
    detected, judging = Detected(output), JudgingSpeed(settings.split)
    images = JudgedImages(output, named)
    watching = [Examples(output, named=named), Confusion(output, named), detected, images, judging]
    metrics = judge(parts, config.trainer, settings.split, callbacks=watching)
    per_class, errors = parts.task.per_class[settings.split], detected.errors.get(settings.split, {})
    output.mkdir(parents=True, exist_ok=True)
    results.write_json(
        written,
        {
            "split": settings.split,
            **asked,
            "metrics": metrics,
            "per_class": per_class,
            **({"errors": errors} if errors else {}),
            "judged_images_per_second": judging.images_per_second,
            "checkpoint": str(CHECKPOINT),
            "finished": results.utc_now(),
            **results.environment(),
        },
    )
    _print(metrics, per_class, errors)
    if asked:
        monitor = config.task["monitor"].replace("val/", f"{settings.split}/")
        what = ["ensemble"] if len(members) > 1 else []
        _print_beside(members, monitor, metrics.get(monitor), " ".join([*what, *named]))
    log.info("%s", written)
    return metrics


def run_folders(run: Any) -> list[Path]:
    """The folders that ``run`` names, itself or as a list; of a glob, those that are runs."""
    found: list[Path] = []
    for name in map(str, run if isinstance(run, list) else [run]):
        matches = [] if os.path.exists(name) else [Path(match) for match in glob.glob(name)]
        runs = [match for match in matches if (match / "config.yaml").is_file()]
        found += sorted(runs, key=lambda path: results.natural(str(path))) or [Path(name)]
    if not found:
        raise ConfigError("run=[]: one run folder or more")
    twice = [path for path in found if [other.resolve() for other in found].count(path.resolve()) > 1]
    if twice:
        raise ConfigError(f"run: {twice[0]} is named twice; a run is one member of an ensemble")
    return found


def _named(settings: EvaluateConfig, config: TrainConfig) -> list[str]:
    """What tells this evaluation from a plain one, in words for a file name."""
    named = [settings.views] if settings.views not in (None, config.views) else []
    if settings.resize:
        named.append(settings.resize if settings.resize == "native" else "x".join(map(str, settings.resize)))
    named += [f"x{scale:g}" for scale in settings.scales] if settings.scales != [1.0] else []
    named += ["window" + "x".join(map(str, settings.window))] if settings.window else []
    named += [f"overlap{settings.overlap:g}"] if settings.overlap is not None else []
    return named + ([f"judged_{settings.judge_at}"] if settings.judge_at else [])


def _refuse(settings: EvaluateConfig, config: TrainConfig, models: int) -> None:
    """ValueError for what cannot be averaged."""
    from paribus.views import refuse

    refuse(
        models=models,
        target=config.task["target"],
        views=settings.views or config.views,
        crop=config.data.get("size"),
        scales=settings.scales,
    )


def _resize(settings: EvaluateConfig, config: TrainConfig) -> Any:
    """The size that images are fitted to, if another than trained on: ten crops are cut from a larger one."""
    from paribus.views import cut_from

    size: Any = config.data.get("size")
    if settings.views != "ten_crop":
        if settings.resize and config.task["target"] != "mask":
            raise ConfigError(
                f"resize={settings.resize}: what crops are cut from, with views=ten_crop only, or of masks"
            )
        return settings.resize
    resize = settings.resize or cut_from(size)
    if not isinstance(resize, list) or len(resize) != 2 or resize[0] < size[0] or resize[1] < size[1]:
        raise ConfigError(
            f"resize={resize}: [height, width], from which crops of {size} (data.size) can be cut"
        )
    return resize


def _changed(settings: EvaluateConfig, config: TrainConfig) -> dict[str, Any]:
    """Sets what concerns the size of masks, and returns it."""
    if settings.judge_at not in (None, "fitted", "native"):
        raise ConfigError(f"judge_at={settings.judge_at}: fitted or native")
    resize = None if settings.views == "ten_crop" else settings.resize
    changed = masks_as(config, resize=resize, window=settings.window, overlap=settings.overlap)
    # Images that keep their own sizes are padded to those of their batch, unless they are judged one by one.
    judge_at = settings.judge_at or ("native" if resize == "native" else None)
    if judge_at:
        config.data["judge_at"] = changed["judge_at"] = judge_at
    return changed


def _same_question(first: Member, other: Member) -> None:
    """ConfigError where two runs answer different questions; another network or seed is no such difference."""
    a, b = (
        {"task.target": config.task["target"], "data": {key: config.data.get(key) for key in SAME}}
        for _, config in (first, other)
    )
    found = results.differences(a, b, ignore=("data.reader.root",))
    if found:
        raise ConfigError(
            f"run: {first[0]} and {other[0]} answer different questions, so no mean can be taken of them:\n"
            + "\n".join(f"  {key}: {ours} and {theirs}" for key, ours, theirs in found)
        )


def _averaged(members: list[Member], settings: EvaluateConfig, resize: Any) -> Parts:
    """The first run's parts, with the mean of all views and all networks in the place of its model."""
    from paribus.views import judge_by

    (folder, config), others = members[0], members[1:]
    parts = restored(folder, config)
    models = [parts.task.model]
    for path, theirs in others:
        without_data_set(path, theirs)
        theirs.trainer = config.trainer  # one layout, one number of threads
        member = restored(path, theirs)
        if tuple(member.data.classes) != tuple(parts.data.classes):
            raise ConfigError(
                f"run: {folder} and {path} have different classes, so no mean can be taken of them:\n"
                f"  {', '.join(parts.data.classes)}\n  {', '.join(member.data.classes)}"
            )
        models.append(member.task.model)
    judge_by(parts, models, views=settings.views, scales=settings.scales, resize=resize)
    return parts


def _print(metrics: dict[str, float], *tables: dict[str, list[Any]]) -> None:
    """The metrics, and the tables that are not empty: a list a column."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("metric", "value")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)
    for columns in filter(None, tables):
        table = Table(*columns)
        for row in zip(*columns.values(), strict=True):
            table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row))
        console.print(table)


def _print_beside(members: list[Member], monitor: str, value: float | None, what: str) -> None:
    """Each run's own value, as its training found it, and that of the mean."""
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column("run", overflow="fold"), monitor)
    rows = [(str(path), results.Run.read(path).metrics.get(monitor)) for path, _ in members]
    for name, found in [*rows, (what, value)]:
        table.add_row(name, "-" if found is None else f"{found:.4f}")
    Console().print(table)
