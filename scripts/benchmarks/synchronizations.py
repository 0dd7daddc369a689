"""How often a training step waits for the device between two rows of the log: Paribus, torchvision, Lightning.

    python scripts/benchmarks/synchronizations.py [--quick]

Counted and not timed, so that it holds on any machine without a GPU: the operations whose result or whose shape the
host needs (item, nonzero, unique, bincount, equal, boolean indexing) as torch dispatches them, and the calls that
fetch a tensor (cpu, tolist, numpy), which on a processor are none. A boolean `index_put_` counts, though CUDA may do
without the wait: the counts are upper bounds. All steps of Paribus run through its own Trainer with what comes with
it, those of others through their loop or Trainer; the first step is left out.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import measure
import torch
from ours import Fed, composed, fit, parts_of
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

STEPS = 4  # that are counted
WAITS = {
    *(
        "_local_scalar_dense",
        "nonzero",
        "unique_dim",
        "unique_consecutive",
        "_unique",
        "_unique2",
        "bincount",
    ),
    *("masked_select", "equal", "repeat_interleave"),
}
FETCHES = {torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__}
SMALL = [
    "data.reader.lengths={train: 32, val: 8, test: 8}",
    "data.batch_size=8",
    "trainer.max_epochs=1",
    "trainer.progress=false",
]
BOXES = ["experiment=digit_scenes_boxes", *SMALL]
TASKS = {  # what is counted of Paribus, each with the least that its network needs
    "classification": ["backbone=convnet4", *SMALL],
    "segmentation": ["experiment=digit_scenes_unet", *SMALL],
    "RetinaNet": ["model=retinanet", *BOXES],
    "FCOS": ["model=fcos", *BOXES],
    "SSD": ["model=ssd", *BOXES],
    "YOLO": ["model=yolo", *BOXES],
    "YOLO of 2015": ["experiment=digit_scenes_yolo_2015", *SMALL],
    "Faster R-CNN": ["model=faster_rcnn", *BOXES],
    "Mask R-CNN": ["model=mask_rcnn", *BOXES],
}
CLAIMED = ("classification", "segmentation", "RetinaNet", "FCOS", "SSD", "YOLO", "YOLO of 2015")
QUICK = ("classification", "segmentation", "FCOS")


class _Operations(TorchDispatchMode):
    def __init__(self, counts: "Counts"):
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and len(args) > 1 else ()
        boolean = isinstance(indices, list | tuple) and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices
        )
        # repeat_interleave with a tensor and without its sum; equal is a wait by its answer.
        known = name == "repeat_interleave" and (kwargs or {}).get("output_size") is not None
        self.counts.note(f"{name}[bool]" if boolean else name, boolean or (name in WAITS and not known))
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, counts: "Counts"):
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FETCHES:
            self.counts.note(func.__name__, True, operation=False)
        return func(*args, **(kwargs or {}))


class Counts:
    """What happens while `on`: the waits by name, and how many operations."""

    def __init__(self) -> None:
        self.on, self.waits, self.operations = False, Counter[str](), 0

    def note(self, name: str, waits: bool, operation: bool = True) -> None:
        if self.on:
            self.operations += operation
            self.waits[name] += waits

    def at(self, number: int) -> None:
        """Before each batch; those between the second and the last count."""
        self.on = 1 <= number <= STEPS

    @contextlib.contextmanager
    def counting(self):
        with _Calls(self), _Operations(self):
            yield


def counted(run: Callable[[Counts], None]) -> tuple[float, float, str]:
    """Waits and operations of a step, and which waits."""
    counts = Counts()
    with counts.counting():
        run(counts)
    named = ", ".join(f"{n / STEPS:g} {name}" for name, n in counts.waits.most_common() if n)
    return sum(counts.waits.values()) / STEPS, counts.operations / STEPS, named


def of_paribus(overrides: list[str]) -> tuple[float, float, str]:
    """Of whole batches of the set, so that targets are as they are."""
    config = composed(*overrides)
    parts = parts_of(config)
    parts.data.open("train")
    loaded = list(parts.data.train_dataloader())
    batches = [loaded[i % len(loaded)] for i in range(STEPS + 2)]

    def run(counts: Counts) -> None:
        fit(config, parts, Fed(batches, at=counts.at))

    return counted(run)


def of_a_loop(step: Callable[[], object]) -> tuple[float, float, str]:
    def run(counts: Counts) -> None:
        for number in range(STEPS + 2):
            counts.at(number)
            step()

    return counted(run)


def torchvision_classification() -> tuple[float, float, str]:
    """As its reference trains: the loss and two accuracies go to a meter in every step."""
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(192, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, targets = torch.randn(32, 3, 8, 8), torch.randint(10, (32,))

    def step() -> float:
        logits = model(images)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hits = logits.topk(5, 1).indices.t() == targets[None]
        shown = [hits[:k].flatten().sum(dtype=torch.float32) * (100 / len(targets)) for k in (1, 5)]
        return loss.item() + sum(one.item() for one in shown)

    return of_a_loop(step)


def idiomatic() -> tuple[float, float, str]:
    """The module of step_overhead.py with four metrics of the batch, and Lightning's defaults."""
    from lightning import Trainer
    from lightning.pytorch.loggers import CSVLogger
    from step_overhead import TINY, Idiomatic, Ways

    ways = Ways(TINY, STEPS + 2)
    module = Idiomatic(ways.fresh(), ways.parts.data.normalize, ways.make, watched=True)

    def run(counts: Counts) -> None:
        import tempfile

        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
            trainer = Trainer(
                max_epochs=1, accelerator="cpu", logger=CSVLogger(folder), num_sanity_val_steps=0
            )
            trainer.fit(module, Fed(ways.train, at=counts.at))

    return counted(run)


