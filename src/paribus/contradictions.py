"""Choices that are valid one by one and cannot go together, each with the override that mends it."""

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from paribus.config import ProfileConfig, TrainConfig

# The kinds of target that the models and readers of a room can answer.
ROOMS = {
    "paribus.models.classifier.": ("label", "labels"),
    "paribus.models.segmentation.": ("mask",),
    "paribus.models.detection.": ("boxes",),
    "paribus.data.classification.": ("label", "labels"),
    "paribus.data.image_labels.": ("labels",),
    "paribus.data.published.": ("label", "labels"),
    "paribus.data.segmentation.": ("mask",),
    "paribus.data.detection.": ("boxes",),
    "paribus.data.yolo_text.": ("boxes",),
    "paribus.tasks.Classification": ("label", "labels"),
    "paribus.tasks.Segmentation": ("mask",),
    "paribus.tasks.Clustering": ("mask",),
    "paribus.tasks.Detection": ("boxes",),
}
TASKS = {"label": "classification", "labels": "multilabel", "mask": "segmentation", "boxes": "detection"}
MODELS = {"label": "classifier", "labels": "classifier", "mask": "unet", "boxes": "retinanet"}


def contradictions(config: TrainConfig) -> list[str]:
    """Of a run, a line each."""
    faults, trainer = answers(config), config.trainer
    parts = max(trainer.devices, 1) * trainer.num_nodes * trainer.accumulate
    size = config.data.get("batch_size")
    if isinstance(size, int) and size % parts:
        faults.append(
            f"`data.batch_size={size}` is the batch of one step over all devices and does not divide by {parts} "
            f"(devices x nodes x accumulate): data.batch_size={max(parts, size // parts * parts)}"
        )
    if "lr" not in config.optimizer:
        faults.append("`optimizer` lacks `lr`, the base rate: optimizer.lr=0.001")
    if config.replicates not in ("separate", "stacked"):
        faults.append(f"`replicates={config.replicates}`: separate or stacked")
    faults += _averages(config)
    monitor = config.task.get("monitor", "")
    if not str(monitor).startswith("val/"):
        faults.append(
            f"`task.monitor={monitor}`: the best checkpoint is chosen on the validation set: val/..."
        )
    if config.ablation and set(config.ablation.baseline) != set(config.ablation.factors):
        faults.append(
            "`ablation.baseline` must name one level of each factor: " + ", ".join(config.ablation.factors)
        )
    if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        launcher = HydraConfig.get().launcher  # submitit's, of these
        nodes, tasks = launcher.get("nodes", 1), launcher.get("tasks_per_node", 1)
        if nodes != trainer.num_nodes and nodes > 1:
            faults.append(
                f"`hydra.launcher.nodes={nodes}` and `trainer.num_nodes={trainer.num_nodes}` must be the same"
            )
        if tasks not in (1, trainer.devices):
            faults.append(
                f"`hydra.launcher.tasks_per_node={tasks}`: one for each device, hydra.launcher.tasks_per_node="
                f"{trainer.devices}, or 1, and DDP starts the others"
            )
    return faults


def _averages(config: TrainConfig) -> list[str]:
    """What cannot be averaged, of views and of members."""
    faults = []
    if config.members < 1:
        faults.append(f"`members={config.members}`: 1 or more")
    if config.members > 1:
        if config.task.get("target") not in ("label", "labels"):
            faults.append(f"`members={config.members}`: of classifiers only: members=1")
        for key, alone in (("freeze", "none"), ("layer_decay", 1.0)):
            if config.task.get(key, alone) != alone:
                faults.append(
                    f"`members={config.members}` with `task.{key}`: of one network only: task.{key}={alone}"
                )
    if config.views != "none":
        from paribus.views import refuse

        try:
            refuse(
                models=1,
                target=str(config.task.get("target")),
                views=config.views,
                crop=config.data.get("size"),
                scales=[1.0],
            )
        except ValueError as error:
            faults.append(str(error))
    return faults


def answers(config: TrainConfig | ProfileConfig) -> list[str]:
    """Of task, model and data, which do not answer with the same kind of target."""
    faults = []
    wanted = config.task.get("target")
    for group, target, mend in (
        ("task", config.task["_target_"], lambda kind: f"task={TASKS[kind]}"),
        (
            "model",
            config.model["_target_"],
            lambda kind: f"task={TASKS[kind]}, or model={MODELS[str(wanted)]}",
        ),
        (
            "data.reader",
            config.data.get("reader", {}).get("_target_", ""),
            lambda kind: f"task={TASKS[kind]}",
        ),
    ):
        kinds = next((k for prefix, k in ROOMS.items() if target.startswith(prefix)), None)
        if kinds and wanted in TASKS and wanted not in kinds:
            faults.append(
                f"`{group}` is {target}, which answers with {' or '.join(kinds)}, but `task.target` is {wanted}: "
                f"{mend(kinds[0])}"
            )
    return faults
