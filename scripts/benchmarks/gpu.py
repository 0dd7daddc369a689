"""What is claimed of a GPU, in one program of about 12 minutes: `make bench-gpu`.

    python scripts/benchmarks/gpu.py [section ...] [--minutes 12] [--cifar FOLDER] [--output FILE] [--quick]

Sections, most important first: small_images, small_steps, waits, resnet50, detection, seeds, rate, speedrun. One that
fails is told with its traceback, and the others go on; one whose time does not fit into what is left of --minutes is
listed as not measured. After each section FILE (results/benchmarks_gpu.md) is written anew. Weights, data, batch and
precision of the ways of a section are the same; the loss that each came to stands beside its time. Whole epochs are
those after a first, warm one, of one run a way; steps are measured in turn.

On a machine without a GPU it makes a dry pass: tiny sizes, one round, nothing judged, nothing written but to a FILE
that is named. What a processor lacks is left out by name: compiled steps, set_sync_debug_mode.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import argparse
import contextlib
import copy
import datetime
import functools
import gc
import io
import json
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from loader import photographs
from ours import Fed, composed, fit, parts_of
from step_overhead import Idiomatic, Watched, optimizer_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from paribus.build import Parts
from paribus.config import TrainConfig
from paribus.device import cores
from paribus.profile.complexity import count

ROOT = Path(__file__).resolve().parents[2]
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
WORKERS = min(16, cores()) if GPU else 1
# No validation: what is measured is training. Rows of the log and all else are as by default.
COMMON = [
    "trainer=gpu" if GPU else "trainer=cpu",
    "trainer.precision=bf16-mixed",
    "trainer.validate_every=100000",
]
DIGITS = ["data=digit_scenes", "data.reader.lengths={train: 128, val: 8, test: 8}"]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Sizes:
    """Of all sections. quick: tiny."""

    def __init__(self, quick: bool):
        self.quick, self.judged, self.rounds = quick, not quick, 1 if quick else 5
        self.epochs = 1 if quick else 5  # that count, after a warm one
        self.cifar, self.cifar_batch = (40, 16) if quick else (50_000, 512)
        self.steps, self.warm = (4, 1) if quick else (400, 50)
        self.files, self.links, self.side, self.batch = (32, 1, 32, 8) if quick else (4000, 2, 224, 256)
        self.network = "resnet18" if quick else "resnet50"
        self.detection_side, self.detection_batch = (64, 2) if quick else (640, 16)
        self.detection_steps, self.detection_warm = (2, 0) if quick else (25, 5)
        self.seeds = 2 if quick else 8
        self.matrix = 256 if quick else 8192


# --- what sections share ---------------------------------------------------------------------------


def now() -> float:
    """Seconds, when all that was asked of the GPU is done."""
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


class Epochs(Callback):
    """Seconds of each epoch but the first, from its start to that of the next."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.end = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.starts.append(now())

    def on_train_epoch_end(self, *_: Any) -> None:
        self.end = now()

    @property
    def seconds(self) -> list[float]:
        return [b - a for a, b in pairwise([*self.starts[1:], self.end])]


def trained(config: TrainConfig, parts: Parts, *watching: Callback, fed: Fed | None = None) -> float:
    """Trains as paribus.train does; the last loss of its log."""
    rows: list[dict] = []
    fit(config, parts, fed, lambda row: rows.append(dict(row)), watching)
    return [row["train/loss"] for row in rows if "train/loss" in row][-1]


def fresh(parts: Parts) -> Parts:
    """The same weights again, and a data module that was not trained on."""
    return parts._replace(task=copy.deepcopy(parts.task))


class Peer(Idiomatic):
    """step_overhead.py's module, for batches without names too."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch[0], batch[1], []), batch_idx)


class WatchedThere(Watched):
    """step_overhead.py's task with the metrics of what it trains on, on the device."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.watch.to(self.device)


def idiomatically(module: Any, batches: Any, *watching: Callback, epochs: int = 1) -> float:
    """Lightning with what its documentation adds, without checkpoints, which cost it more than us; the mean loss of
    the last epoch."""
    hidden = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, hidden[0], hidden[1]:
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="gpu" if GPU else "cpu",
            devices=1,
            precision="bf16-mixed",
            logger=CSVLogger(folder),
            callbacks=[LearningRateMonitor("step"), *watching],
            num_sanity_val_steps=0,
            limit_val_batches=0,
            enable_checkpointing=False,
        )
        trainer.fit(module, batches)
        return float(trainer.callback_metrics["train/loss_epoch"])


