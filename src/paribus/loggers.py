"""Where the numbers go besides result.json: metrics.csv always, and W&B or TensorBoard if asked."""

import os
import secrets
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from paribus.dashboard import field, logged_in
from paribus.history import History, stored
from paribus.results import MetricsFile, Run, read_json

if TYPE_CHECKING:
    import numpy as np

    from paribus.pictures import Example


class Csv(Logger):
    """metrics.csv in the run folder: step,epoch,metric,value, one row a value.

    Lightning's CSVLogger rewrites its file when a new metric comes, and deletes it when a run is
    resumed; this one appends, and forgets only what lies past the checkpoint that is resumed.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder)
        self.file: MetricsFile | None = None
        self.epoch = 0

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def log_dir(self) -> str:
        return str(self.folder)

    @rank_zero_only
    def resume_at(self, step: int) -> None:
        self.epoch = self._open().truncate_after(step)  # a run killed while it is judged trains no more epoch

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.epoch = int(metrics.get("epoch", self.epoch))  # Lightning puts the epoch among the metrics
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        self._open().append(step or 0, self.epoch, values)

    def _open(self) -> MetricsFile:
        if self.file is None:
            self.file = MetricsFile(self.folder / "metrics.csv")
        return self.file

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    def finalize(self, status: str) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


# What a chosen logger adds to Lightning's interface; train.py calls these:
#   resume_at(step)                                           after metrics.csv was: what comes later comes again
#   log_examples(split, examples, picture, target, classes)   judged samples, and the sheet of them
#   log_result(found, checkpoint)                             what result.json will say
#   finish(status)                                            "success", or else the run has failed
# Lightning itself calls finalize("success") when fit ends, which is before the test and the pictures.


class WandB(WandbLogger):
    """Weights & Biases: curves over trainer/global_step, per-class tables, examples with masks and boxes.

    A run there is named <name>/<job> and grouped by <name>; its config is the composed one, with each
    factor of an ablation as a field of its own (`backbone_norm`, of a config group `optimizer_choice`), to group
    and filter by; scripts/dashboard.py does. Resuming a run continues the one there: its id lies in the run folder.
    A run that fails ends there with exit code 1; one that is killed ends without a word, and W&B calls it crashed.

    mode: ``auto`` is online if the user has logged in (``wandb login``, or WANDB_API_KEY), else offline;
        WANDB_MODE goes before. Offline runs lie in <run folder>/wandb: ``wandb sync`` uploads them,
        ``wandb leet`` (recent releases) shows them in a terminal.
    """

    def __init__(
        self,
        *,
        folder: str,
        config: dict[str, Any],
        project: str = "paribus",
        entity: str | None = None,
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
        tags: list[str] | None = None,
    ):
        used = _mode() if mode == "auto" else mode
        super().__init__(
            name=f"{config['name']}/{Path(folder).name}",
            project=project,
            save_dir=folder,
            id=_run_id(Path(folder, "wandb_id")),
            entity=entity,
            group=config["name"],
            job_type="train",
            tags=tags or [],
            config=config | _factors(Path(folder), config),
            mode=used,
            settings={"silent": used in ("offline", "disabled"), "quiet": True} | _flushing(),
        )
        self._wandb_init.pop("anonymous", None)  # W&B has dropped it, and may warn of it
        self.history, self.step = History(Path(folder), self._there), 0

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run, begun when it is first asked for."""
        import wandb

        if self._experiment is None and wandb.run is not None:
            wandb.finish(exit_code=1)  # nobody ended it, and Lightning would go on logging into it
        return super().experiment

    @rank_zero_only
    def resume_at(self, step: int) -> None:
        """What W&B lacks of metrics.csv is sent with the next row, and what it has is not sent again."""
        self.step = step
        self.history.resume()

    def _there(self) -> int:
        if self._wandb_init["mode"] == "offline" or os.environ.get("WANDB_MODE") in ("offline", "dryrun"):
            return stored(self.history.folder, str(self._id))
        return getattr(self.experiment, "starting_step", 0)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.step = self.step if step is None else step
        if not self.history.knows({**metrics}, step):
            self._send({**metrics})

    def _send(self, row: dict[str, Any]) -> None:
        row["trainer/global_step"] = self.step  # also of a picture: W&B would take that of its own last row
        self.history.add(row, lambda each: self.experiment.log(each))

    @rank_zero_only
    def log_examples(
        self,
        split: str,
        examples: Sequence["Example"],
        picture: "np.ndarray",
        target: str,
        classes: Sequence[str],
    ) -> None:
        import wandb

        from paribus.sheets import verdict

        names = {**dict(enumerate(classes)), 255: "ignored"}
        images = []
        for example in examples:
            if target == "mask":
                pair = {"truth": example.truth, "prediction": example.answer}
                masks = {name: {"mask_data": mask, "class_labels": names} for name, mask in pair.items()}
                images.append(wandb.Image(example.image, caption=example.id, masks=masks))
            elif target == "boxes":
                boxes = {
                    "truth": {"box_data": _box_data(example.truth, classes), "class_labels": names},
                    "prediction": {"box_data": _box_data(example.answer, classes), "class_labels": names},
                }
                images.append(wandb.Image(example.image, caption=example.id, boxes=boxes))
            else:
                lines, _ = verdict(example, target, classes)
                words = "; ".join(line for line, _ in lines)
                images.append(wandb.Image(example.image, caption=f"{example.id}: {words}"))
        self._send({f"{split}/examples": images})

    @rank_zero_only
    def log_result(self, found: dict[str, Any], checkpoint: str | Path) -> None:
        """The summary: the best checkpoint's metrics and path, speed and size; and the tables of each split."""
        import wandb

        for name in ("per_class", "errors"):
            for split, table in found.get(name, {}).items():
                if table:
                    data = [list(row) for row in zip(*table.values(), strict=True)]
                    self._send({f"{split}/{name}": wandb.Table(columns=list(table), data=data)})
        plain = {k: v for k, v in found.items() if isinstance(v, str | int | float)}
        self.experiment.summary.update({**plain, **found["metrics"], "best_checkpoint": str(checkpoint)})

    @rank_zero_only
    def finish(self, status: str) -> None:
        """Ends the run there; without it the next run of this process would log into this one."""
        if self._experiment is not None:
            import wandb

            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None
            # Waits for W&B's own process, which older releases leave writing when a sweep ends what a run left behind.
            wandb.teardown()


