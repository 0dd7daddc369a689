"""Judged samples with the answers: figures/<split>_examples.png and <split>_worst.png, and to the logger."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor
from torch.nn import functional as F

from paribus.callbacks import Judging
from paribus.data.batches import Samples, collate
from paribus.data.samples import IGNORE
from paribus.metrics.matching import wrong_and_missed
from paribus.pictures import Example, save, sure
from paribus.sheets import sheet

SURE = 0.3  # boxes with a smaller score are not drawn
RANKED = {
    "label": "largest loss first",
    "labels": "largest loss first",
    "mask": "largest share of wrong pixels first",
    "boxes": f"most missed and wrong boxes first (IoU 0.5, score {SURE})",
}


class Examples(Judging):
    """Draws ``count`` samples of a validation or a test when it ends, and the worst.

    The examples lie evenly over what the first process judges: sets are often sorted by class or by place.
    The worst are those of the largest share of wrong pixels, of the most boxes that are missed or wrong, or
    of the largest loss (cross-entropy, its mean over the classes of ``labels``), of what the first process
    judges. Of every image one number is kept, on its device; but for boxes nothing waits for it before the
    end, when the few worst are read and answered once more. Drawing takes about 0.1 s for labels, up to 1 s
    for boxes or masks on large images.

    logger: is handed them too, the worst as split <split>_worst, if it has ``log_examples`` (see loggers.py).
        Judging itself has none, so that its numbers are not logged a second time.
    named: words for the files' names: figures/test_flip_examples.png.
    """

    def __init__(self, folder: str | Path, logger: Any = None, count: int = 8, named: Sequence[str] = ()):
        self.folder, self.logger, self.count, self.named = Path(folder), logger, count, named
        self.kept: list[Example] = []
        self.faults: list[Tensor] = []
        self.seen, self.wanted = 0, set[int]()  # samples judged so far, and the places of those to keep

    def begin(self, split: str, trainer: Trainer, task: Any) -> None:
        mine = -(-len(trainer.datamodule.splits[split]) // trainer.world_size)  # type: ignore[attr-defined]
        self.kept, self.faults, self.seen = [], [], 0
        self.wanted = {i * mine // self.count for i in range(self.count)}

    def batch(self, split: str, trainer: Trainer, task: Any, decisions: Any, batch: Any) -> None:
        if not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        rows = [row for row in range(len(batch[2])) if self.seen + row in self.wanted]
        self.seen += len(batch[2])
        if rows:
            self.kept += taken(batch, decisions, data, rows)
        self.faults.append(faults(decisions, batch[1], data.target))

    def end(self, split: str, trainer: Trainer, task: Any) -> None:
        if not self.kept:
            return
        of = f"of {self.seen} images" + (" of the first process" if trainer.world_size > 1 else "")
        title = f"{' '.join([split, *self.named])}: {len(self.kept)} {of}, evenly spread"
        self._draw(split, "examples", title, self.kept, trainer)
        worst = self._worst(split, trainer)
        order = RANKED[trainer.datamodule.target]  # type: ignore[attr-defined]
        title = f"{' '.join([split, *self.named])}: the worst {len(worst)} {of}, {order}"
        self._draw(split, "worst", title, worst, trainer)
        self.kept, self.faults = [], []

    @torch.inference_mode()
    def _worst(self, split: str, trainer: Trainer) -> list[Example]:
        """The worst samples, answered again: keeping every image until it is known would cost too much."""
        data, task, strategy = trainer.datamodule, trainer.lightning_module, trainer.strategy  # type: ignore[attr-defined]
        order = torch.cat(self.faults).argsort(descending=True, stable=True)[: self.count].tolist()
        samples = Samples(data.splits[split], data.eval_transform, None)
        worst: list[tuple[float, Example]] = []
        for place in order:
            batch = collate([samples[place * trainer.world_size]], data.eval_transform.native)
            batch = strategy.batch_to_device(batch)  # which normalizes too
            with trainer.precision_plugin.forward_context():
                decisions = [task.decide(answer) for answer, _ in task.answers(batch)]  # type: ignore[operator]
            fault = float(faults(decisions[0], batch[1], data.target)[0])  # a batch of one: other last bits
            worst.append((fault, taken(batch, decisions[0], data, [0])[0]))
        return [example for _, example in sorted(worst, key=lambda pair: -pair[0])]

    def _draw(self, split: str, what: str, title: str, examples: list[Example], trainer: Trainer) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        picture = sheet(examples, data.target, data.classes, data.reader.palette, title)
        save(picture, self.folder / "figures" / f"{'_'.join([split, *self.named, what])}.png")
        if hasattr(self.logger, "log_examples"):
            shown = split if what == "examples" else f"{split}_{what}"
            self.logger.log_examples(shown, examples, picture, data.target, data.classes)


def faults(decisions: Any, targets: Any, target: str) -> Tensor:
    """How wrong each image of a batch is answered, float32 ``[B]``, larger for worse; on its device."""
    if target == "label":
        return F.cross_entropy(decisions.float(), targets, reduction="none")
    if target == "labels":
        judged = ~targets.isnan()
        losses = F.binary_cross_entropy_with_logits(
            decisions.float(), targets.float().nan_to_num(), reduction="none"
        )
        return (losses * judged).sum(1) / judged.sum(1).clamp(min=1)
    if target == "boxes":
        pairs = [
            wrong_and_missed(_answer(found, target), _truth(truth))
            for found, truth in zip(decisions, targets, strict=True)
        ]
        return torch.tensor([float(wrong.sum() + missed.sum()) for wrong, missed in pairs])
    shares = []
    for decision, mask in zip(decisions, targets, strict=True):
        judged = mask != IGNORE
        shares.append(((decision != mask) & judged).sum() / judged.sum().clamp(min=1))
    return torch.stack(shares)


def taken(batch: Any, decisions: Any, data: Any, rows: list[int]) -> list[Example]:
    """Some samples of a batch as it reached the model, and what the task decided on them. Where they are
    judged at their own size, the images are brought back to it."""
    images, targets, ids = batch
    shown = pixels(images[rows], data)
    examples = []
    for image, row in zip(shown, rows, strict=True):
        truth = _truth(targets[row])
        if data.target in ("mask", "boxes") and data.eval_transform.native:
            size = truth.shape if data.target == "mask" else tuple(truth["size"].tolist())
            image = data.eval_transform.restore_image(image, size)
        examples.append(Example(image, truth, _answer(decisions[row], data.target), ids[row]))
    return examples


def _truth(target: Any) -> Any:
    """On the host; of boxes as the file has them, where these came along."""
    if isinstance(target, dict):
        return {
            key: np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value)
            for key, value in target.get("judged", target).items()
        }
    return target.cpu().numpy()


def _answer(decision: Any, target: str) -> Any:
    if target == "boxes":
        found = {
            key: value.float() if value.is_floating_point() else value for key, value in decision.items()
        }
        return sure({key: value.cpu().numpy() for key, value in found.items()}, SURE)
    if target == "mask":
        return decision.cpu().numpy()
    return probabilities(decision, target).cpu().numpy()


def probabilities(logits: torch.Tensor, target: str) -> torch.Tensor:
    """Of the classes, the last axis: they sum to one for ``label``, each stands alone for ``labels``."""
    return logits.float().softmax(-1) if target == "label" else logits.float().sigmoid()


def pixels(images: torch.Tensor, data: Any) -> np.ndarray:
    """Normalized ``[B, C, H, W]`` -> uint8 RGB ``[B, H, W, 3]``: what ``data.normalize`` was given, grey
    where the model sees one channel."""
    images = images.detach().float().cpu() / data.scale.cpu() + data.mean.cpu()
    shown = images.round().clamp(0, 255).byte().expand(-1, 3, -1, -1)
    return np.ascontiguousarray(shown.permute(0, 2, 3, 1).numpy())
