"""Lightning's Trainer: of a training, of a trial, and what they have alike with judging."""

import logging
import warnings
from pathlib import Path
from typing import Any

from paribus.config import TrainConfig, TrainerConfig
from paribus.device import global_rank


def make_trainer(config: TrainConfig, folder: Path, loggers: list, in_sweep: bool) -> tuple[Any, Any, Any]:
    """Lightning's Trainer, the callback that keeps the best checkpoint, the one that measures speed."""
    from paribus.callbacks import EMA, Patience, Speed, keeping
    from paribus.checkpoints import WholeFiles
    from paribus.parallel import WholeToJudge
    from paribus.progress import Progress
    from paribus.stalled import Stalled

    t, monitor, mode = config.trainer, config.task["monitor"], config.task["mode"]
    best, *others = keeping(config, folder)
    speed = Speed()
    callbacks: list[Any] = [*([WholeToJudge()] if t.strategy == "fsdp" else []), best, speed]
    if t.strategy != "auto":
        callbacks.append(Stalled(t.timeout, folder))
    callbacks += others
    if t.early_stopping:
        callbacks.append(Patience(monitor=monitor, mode=mode, patience=t.early_stopping))
    if t.ema:
        callbacks.append(EMA(t.ema))
    if t.progress and global_rank(t) == 0:
        callbacks.append(Progress(folder.name if in_sweep else config.name, monitor, brief=in_sweep))
    return trainer_of(t, logger=loggers, callbacks=callbacks, plugins=[WholeFiles()]), best, speed


def trainer_of(t: TrainerConfig, **parts: Any) -> Any:
    """Lightning's Trainer for as long as the config says."""
    from lightning import Trainer

    from paribus.parallel import ending_together

    return ending_together(
        Trainer(
            **shared_settings(t),
            **parts,
            max_epochs=t.max_epochs,
            max_steps=t.max_steps,
            accumulate_grad_batches=t.accumulate,
            gradient_clip_val=t.gradient_clip,
            check_val_every_n_epoch=t.validate_every,
            num_sanity_val_steps=0,  # the files were verified; validation itself comes soon enough
        )
    )


def shared_settings(t: TrainerConfig) -> dict[str, Any]:
    """What training and judging tell Lightning alike."""
    from paribus.callbacks import Unprofiled
    from paribus.parallel import strategy

    return {
        "accelerator": t.accelerator,
        "devices": t.devices,
        "num_nodes": t.num_nodes,
        "strategy": strategy(t),
        "precision": t.precision,
        "deterministic": t.deterministic,
        "use_distributed_sampler": False,  # Lightning's repeats samples; DataModule shares them out exactly
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "profiler": Unprofiled(),
    }


def few_steps(t: TrainerConfig, **limits: Any) -> Any:
    """A Trainer of a few steps, of which nothing is kept: as training is, on one device."""
    from lightning import Trainer

    alone = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    return Trainer(
        **shared_settings(t) | alone,
        logger=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **limits,
    )


def quiet() -> None:
    """Lightning announces devices, tips and sister products at every Trainer; warnings still pass."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning 2.6.6 under torch 2.15: its own use of a class that torch is about to rename.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    # Workers are a key of the config (data.num_workers), and on small images none is fastest.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # The metrics are computed over all processes before they are logged; each holds the same value.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # A run that a job of Slurm starts by itself is one process, or DDP starts its others.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # A process without a share of the set has counted nothing, and says so to the others.
    warnings.filterwarnings("ignore", message=".*was called before the ``update`` method.*")
    # One batch an epoch is a fair choice, and rows come from Task.flush, not from this setting.
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
