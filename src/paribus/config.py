"""The config as typed objects.

The root, the trainer and the ablation are dataclasses, which Hydra holds every file and override to.
The other groups are nodes with a ``_target_``: there the constructor's signature is the schema
(checks.py); build.py makes the parts. Nothing here imports torch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from paribus.results import job_name

CONF = Path(__file__).parents[2] / "conf"


class ConfigError(ValueError):
    """The config says something that cannot be done; the message names the key and the fix."""


@dataclass
class AugmentationConfig:
    before_resize: list[Any] = field(default_factory=list)
    after_resize: list[Any] = field(default_factory=list)
    on_device: list[Any] = field(default_factory=list)


@dataclass
class TrainerConfig:
    """How training runs, whatever is trained. One optimizer step sees ``data.batch_size`` images."""

    accelerator: str = "cpu"  # cpu | gpu
    devices: int = 1  # processes on this machine; -1: every GPU
    num_nodes: int = 1  # machines; torchrun, Slurm or MASTER_ADDR and NODE_RANK say which of them this one is
    strategy: str = "auto"  # auto | ddp: each process holds the network | fsdp: its share of it
    find_unused_parameters: bool = False  # of ddp, for a network some of whose weights get no gradient
    static_graph: bool = False  # of ddp, for one that computes the same in every step: less waiting
    gradient_as_bucket_view: bool = False  # of ddp: gradients are sent from where they lie, and not copied
    timeout: float = 30.0  # minutes that the processes wait for one that stands still; then it is named
    precision: str = "32-true"  # 32-true | bf16-mixed | 16-mixed (GPU)
    max_epochs: int = 10
    max_steps: int = -1  # optimizer steps; ends training before max_epochs if it comes first
    accumulate: int = 1  # the batch goes through the network in this many parts, to save memory
    gradient_clip: float | None = None  # largest norm of the gradient
    early_stopping: int | None = None  # stop after this many validations without a better one
    ema: float | None = None  # decay of the moving average of the weights, 0.999 say
    channels_last: bool = False
    autotune: bool = (
        False  # precision and channels_last by a few steps of each, kept for this network and device
    )
    compile: bool = False  # by torch.compile: a minute or more at first, then faster steps on GPUs
    cuda_graphs: bool = False  # of compile: all kernels are started at once, which small networks gain by
    checkpoint_activations: bool = False  # compute a backbone's blocks twice: less memory, more time
    validate_every: int = 1  # epochs
    checkpoint_every: int | None = None  # steps, besides after every validation
    log_every: int = 50  # steps between two log rows: between them nothing waits for the device
    threads: int | None = None  # null: the cores, or OMP_NUM_THREADS where that is set
    deterministic: bool = False  # error on operations without a deterministic path (GPU)
    progress: bool = True

    def __post_init__(self) -> None:
        def need(ok: bool, message: str) -> None:
            if not ok:
                raise ConfigError(f"trainer.{message}")

        need(self.accelerator in ("cpu", "gpu"), f"accelerator={self.accelerator}: cpu or gpu")
        need(self.strategy in ("auto", "ddp", "fsdp"), f"strategy={self.strategy}: auto, ddp or fsdp")
        kinds = ("32-true", "bf16-mixed", "16-mixed")
        need(self.precision in kinds, f"precision={self.precision}: one of {', '.join(kinds)}")
        need(
            not (self.accelerator == "cpu" and self.precision == "16-mixed"),
            "precision=16-mixed needs a GPU; on the processor use trainer.precision=bf16-mixed",
        )
        need(
            self.devices == -1 or self.devices >= 1, f"devices={self.devices}: 1 or more, or -1 for every GPU"
        )
        need(
            not (self.accelerator == "cpu" and self.devices == -1),
            "devices=-1 means every GPU; on the processor say how many processes, trainer.devices=2",
        )
        for key in ("devices", "num_nodes"):
            need(
                getattr(self, key) == 1 or self.strategy != "auto",
                f"{key}={getattr(self, key)} needs trainer.strategy=ddp (trainer=ddp or trainer=ddp_cpu) or fsdp",
            )
        for key in ("find_unused_parameters", "static_graph", "gradient_as_bucket_view"):
            need(
                not getattr(self, key) or self.strategy == "ddp",
                f"{key}=true is ddp's: trainer.strategy=ddp, or trainer.{key}=false",
            )
        need(
            not (self.static_graph and self.find_unused_parameters),
            "static_graph=true finds out by itself which weights get no gradient: "
            "trainer.find_unused_parameters=false",
        )
        need(
            not (self.strategy == "fsdp" and self.precision == "16-mixed"),
            "precision=16-mixed scales the loss by what one process sees: with fsdp trainer.precision=bf16-mixed",
        )
        need(
            not (self.compile and self.strategy == "fsdp"),
            "compile=true is for whole networks: trainer.compile=false, or trainer.strategy=ddp",
        )
        need(
            not (self.compile and self.checkpoint_activations),
            "compile=true decides itself what to compute twice: trainer.checkpoint_activations=false",
        )
        need(
            not self.cuda_graphs or (self.compile and self.accelerator == "gpu"),
            "cuda_graphs=true is of compiled networks on GPUs: trainer=gpu trainer.compile=true",
        )
        need(self.timeout > 0, f"timeout={self.timeout}: minutes, more than 0")
        for key in ("max_epochs", "accumulate", "validate_every", "log_every", "num_nodes"):
            need(getattr(self, key) >= 1, f"{key}={getattr(self, key)}: 1 or more")
        for key in ("gradient_clip", "early_stopping", "checkpoint_every", "threads"):
            value = getattr(self, key)
            need(value is None or value > 0, f"{key}={value}: more than 0, or null for none")
        need(self.ema is None or 0 < self.ema < 1, f"ema={self.ema}: between 0 and 1, or null for none")


@dataclass
class LauncherConfig:
    """How the runs of a sweep share the machine (hydra.launcher.*)."""

    _target_: str = "hydra_plugins.paribus_launcher.ParibusLauncher"
    n_jobs: int | None = (
        None  # runs at once, on GPUs on each of them; null: one a GPU, or cores / threads of a run
    )
    memory: float | None = None  # GiB that a run may need: no more at once than fit into what is free
    timeout: float | None = None  # minutes that a run may take

    def __post_init__(self) -> None:
        for key in ("n_jobs", "memory", "timeout"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ConfigError(f"hydra.launcher.{key}={value}: more than 0, or null")


@dataclass
class PublishedConfig:
    """What the source found, to stand beside what is found here: other data, another budget."""

    metric: str = MISSING  # in words: CIFAR-10 test error, %
    values: dict[str, Any] = MISSING  # by level, as the report writes it


@dataclass
class AblationConfig:
    """A question: the factors with their levels, the seeds, the metric and the baseline."""

    question: str = MISSING
    source: str | None = None
    factors: dict[str, list[Any]] = MISSING
    seeds: list[int] = MISSING
    metric: str = MISSING
    baseline: dict[str, Any] = MISSING
    published: PublishedConfig | None = None


@dataclass
class TrainConfig:
    name: str = MISSING
    seed: int = 0
    root: str = "runs"
    test: bool = True
    views: str = "none"  # none | flip | ten_crop
    members: int = 1
    retry_failed: bool = True
    replicates: str = "separate"  # separate | stacked
    plan: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    backbone: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: dict[str, Any] = field(default_factory=dict)
    ablation: AblationConfig | None = None

    @property
    def metric(self) -> str:
        """What the run is judged by: the ablation's metric, else what the task monitors."""
        return self.ablation.metric if self.ablation else self.task["monitor"]