def forward_loss(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Under autocast, as all ways have it."""
    with torch.autocast(DEVICE.type, torch.bfloat16):
        logits = model(images)
        return logits, F.cross_entropy(logits, targets)


def attempted(ways: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """What each way returns, one after the other; one that fails is told and left out."""
    found = {}
    for name, way in ways.items():
        try:
            found[name] = way()
        except Exception:
            print(f"FAILED way `{name}`:\n{traceback.format_exc(limit=-6)}", flush=True)
        clean()
    return found


def in_turn(ways: dict[str, Callable[[], float]], s: Sizes, rounds: int) -> dict[str, list[float]]:
    """Of the ways that work, each taken once before."""
    first = attempted(ways)
    if s.quick:
        return {name: [seconds] for name, seconds in first.items()}
    return measure.in_turn({name: ways[name] for name in first}, rounds)


def clean() -> None:
    """What a section or a way may have left behind."""
    torch.compiler.reset()
    torch.backends.cudnn.benchmark = False
    gc.collect()
    if GPU:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.empty_cache()


def told(words: str) -> None:
    print(f"told: {words}", flush=True)


def compared(
    found: dict[str, list[float]], what: str, own: str, bounds: dict[str, str], s: Sizes, rates: bool = False
) -> None:
    """Claims of how many times as long others take, or where rates were found, as fast we are."""
    for against, bound in bounds.items():
        if against not in found or own not in found:
            measure.FAILED.append(what)
            print(f"FAILED {what} against {against}: one of the two was not measured", flush=True)
            continue
        above, below = (own, against) if rates else (against, own)
        measure.claim(what, against, measure.ratio(found[above], found[below]), bound, s.judged)


# --- 1: small images -------------------------------------------------------------------------------


def cifar(s: Sizes, home: Path, given: Path | None) -> list[str]:
    """Overrides for the set: the given one, or random pixels in CIFAR's files."""
    if (
        given is not None
        and not (given / "cifar-10-batches-py").is_dir()
        and given.name != "cifar-10-batches-py"
    ):
        lacking = ", ".join(f"{name}: 0.1" for name in ("val", "test") if not (given / name).is_dir())
        shape = [f"data.mean={[*MEAN]}", f"data.std={[*STD]}", "data.size=[32,32]", "data.fit=stretch"]
        return ["data=class_folders", f"data.reader.root={given}", f"data.reader.split={{{lacking}}}", *shape]
    root = given or home / "cifar"
    folder = root / "cifar-10-batches-py"
    if given is None and not folder.is_dir():
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            number = s.cifar // 5
            pixels = rng.integers(0, 256, (number, 3072), np.uint8)
            (folder / name).write_bytes(
                pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(number)]})
            )
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{i}" for i in range(10)]}))
    return ["data=cifar10", f"data.reader.root={root}"]