def torchvision_detection(name: str) -> tuple[float, float, str]:
    """Two images, as its reference trains, which adds the losses up for its meter."""
    import torchvision

    small = {} if name == "ssd300_vgg16" else {"min_size": 128, "max_size": 160}
    model = getattr(torchvision.models.detection, name)(
        weights=None, weights_backbone=None, num_classes=11, **small
    ).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    images = [torch.rand(3, 128, 128), torch.rand(3, 128, 128)]
    boxes = torch.tensor([[10.0, 10, 60, 60], [40, 50, 110, 120], [5, 70, 50, 120]])
    targets: list[dict[str, Tensor]] = [
        {"boxes": boxes[: 2 + i], "labels": torch.tensor([1, 4, 7])[: 2 + i]} for i in range(2)
    ]

    def step() -> list[float]:
        losses = model(images, targets)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        return [torch.stack(list(losses.values())).sum().item(), *(loss.item() for loss in losses.values())]

    return of_a_loop(step)


def notices() -> None:
    """The counter sees what waits, and nothing else."""
    counts = Counts()
    x = torch.arange(4.0, requires_grad=True)
    with counts.counting():
        counts.on = True
        (x * 2).sum().backward()
        assert not +counts.waits
        (
            x.sum().item(),
            x.detach()[x > 1],
            torch.where(x > 1),
            x.detach().tolist(),
            x.detach().cpu(),
            bool(x[0] > 1),
        )
    assert sum(counts.waits.values()) >= 6, counts.waits


def main() -> None:
    quick = measure.quick(__doc__)
    warnings.filterwarnings("ignore")
    notices()
    shown = QUICK if quick else tuple(TASKS)
    rows = {f"Paribus, {name}": of_paribus(TASKS[name]) for name in shown}
    rows["torchvision's loop, classification"] = torchvision_classification()
    rows["idiomatic Lightning, classification"] = idiomatic()
    detectors = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16")
    for name in () if quick else detectors:
        rows[f"torchvision's {name}, batch of 2"] = torchvision_detection(name)
    width = max(map(len, rows))
    print(f"\n{'':{width}}  {'waits':>7}  {'operations':>10}  of a step")
    for name, (waits, operations, named) in rows.items():
        print(f"{name:{width}}  {waits:7g}  {operations:10g}  {named}")
    print()
    for name in (name for name in CLAIMED if name in shown):
        # Counts, which need no quiet machine: judged in any case.
        measure.claim(f"waits in a step, {name}", "none", rows[f"Paribus, {name}"][0], "<=0")


if __name__ == "__main__":
    main()
    measure.end()
