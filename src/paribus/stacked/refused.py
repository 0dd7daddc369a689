"""Which runs are never stacked: what a config alone tells. No torch."""

from paribus.config import TrainConfig

# Their step is one for each value of a weight, whatever lies beside it.
OPTIMIZERS = ("torch.optim.SGD", "torch.optim.Adam", "torch.optim.AdamW", "torch.optim.RMSprop")


def why_not(config: TrainConfig) -> str | None:
    """Why the seeds of a run cannot be trained side by side and come to what they come to alone; None if they can."""
    t, task, data = config.trainer, config.task, config.data
    optimizer = config.optimizer.get("_target_")
    drawn = [f"task.{key}={task[key]}" for key in ("mixup", "cutmix") if task.get(key)]
    of_whole = [f"trainer.{key}" for key in ("ema", "early_stopping") if getattr(t, key)]
    for refused, words in (
        (task["_target_"] != "paribus.tasks.Classification", f"{task['_target_']} is no classification"),
        (task.get("target") != "label", f"task.target={task.get('target')} is not of one class an image"),
        (bool(drawn), f"{' and '.join(drawn)} is drawn in the step"),
        (bool(task.get("teacher")), "task.teacher: the step has a second network"),
        (bool(task.get("head_first")), "task.head_first: what learns changes on the way"),
        (config.members > 1, f"members={config.members} are side by side already"),
        (optimizer not in OPTIMIZERS, f"optimizer={optimizer} is none of {', '.join(OPTIMIZERS)}"),
        (bool(of_whole), f"{' and '.join(of_whole)}: for each seed of its own"),
        (t.accumulate > 1, f"trainer.accumulate={t.accumulate}"),
        (t.precision != "32-true", f"trainer.precision={t.precision} rounds too coarsely to be equal"),
        (t.compile, "trainer.compile=true"),
        (t.checkpoint_activations, "trainer.checkpoint_activations=true"),
        (t.strategy != "auto", f"trainer.strategy={t.strategy}"),
        ("_target_" in config.logger, "the logger is not csv"),
        (not data.get("size"), "data.size=null: batches of unequal size"),
        (bool(data.get("scales")), "data.scales: each seed draws its own size"),
    ):
        if refused:
            return words
    return None