class Pictures(Dataset):
    """As torchvision's CIFAR10: arrays in memory, made a PIL image each."""

    def __init__(self, images: np.ndarray, labels: list[int]):
        from torchvision import transforms as T

        self.images, self.labels = images, labels
        self.transform = T.Compose(
            [T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def small_images(s: Sizes, home: Path, given: Path | None) -> None:
    config = composed(
        *cifar(s, home, given), *COMMON,
        "backbone=resnet18", "backbone.stem=cifar", "augmentation=on_device",
        f"data.batch_size={s.cifar_batch}", f"data.num_workers={WORKERS}", "data.resident=true",
        f"trainer.max_epochs={1 + s.epochs}", "trainer.channels_last=true",
    )  # fmt: skip
    parts = parts_of(config)
    parts.data.open("train")
    split = parts.data.splits["train"]
    samples = [split[i] for i in range(len(split))]
    pictures = Pictures(np.stack([x.image for x in samples]), [int(x.target) for x in samples])
    steps = len(samples) // s.cifar_batch
    make = optimizer_of(parts, steps * (1 + s.epochs))
    losses: dict[str, float] = {}

    def loader() -> DataLoader:
        return DataLoader(
            pictures, s.cifar_batch, shuffle=True, drop_last=True, num_workers=WORKERS, pin_memory=GPU,
            persistent_workers=True,
        )  # fmt: skip

    def platform(layout: bool) -> list[float]:
        mine = parts if layout else parts_of(composed_with(config, channels_last=False))
        clock = Epochs()
        name = "Paribus, resident" if layout else "Paribus, resident, channels first"
        losses[name] = trained(config, fresh(mine), clock)
        return clock.seconds

    def lightning() -> list[float]:
        model = copy.deepcopy(parts.task.model).to(memory_format=torch.contiguous_format)
        clock = Epochs()
        module = Peer(model, lambda images: images, make, watched=False)
        losses["DataLoader and Lightning"] = idiomatically(module, loader(), clock, epochs=1 + s.epochs)
        return clock.seconds

    def torchvisions() -> list[float]:
        """references/classification: blocking copies, a meter of the loss and two accuracies in every step."""
        model = copy.deepcopy(parts.task.model).to(DEVICE, memory_format=torch.contiguous_format).train()
        optimizer, schedule = make(model)
        batches, marks, loss = loader(), [], torch.zeros(())
        torch.backends.cudnn.benchmark = True
        for _ in range(1 + s.epochs):
            marks.append(now())
            total = 0.0
            for images, targets in batches:
                images, targets = images.to(DEVICE), targets.to(DEVICE)
                logits, loss = forward_loss(model, images, targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                hits = logits.topk(5, 1).indices.t() == targets[None]
                for k in (1, 5):
                    (hits[:k].flatten().sum(dtype=torch.float32) * (100 / len(targets))).item()
                total += loss.item()
            losses["torchvision's loop"] = total / steps
        marks.append(now())
        return [b - a for a, b in pairwise(marks[1:])]

    ways = {
        "Paribus, resident": lambda: platform(True),
        "DataLoader and Lightning": lightning,
        "torchvision's loop": torchvisions,
    }
    if not s.quick:
        ways["Paribus, resident, channels first"] = lambda: platform(False)
    found = attempted(ways)
    show_rates(found, steps * s.cifar_batch, losses)
    bounds = {"DataLoader and Lightning": ">=5", "torchvision's loop": ">=3"}
    compared(found, "CIFAR ResNet-18, bf16", "Paribus, resident", bounds, s)


def composed_with(config: TrainConfig, **trainer: Any) -> TrainConfig:
    """The config with other keys of the trainer."""
    return replace(config, trainer=replace(config.trainer, **trainer))


def show_rates(found: dict[str, list[float]], images: int, losses: dict[str, float]) -> None:
    measure.table(
        {name: [images / x for x in seconds] for name, seconds in found.items()}, "images/s of an epoch"
    )
    told(
        "loss of the last epoch: "
        + ", ".join(f"{name} {losses[name]:.3f}" for name in found if name in losses)
    )


# --- 2: steps bound by their launches --------------------------------------------------------------


def small_steps(s: Sizes, home: Path, given: Path | None) -> None:
    config = composed(*DIGITS, *COMMON, "backbone=convnet", "data.batch_size=64", "trainer.max_epochs=1")
    parts = parts_of(config)
    make = optimizer_of(parts, s.steps)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=generator).to(DEVICE),
            torch.randint(10, (64,), generator=generator).to(DEVICE),
            [str(i) for i in range(64)],
        )
        for _ in range(min(s.steps, 50))
    ]
    losses: dict[str, float] = {}
    feed = lambda: Fed([batches[i % len(batches)] for i in range(s.steps)], s.warm, now)  # noqa: E731

    def platform(name: str, watched: bool, **keys: bool) -> float:
        torch.compiler.reset()  # or after eight networks torch would no longer compile
        mine, fed = fresh(parts), feed()
        if watched:
            mine.task.__class__ = WatchedThere
        losses[name] = trained(composed_with(config, **keys), mine, fed=fed)
        return fed.seconds

    def lightning(name: str, watched: bool) -> float:
        fed = feed()
        module = Peer(copy.deepcopy(parts.task.model), parts.data.normalize, make, watched)
        losses[name] = idiomatically(module, fed)
        return fed.seconds

    def plain() -> float:
        model = copy.deepcopy(parts.task.model).to(DEVICE).train()
        optimizer, schedule = make(model)
        fed = feed()
        for images, targets, _ in fed:
            loss = forward_loss(model, parts.data.normalize(images), targets)[1]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return fed.seconds

    ways: dict[str, Callable[[], float]] = {"plain eager loop": plain}
    for words, watched in (("loss", False), ("loss and four metrics", True)):
        for name, way in (
            (f"Paribus, {words}", functools.partial(platform, watched=watched)),
            (f"Paribus, torch.compile, {words}", functools.partial(platform, watched=watched, compile=True)),
            (
                f"Paribus, torch.compile, CUDA graphs, {words}",
                functools.partial(platform, watched=watched, compile=True, cuda_graphs=True),
            ),
            (f"idiomatic Lightning, {words}", functools.partial(lightning, watched=watched)),
        ):
            if GPU or "compile" not in name:
                ways[name] = functools.partial(way, name)
    found = in_turn(ways, s, 3)  # once before, so that what is compiled lies on the disk
    measure.table(found, "us a step of a small network, batch of 64", 1e6)
    told("the last loss: " + ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))
    if not GPU:
        told("torch.compile: left out, this is no GPU")
    kinds = ("Paribus, torch.compile, CUDA graphs, ", "Paribus, torch.compile, ", "Paribus, ")
    own = {
        words: min(
            (k + words for k in kinds if k + words in found), key=lambda way: statistics.median(found[way])
        )
        for words in ("loss", "loss and four metrics")
    }
    eager = measure.ratio(found["plain eager loop"], found[own["loss"]])
    logged = measure.ratio(found["idiomatic Lightning, loss"], found[own["loss"]])
    told(f"plain eager / {own['loss']}: {eager:.3g}; idiomatic Lightning, loss / the same: {logged:.3g}")
    full = own["loss and four metrics"]
    steps = measure.ratio(found["idiomatic Lightning, loss and four metrics"], found[full])
    measure.claim(f"small steps, {full}", "idiomatic Lightning", steps, ">=5", s.judged)