@dataclass
class EvaluateConfig:
    run: Any = MISSING  # a run folder, a glob, or a list of them: an ensemble
    split: str = "test"  # val | test
    views: str | None = None  # none | flip | ten_crop; null: as trained
    scales: list[float] = field(default_factory=lambda: [1.0])  # the image resized by each
    resize: Any = (
        None  # [H, W] that images are fitted to, for ten crops (null: 8/7 of the size) and masks; native
    )
    window: list[int] | None = None  # [H, W]: masks in overlapping windows; null: as trained
    overlap: float | None = None  # least share of a window that the next one covers too
    judge_at: str | None = None  # of masks: fitted | native; null: as trained
    output: str | None = None  # default: the run; for an ensemble the folder `ensemble` beside the first run
    data_root: str | None = None  # where the data is now, if not where it was
    batch_size: int | None = None
    num_workers: int | None = None
    accelerator: str = "cpu"


@dataclass
class PredictConfig:
    run: str = MISSING  # a run folder
    images: str = MISSING  # a file, a folder or a glob
    output: str | None = None  # default: <run>/predictions
    batch_size: int = 16
    resize: Any = None  # of masks: [H, W] that images are fitted to, or native; null: as trained
    window: list[int] | None = None  # [H, W]: masks in overlapping windows; null: as trained
    overlap: float | None = None  # least share of a window that the next one covers too
    score_threshold: float = 0.3  # boxes below it are not drawn; the JSON holds them all
    accelerator: str = "cpu"