def _run_id(file: Path) -> str:
    """The run's name at W&B, made once for a run folder."""
    if file.is_file():
        return file.read_text().strip()
    name = secrets.token_hex(4)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name + "\n")
    return name


def _factors(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """{"backbone_norm": "group"}. As result.json has them, which is there before a logger is made: from a config alone
    nobody can tell which option of a group it holds. What is no plain value is written as the report writes it."""
    known = folder / "result.json"
    run = Run(folder, config, read_json(known) if known.is_file() else {})
    return {field(key, config): _level(value) for key, value in run.factors.items()}


def _level(value: Any) -> str | int | float:
    return value if isinstance(value, str | int | float) else "null" if value is None else str(value)


def _flushing() -> dict[str, Any]:
    """Every second to the disk what a killed run has said, where the release knows how: its own way is every 15."""
    import wandb

    key = "x_transaction_log_flush_interval"
    return {key: 1.0} if key in wandb.Settings.model_fields else {}


def _mode() -> Any:
    if os.environ.get("WANDB_MODE"):
        return None  # W&B reads it itself
    return "online" if logged_in() else "offline"


def _box_data(found: dict[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    scores = found.get("scores")
    data = []
    for i, ((x0, y0, x1, y1), label) in enumerate(zip(found["boxes"], found["labels"], strict=True)):
        box: dict[str, Any] = {
            "position": {"minX": float(x0), "minY": float(y0), "maxX": float(x1), "maxY": float(y1)},
            "domain": "pixel",
            "class_id": int(label),
            "box_caption": classes[int(label)],
        }
        if scores is not None:
            box["scores"] = {"score": float(scores[i])}
            box["box_caption"] += f" {scores[i]:.2f}"
        data.append(box)
    return data


class TensorBoard(TensorBoardLogger):
    """TensorBoard, in <run folder>/tensorboard: ``tensorboard --logdir runs`` compares runs."""

    def __init__(self, *, folder: str, config: dict[str, Any]):
        super().__init__(save_dir=folder, name="tensorboard", version="")
        self.folder, self.config = Path(folder), config

    @rank_zero_only
    def resume_at(self, step: int) -> None:
        """TensorBoard forgets what lies past the step: all that comes after it comes again."""
        if step:
            self._kwargs["purge_step"] = step + 1

    @rank_zero_only
    def log_examples(
        self,
        split: str,
        examples: Sequence["Example"],
        picture: "np.ndarray",
        target: str,
        classes: Sequence[str],
    ) -> None:
        self.experiment.add_image(f"{split}/examples", picture, dataformats="HWC")

    @rank_zero_only
    def log_result(self, found: dict[str, Any], checkpoint: str | Path) -> None:
        """The factors and the seed with the metrics, for TensorBoard's table of hyperparameters."""
        self.log_hyperparams(
            {"seed": self.config["seed"], **_factors(self.folder, self.config)}, found["metrics"]
        )

    @rank_zero_only
    def finish(self, status: str) -> None:
        self.finalize(status)
