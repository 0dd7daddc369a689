"""One run, from a config to a folder that says what was found. Reads from top to bottom."""

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from paribus.autotune import tuned
from paribus.batch_size import resolved
from paribus.build import Parts, build
from paribus.checks import check
from paribus.config import TrainConfig, TrainerConfig
from paribus.device import check_device, device_name, global_rank, peak_memory, set_threads
from paribus.garbage import uncollected
from paribus.record import Record, claimed, known_result
from paribus.sweep import handed
from paribus.sweep.probe import probe
from paribus.trainer import make_trainer, quiet, shared_settings
from paribus.trouble import in_words

log = logging.getLogger(__name__)

CHECKPOINT = Path("checkpoints", "best.ckpt")  # the one that is judged


def run(cfg: DictConfig, folder: str | Path, *, in_sweep: bool = False) -> float | None:
    """Trains, judges and records one run in ``folder``.

    A finished run is skipped, an unfinished one resumed; one with another config is refused. Returns
    the ablation's metric, else the monitored one, of the best checkpoint.

    Raises:
        ConfigError: a key or choice is wrong, or the folder holds another experiment.
        DataError: the data does not hold what the config says.
    """
    folder = Path(folder).absolute()
    config = check(tuned(resolved(cfg, folder), folder))
    if config.plan:
        log.info("about %s", probe(config))
        return None
    if in_sweep and handed.by_another():
        return handed.hand_on(cfg, config, folder)
    handed.tie()
    first = global_rank(config.trainer) == 0  # the others train beside it, and write nothing
    with claimed(folder) if first else nullcontext():
        known = known_result(folder, config)
        if known and known["status"] == "done":
            if first and not in_sweep:
                log.info("done before: %s\n%s", _line(known), folder)
            return known["metrics"].get(config.metric)
        record = Record(folder, config, choices()) if first else None
        try:
            with in_words(config, folder):
                found = train(config, folder, in_sweep)
                if record:
                    record.done(found)
        except BaseException as error:
            if record:
                record.failed(error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                log.info("interrupted; the same command resumes it")
                # Lightning ends with 1 after Ctrl-C, and after SIGTERM with 0, as if all were done.
                raise SystemExit(143 if type(error).__name__ == "SIGTERMException" else 130) from None
            raise
    if first and not in_sweep:
        log.info("%s\n%s", _line(found), folder)
    return found["metrics"].get(config.metric)


def choices() -> dict[str, str]:
    """The options chosen from the groups, which a resolved config no longer tells."""
    return dict(HydraConfig.get().runtime.choices) if HydraConfig.initialized() else {}


def _line(found: dict[str, Any]) -> str:
    tested = {name: value for name, value in found["metrics"].items() if name.startswith("test/")}
    # None: not defined (no large object, say), as result.json has it
    return "  ".join(f"{name} {float('nan') if v is None else v:.4f}" for name, v in tested.items())


def train(config: TrainConfig, folder: Path, in_sweep: bool = False) -> dict[str, Any]:
    """Builds, fits and judges; returns what result.json says beyond the config."""
    threads = set_threads(config.trainer)
    with uncollected():  # torch too, and all that lightning brings
        from lightning import seed_everything
        from lightning.pytorch.utilities import rank_zero_only
        from lightning.pytorch.utilities.exceptions import SIGTERMException

        from paribus.checkpoints import latest
        from paribus.loggers import Csv
        from paribus.parallel import heard, prepared

    quiet()
    check_device(config.trainer)
    # Until a Trainer says so, Lightning takes LOCAL_RANK for it: each node's first process would write metrics.csv.
    rank_zero_only.rank = global_rank(config.trainer)  # type: ignore[attr-defined]
    seed_everything(config.seed, workers=True, verbose=False)

    parts = build(config, folder)
    parts.data.open("train", "val", *(["test"] if config.test else []))
    csv = Csv(folder)
    loggers = [csv, *([parts.logger] if parts.logger is not None else [])]

    resumed, step = latest(folder / "checkpoints")
    if resumed:
        log.info("resumed at step %d", step)
    csv.resume_at(step)
    if parts.logger is not None:
        parts.logger.resume_at(step)

    trainer, best, speed = make_trainer(config, folder, loggers, in_sweep)
    status = "failed"
    try:
        with prepared(parts.task.model, config.trainer):
            trainer.fit(parts.task, parts.data, ckpt_path=resumed, weights_only=True)
        if heard(trainer):  # after the last step; what is left is to judge
            raise SIGTERMException
        found = concluded(config, folder, parts, loggers, (trainer, best, speed), threads)
        status = "success"
    except Exception:
        if heard(trainer):  # other processes are gone, and what fails then fails for that
            raise SIGTERMException from None
        raise
    finally:
        csv.finalize(status)
        if parts.logger is not None:  # Lightning calls its finalize as soon as fit ends
            parts.logger.finish(status)
    return found


def concluded(
    config: TrainConfig,
    folder: Path,
    parts: Parts,
    loggers: list,
    trained: tuple[Any, Any, Any],
    threads: int,
) -> dict[str, Any]:
    """Judges the best checkpoint of a training that is over; what result.json says of it.

    trained: what make_trainer() made.
    """
    import torch

    from paribus.callbacks import JudgingSpeed
    from paribus.confusion import Confusion
    from paribus.detected import Detected
    from paribus.examples import Examples
    from paribus.judged_images import JudgedImages
    from paribus.profile.complexity import count
    from paribus.stalled import Stalled

    trainer, best, speed = trained
    if not best.best_model_path:  # max_steps came before the first validation: the end is the best
        trainer.save_checkpoint(folder / CHECKPOINT)
        trainer.strategy.checkpoint_io.wait()
    state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    if config.trainer.strategy == "fsdp":  # the network that was trained is in shares: this one is whole
        parts = parts._replace(task=build(config).task)
    parts.task.load_state_dict(state["state_dict"])
    if config.views != "none":
        from paribus.views import judge_by

        judge_by(parts, [parts.task.model], views=config.views)
    splits = ("val", "test") if config.test else ("val",)
    detected, judging = Detected(folder), JudgingSpeed(splits[-1])
    images = JudgedImages(folder)
    watching = [Examples(folder, parts.logger), Confusion(folder), detected, images, judging]
    waiting = Stalled(config.trainer.timeout, folder)
    metrics = judge(parts, config.trainer, *splits, callbacks=[*watching, waiting])
    parameters, macs = count(parts.task.model, image_size(parts), parts.data.channels)
    found = {
        "metrics": metrics,
        "per_class": parts.task.per_class,
        **({"errors": detected.errors} if detected.errors else {}),
        "classes": parts.data.classes,  # with the palette, all that prediction needs of the set
        "palette": parts.data.reader.palette,
        "best_epoch": int(state["epoch"]),
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "parameters": parameters,
        "macs": macs,
        "images_per_second": speed.images / speed.seconds if speed.seconds else None,
        "judged_images_per_second": judging.images_per_second,
        "peak_memory_bytes": peak_memory(),
        "device": device_name(config.trainer),
        "processes": trainer.world_size,
        "threads": threads,
    }
    tested = {name: value for name, value in metrics.items() if name.startswith("test/")}
    for logger in loggers:
        logger.log_metrics(tested, trainer.global_step)
    if parts.logger is not None:
        parts.logger.log_result(found, folder / CHECKPOINT)
    return found


def judge(
    parts: Parts, t: TrainerConfig, *splits: str, callbacks: list[Any] | None = None
) -> dict[str, float]:
    """The metrics of the weights in ``parts.task`` on whole splits (val, test), as ``<split>/<metric>``.

    Training's own test and scripts/evaluate.py both come here, so their numbers are the same ones.
    """
    from lightning import Trainer

    from paribus.parallel import ending_together

    found: dict[str, float] = {}
    t = replace(t, strategy="ddp") if t.strategy == "fsdp" else t
    for split in splits:
        settings = shared_settings(t)
        trainer = ending_together(
            Trainer(**settings, logger=False, enable_checkpointing=False, callbacks=callbacks)
        )
        work = trainer.validate if split == "val" else trainer.test
        work(parts.task, datamodule=parts.data, verbose=False)
        found |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    return found


def image_size(parts: Parts) -> tuple[int, int]:
    """(H, W) that the network sees; of the first training image where every image keeps its own."""
    return parts.data.size or parts.data.splits["train"][0].image.shape[:2]