@dataclass
class ExportConfig:
    run: str = MISSING  # a run folder
    format: str = "both"  # onnx | torch | both
    output: str | None = None  # default: <run>/export

    def __post_init__(self) -> None:
        if self.format not in ("onnx", "torch", "both"):
            raise ConfigError(f"format={self.format}: onnx, torch or both")


@dataclass
class ReportConfig:
    name: str | None = None  # an ablation: reads <root>/<name>
    runs: str | None = None  # or any folder of runs
    root: str = "runs"
    metric: str | None = None  # a name in result.json; default: the ablation's
    output: str | None = None  # default: `report` inside the folder
    against: str | None = None  # a folder of tables that these runs should make again


@dataclass
class DashboardConfig:
    name: str | None = None  # an ablation: of <root>/<name>
    runs: str | None = None  # or any folder of runs
    root: str = "runs"
    metric: str | None = None  # a name in result.json; default: the ablation's
    entity: str | None = None  # at W&B; default: the runs', else the user's own
    project: str | None = None  # default: the runs'


@dataclass
class ProfileConfig:
    data: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    input_size: Any = None  # pixels a side, or [H, W]; null: the data's
    classes: int | None = None  # null: those the data's file lists, else 1000, for masks 21, for boxes 91
    batch_size: int = 128  # images of a training step, for its memory and for what is measured
    until: Any = None  # a stride or a layer's name: the table ends with the first layer of it
    all: bool = False  # activations, dropout and other layers too that cost nothing
    measure: bool = False  # images a second and peak memory, on this machine
    accelerator: str = "cpu"  # cpu | gpu
    format: str = "text"  # text | markdown | csv
    output: str | None = None  # a folder for the tables and a figure

    def __post_init__(self) -> None:
        def need(ok: bool, message: str) -> None:
            if not ok:
                raise ConfigError(message)

        need(self.format in ("text", "markdown", "csv"), f"format={self.format}: text, markdown or csv")
        need(self.accelerator in ("cpu", "gpu"), f"accelerator={self.accelerator}: cpu or gpu")
        need(self.batch_size >= 1, f"batch_size={self.batch_size}: 1 or more")
        need(self.classes is None or self.classes >= 1, f"classes={self.classes}: 1 or more")


@dataclass
class ConvertConfig:
    data: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)  # its target, which some data refer to
    to: str = MISSING  # voc | coco | yolo
    output: str = MISSING  # a folder that does not exist yet
    splits: list[str] | None = None  # null: those that the set has
    files: str = "link"  # link | copy: how the images get there

    def __post_init__(self) -> None:
        for key, valid in (("to", ("voc", "coco", "yolo")), ("files", ("link", "copy"))):
            if getattr(self, key) not in (*valid, MISSING):
                raise ConfigError(f"{key}={getattr(self, key)}: one of {', '.join(valid)}")


def register() -> None:
    """Makes the schemas and the resolvers known to Hydra. Called before composing."""
    store = ConfigStore.instance()
    roots = (
        *(TrainConfig, EvaluateConfig, PredictConfig, ReportConfig, DashboardConfig),
        *(ProfileConfig, ConvertConfig, ExportConfig),
    )
    for schema in roots:
        store.store(name=schema.__name__.replace("Config", "_schema").lower(), node=schema)
    OmegaConf.register_new_resolver("job_name", job_name, replace=True)
    OmegaConf.register_new_resolver("direction", lambda mode: f"{mode}imize", replace=True)