# --- 3: waits --------------------------------------------------------------------------------------


class Waits(Callback):
    """From the second batch of the second epoch to its last one, when no row is written and all data is there, what
    waits for the device raises ("error") or is noted ("warn")."""

    def __init__(self, mode: str):
        self.mode, self.steps = mode, 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 1:
            self._set(self.mode)
            self.steps = trainer.num_training_batches - 2
        elif batch_idx == trainer.num_training_batches - 1:
            self._set("default")

    def on_exception(self, *_: Any) -> None:
        self._set("default")

    def _set(self, mode: str) -> None:
        if GPU:
            torch.cuda.set_sync_debug_mode(mode)


def waited(overrides: list[str]) -> tuple[float, str]:
    """Waits of a step, and at which lines."""
    config = composed(
        *overrides, *COMMON, "trainer.max_epochs=2", "trainer.log_every=100000", "data.batch_size=8"
    )
    watch = Waits("warn")
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        trained(config, parts_of(config), watch)
    lines = Counter(
        f"{Path(w.filename).name}:{w.lineno}"
        for w in noted
        if "synchronizing CUDA operation" in str(w.message)
    )
    assert watch.steps > 0, "no step was watched"
    named = ", ".join(f"{number / watch.steps:g} at {line}" for line, number in lines.most_common(12))
    return sum(lines.values()) / watch.steps, named


def raised(overrides: list[str]) -> str:
    """What set_sync_debug_mode("error") raised, and from where; nothing if all went through."""
    config = composed(
        *overrides, *COMMON, "trainer.max_epochs=2", "trainer.log_every=100000", "data.batch_size=8"
    )
    try:
        trained(config, parts_of(config), Waits("error"))
    except Exception:
        return traceback.format_exc(limit=-4)
    finally:
        clean()
    return ""


def waits(s: Sizes, home: Path, given: Path | None) -> None:
    boxes = ["experiment=digit_scenes_boxes", *DIGITS]
    tasks = {
        "classification": ["backbone=convnet", "augmentation=on_device", *DIGITS],
        "segmentation": ["experiment=digit_scenes_unet", *DIGITS],
        **({} if s.quick else {name: [f"model={name.lower()}", *boxes] for name in ("RetinaNet", "FCOS")}),
    }
    if not GPU:
        told("set_sync_debug_mode: left out, this is no GPU; the trainings run without it")
    for name, overrides in tasks.items():
        number, lines = waited(overrides)
        told(f"{name} waits {number:g} times in a step {lines}")
        if not GPU or name in ("RetinaNet", "FCOS"):
            continue
        error = raised(overrides)
        print(error, end="")
        number = max(number, float(bool(error)))
        measure.claim(f"waits between two rows of the log, {name}", "set_sync_debug_mode", number, "<=0")


# --- 4: ResNet-50 ----------------------------------------------------------------------------------


def resnet50s(s: Sizes, root: Path | None, *overrides: str, epochs: int) -> TrainConfig:
    """Without a root no data is looked for."""
    data = DIGITS if root is None else ["data=class_folders", f"data.reader.root={root}"]
    split = [] if root is None else ["data.reader.split={val: 0.125}", "data.verify=false"]
    return composed(
        *data, *split, *COMMON,
        f"backbone={s.network}", "optimizer=nesterov", "optimizer.lr=0.01", f"data.size=[{s.side},{s.side}]",
        f"data.batch_size={s.batch}",
        f"data.num_workers={WORKERS}", "data.resident=false", f"trainer.max_epochs={epochs}",
        "trainer.channels_last=true", *overrides,
    )  # fmt: skip


@functools.cache
def ceiling(s: Sizes) -> list[float]:
    """Images a second of ResNet-50 through our Trainer on one batch that stays on the device."""
    config = resnet50s(s, None, "augmentation=on_device", epochs=1 + s.epochs)
    parts = parts_of(config)
    images = (
        torch.randint(256, (s.batch, s.side, s.side, 3), dtype=torch.uint8).permute(0, 3, 1, 2).to(DEVICE)
    )
    batch = images, torch.randint(10, (s.batch,)).to(DEVICE), [str(i) for i in range(s.batch)]
    steps, clock = 2 if s.quick else 20, Epochs()
    trained(config, parts, clock, fed=Fed([batch] * steps))
    return [steps * s.batch / x for x in clock.seconds]


def resnet50(s: Sizes, home: Path, given: Path | None) -> None:
    root = home / "jpeg"
    photographs(root, s.files, ["train"], s.links)
    train = root / "train"
    crop = f"{{_target_: albumentations.RandomResizedCrop, size: [{s.side}, {s.side}]}}"
    cropped = [
        f"augmentation.before_resize=[{crop}]",
        "augmentation.on_device=[{_target_: paribus.data.batched.Flip}]",
    ]
    packed = ["data.cache=disk", f"data.cache_folder={home / 'packed'}"]
    losses: dict[str, float] = {}

    def platform(name: str, *overrides: str) -> list[float]:
        config = resnet50s(s, root, *overrides, epochs=1 + s.epochs)
        parts, clock = parts_of(config), Epochs()
        losses[name] = trained(config, parts, clock)
        images = len(parts.data.splits["train"]) // s.batch * s.batch
        return [images / x for x in clock.seconds]

    def timms() -> list[float]:
        """timm's loader, and its train.py: amp, channels_last, the loss fetched in every step."""
        from timm.data import create_dataset, create_loader

        torch.manual_seed(0)
        batches = create_loader(
            create_dataset("", str(train)), (3, s.side, s.side), s.batch, is_training=True, color_jitter=0.0,
            interpolation="bilinear", num_workers=WORKERS, persistent_workers=True, pin_memory=GPU, device=DEVICE,
        )  # fmt: skip
        model = parts_of(resnet50s(s, root, epochs=1)).task.model
        model = model.to(DEVICE, memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        torch.backends.cudnn.benchmark = True
        marks, seen, total = [], 0, 0.0
        for _ in range(1 + s.epochs):
            marks.append(now())
            seen, total = 0, 0.0
            for images, targets in batches:
                images = images.contiguous(memory_format=torch.channels_last)
                loss = forward_loss(model, images, targets)[1]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen += len(images)
                total += loss.item() * len(images)
        marks.append(now())
        losses["timm, from JPEG"] = total / seen
        return [seen / (b - a) for a, b in pairwise(marks[1:])]

    cached, limit = "Paribus, packed copy", "its ceiling, batch on the device"
    ways: dict[str, Callable[[], list[float]]] = {
        limit: lambda: ceiling(s),
        cached: lambda: platform(cached, "augmentation=on_device", *packed),
        "timm, from JPEG": timms,
        "Paribus, from JPEG": lambda: platform("Paribus, from JPEG", *cropped),
    }
    if not s.quick:
        name = "Paribus, packed copy of side 256, cropped at random"
        ways[name] = lambda: platform(name, *cropped, *packed, "data.cache_side=256")
    found = attempted(ways)
    measure.table(found, "images/s of an epoch, ResNet-50")
    told("the last loss: " + ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))
    peer = "timm, from JPEG"
    for name in (name for name in found if peer in found and name != peer):
        told(f"{name} / {peer}: {measure.ratio(found[name], found[peer]):.3g}")
    what = "ResNet-50 at 224 from cache"
    compared(found, what, cached, {limit: ">=0.95", peer: ">=1.3"}, s, rates=True)


# --- 5: detection ----------------------------------------------------------------------------------


def detection(s: Sizes, home: Path, given: Path | None) -> None:
    from torchvision.models.detection import retinanet_resnet50_fpn

    config = composed(
        *DIGITS, *COMMON,
        "task=detection", "model=retinanet", "model.norm=null", f"backbone={s.network}", "optimizer=momentum",
        "optimizer.lr=1e-4", f"data.size=[{s.detection_side},{s.detection_side}]",
        f"data.batch_size={s.detection_batch}", "trainer.max_epochs=1", "trainer.channels_last=true",
    )  # fmt: skip
    parts = parts_of(config)
    theirs = retinanet_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=11,
        min_size=s.detection_side,
        max_size=s.detection_side,
    )
    generator = torch.Generator().manual_seed(0)
    side, images = s.detection_side, s.detection_batch

    def target() -> dict[str, Tensor]:
        corner = torch.rand(7, 2, generator=generator) * side * 0.6
        extent = torch.rand(7, 2, generator=generator) * side * 0.3 + side * 0.05
        labels = torch.randint(10, (7,), generator=generator)
        return {"boxes": torch.cat([corner, corner + extent], 1).to(DEVICE), "labels": labels.to(DEVICE)}

    pixels = torch.randint(256, (images, 3, side, side), dtype=torch.uint8, generator=generator).to(DEVICE)
    batch = pixels, [target() for _ in range(images)], [str(i) for i in range(images)]
    feed = lambda: Fed([batch] * s.detection_steps, s.detection_warm, now)  # noqa: E731
    losses: dict[str, float] = {}

    def platform() -> float:
        fed = feed()
        losses["Paribus"] = trained(config, fresh(parts), fed=fed)
        return fed.seconds

    def torchvisions() -> float:
        """references/detection/engine.py: a list of images, the sum and each part of the loss fetched in every step."""
        model = copy.deepcopy(theirs).to(DEVICE).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
        floats, fed, mean = (pixels / 255).unbind(), feed(), []
        for _, targets, _ in fed:
            with torch.autocast(DEVICE.type, torch.bfloat16):
                found = model(list(floats), [t | {"labels": t["labels"] + 1} for t in targets])
                total = torch.stack([part.float() for part in found.values()]).sum()
            mean.append(total.item())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            [part.item() for part in found.values()]
        losses["torchvision"] = statistics.mean(mean)
        return fed.seconds

    found = in_turn({"Paribus, RetinaNet": platform, "torchvision's loop": torchvisions}, s, 3)
    measure.table(found, f"ms a step of RetinaNet, {images} images of {side} x {side}", 1e3)
    told("mean loss: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
    compared(found, "RetinaNet, 640 px, bf16", "Paribus, RetinaNet", {"torchvision's loop": ">=1.8"}, s)


# --- 6: seeds at once ------------------------------------------------------------------------------


def door(*arguments: str, cwd: Path) -> float:
    """Seconds of scripts/train.py."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"train.py {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return time.perf_counter() - start


def seeds(s: Sizes, home: Path, given: Path | None) -> None:
    numbers = ",".join(map(str, range(s.seeds)))
    short = [
        *cifar(s, home, None), COMMON[0], "trainer.precision=32-true",  # in which seeds can be stacked
        "backbone=convnet", "augmentation=on_device", f"data.batch_size={16 if s.quick else 128}",
        "data.num_workers=0", "trainer.max_epochs=1" if s.quick else "trainer.max_epochs=4", "trainer.threads=1",
        "trainer.progress=false", f"seed={numbers}",
    ]  # fmt: skip
    accuracies: dict[str, list[float]] = {}

    def way(name: str, *more: str) -> list[float]:
        folder = home / name.replace(" ", "_")
        folder.mkdir()
        seconds = door("-m", *short, *more, "name=sweep", cwd=folder)
        found = [json.loads(path.read_text()) for path in sorted(folder.glob("runs/sweep/*/result.json"))]
        assert len(found) == s.seeds, f"{len(found)} of {s.seeds} runs"
        assert {one["status"] for one in found} == {"done"}
        accuracies[name] = [one["metrics"]["test/accuracy"] for one in found]
        told(f"{name}: {sum('stacked_with' in one for one in found)} of {s.seeds} were stacked")
        return [seconds]

    at_once, stacked, in_order = f"{s.seeds} seeds at once", f"{s.seeds} seeds stacked", "one after another"
    found = {stacked: way(stacked, "replicates=stacked", "hydra.launcher.n_jobs=1")}
    if s.quick:  # the others are the same but for a key: a third of what a dry pass takes
        told(f"{at_once}, {in_order}: left out, this is a dry pass; {stacked} took {found[stacked][0]:.1f} s")
        return
    found[at_once] = way(at_once, f"hydra.launcher.n_jobs={s.seeds}")
    found[in_order] = way(in_order, "hydra.launcher.n_jobs=1")
    measure.table(found, "s of a sweep, with its start")
    told(f"test/accuracy by seed: {accuracies}")
    for name in (at_once, stacked):
        compared(found, name, name, {in_order: ">=2"}, s)


# --- 7: share of the chip's rate -------------------------------------------------------------------


def rate(s: Sizes, home: Path, given: Path | None) -> None:
    a, b = (torch.randn(s.matrix, s.matrix, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    flops = []
    for _ in range(2 + s.rounds):
        start = now()
        for _ in range(10):
            torch.mm(a, b)
        flops.append(10 * 2 * s.matrix**3 / (now() - start))
    flops = flops[2:]  # the first ones are warm-up
    measure.table({f"{s.matrix} cubed, bf16": flops}, "TFLOP/s", 1e-12)
    del a, b
    config = resnet50s(s, None, epochs=1)
    multiplications = count(parts_of(config).task.model, (s.side, s.side))[1]
    assert multiplications is not None
    images = statistics.median(ceiling(s))
    reached = 3 * 2 * multiplications * images  # backward is twice forward
    share = reached / statistics.median(flops)
    told(
        f"ResNet-50, {images:.0f} images/s, {reached / 1e12:.4g} TFLOP/s: {share:.3f} of the chip's measured rate"
    )


# --- 8: seconds to 94 % ----------------------------------------------------------------------------


def speedrun(s: Sizes, home: Path, given: Path | None) -> None:
    if given is None:
        told("seconds to 94 % of CIFAR-10: not measured, it takes --cifar FOLDER")
        return
    data = cifar(s, home, given)
    own = ["test"] if data[0] == "data=cifar10" else [n for n in ("val", "test") if (given / n).is_dir()]
    little = ["trainer.max_steps=1"] if s.quick else []
    folder = home / "speedrun"
    folder.mkdir()
    wall = door(
        "experiment=cifar10_speedrun", *data[:2], *(f"~data.reader.split.{n}" for n in own), *COMMON[:2], *little,
        "trainer.progress=false", f"data.num_workers={WORKERS}", "name=speedrun", cwd=folder,
    )  # fmt: skip
    (path,) = folder.glob("runs/speedrun/*/result.json")
    found = json.loads(path.read_text())
    batch = composed("experiment=cifar10_speedrun", "data.reader.root=.").data["batch_size"]
    speed = found["images_per_second"]
    trained_for = found["steps"] * batch / speed if speed else float("nan")
    told(
        f"cifar10_speedrun: test/accuracy {found['metrics']['test/accuracy']:.4f} after {trained_for:.2f} s of "
        f"training ({wall:.1f} s with start and judging); published: 94 % in 2.6 s on an A100 (airbench94_muon)"
    )


SECTIONS: dict[str, tuple[Callable[[Sizes, Path, Path | None], None], int]] = {  # and about how many seconds
    "small_images": (small_images, 110),
    "small_steps": (small_steps, 110),
    "waits": (waits, 60),
    "resnet50": (resnet50, 170),
    "detection": (detection, 70),
    "seeds": (seeds, 130),
    "rate": (rate, 30),
    "speedrun": (speedrun, 60),
}


# --- the program -----------------------------------------------------------------------------------


class Both(io.TextIOBase):
    """What is printed, shown and kept."""

    def __init__(self, shown: Any):
        self.shown, self.kept = shown, io.StringIO()

    def write(self, text: str) -> int:
        self.shown.write(text)
        return self.kept.write(text)

    def flush(self) -> None:
        self.shown.flush()


def page(printed: str, outcome: dict[str, str]) -> str:
    """Conditions, claims, what was not measured, and below all that was printed."""
    chip = (
        torch.cuda.get_device_name() if GPU else "no GPU: a dry pass on the processor, which measures nothing"
    )
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if GPU else "no CUDA"
    lines = ["# What is measured on a GPU", "", "Made by `make bench-gpu` (scripts/benchmarks/gpu.py).", ""]
    lines += [
        f"- {chip}; {versions}",
        f"- {measure.conditions()}",
        f"- {datetime.date.today().isoformat()}",
        "",
    ]
    lines += ["| claim | against | found | bound | |", "|---|---|---|---|---|"]
    for line in printed.splitlines():
        words = line.split()
        if len(words) == 4 and words[0] in ("PASS", "FAIL", "QUICK") and ":" in words[1]:
            what, _, against = words[1].replace("_", " ").partition(":")
            lines.append(f"| {what} | {against} | {words[2]} | {words[3]} | {words[0]} |")
    lines += ["", *(f"- {name}: {said}" for name, said in outcome.items()), "", "```", printed.strip(), "```"]
    return "\n".join(lines) + "\n"


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)}; default: all"
    )
    parser.add_argument("--minutes", type=float, default=12.0, help="that all may take")
    parser.add_argument("--cifar", type=Path, help="class folders, or what holds cifar-10-batches-py")
    parser.add_argument("--output", type=Path, help="default on a GPU: results/benchmarks_gpu.md")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round, bounds not judged")
    words = parser.parse_args()
    unknown = [name for name in words.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return words


def main() -> None:
    words = asked()
    until = time.perf_counter() + 60 * words.minutes
    sizes = Sizes(words.quick or not GPU)
    output = words.output or (ROOT / "results" / "benchmarks_gpu.md" if GPU and not words.quick else None)
    given = words.cifar.expanduser().resolve() if words.cifar else None
    warnings.filterwarnings("ignore")
    outcome: dict[str, str] = {}
    both = Both(sys.stdout)
    with (
        contextlib.redirect_stdout(both),
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary,
    ):
        os.environ["XDG_CACHE_HOME"] = temporary  # nothing of this set is remembered
        print(measure.conditions())
        print(torch.cuda.get_device_name() if GPU else "no GPU: a dry pass, nothing is judged")
        for name, (section, seconds) in SECTIONS.items():
            if words.sections and name not in words.sections:
                continue
            left = until - time.perf_counter()
            print(f"\n== {name}", flush=True)
            if not sizes.quick and left < seconds:
                outcome[name] = f"not measured: it takes about {seconds} s, and {max(0, left):.0f} s are left"
                print(outcome[name])
            else:
                start = time.perf_counter()
                try:
                    section(sizes, Path(temporary), given)
                    outcome[name] = f"done in {time.perf_counter() - start:.0f} s"
                except (Exception, SystemExit) as error:
                    outcome[name] = f"FAILED: {type(error).__name__}: {error}".splitlines()[0][:300]
                    measure.FAILED.append(name)
                    print(f"FAILED {name}: {error}\n{traceback.format_exc()}", flush=True)
                clean()
            if output is not None:
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(page(both.kept.getvalue(), outcome))
        print("\n" + "\n".join(f"{name}: {said}" for name, said in outcome.items()), flush=True)
    measure.end()


if __name__ == "__main__":
    main()
