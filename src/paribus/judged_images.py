"""What each image of a judged split adds to its metric, so that two runs can be compared image by image."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor

from paribus.callbacks import Judging, gathered
from paribus.metrics.coco import IOUS
from paribus.metrics.judged import Judged
from paribus.metrics.matching import IGNORED, Overlaps, matches, overlaps
from paribus.results import write_bytes, write_text
from paribus.tables import csv_text


class JudgedImages(Judging):
    """Writes, of a validation or a test and over all processes, a row an image, by their ids:

    images_<split>.csv  of labels: id, label, prediction, and correct, 1 or 0
    images_<split>.npz  of masks: ``ids`` [N]; ``hits``, ``truth`` and ``predicted``, int32 [N, C], the pixels of
                        each class that are right, true and predicted, ignored ones left out
                        of boxes: see `of_boxes`

    and nothing of ``labels``: their mean average precision needs every score. What an image adds stays on its device,
    C or 3 C integers of it, and nothing waits for it before the end.

    named: words for the files' names, as those of Examples: images_test_flip.csv.
    """

    def __init__(self, folder: str | Path, named: Sequence[str] = ()):
        self.folder, self.named = Path(folder), named
        self.ids: list[str] = []
        self.kept: list[Tensor] = []  # of each batch, an entry an image

    def begin(self, split: str, trainer: Trainer, task: Any) -> None:
        self.ids, self.kept = [], []

    def batch(self, split: str, trainer: Trainer, task: Any, decisions: Any, batch: Any) -> None:
        _, targets, ids = batch
        self.ids += ids
        if task.target == "label":
            self.kept.append(labels(decisions, targets))
        elif task.target == "mask":
            metric = task.metrics[split]
            # Masks of their own sizes come as a list.
            pairs = (
                zip(decisions, targets, strict=True) if isinstance(targets, list) else [(decisions, targets)]
            )
            for decision, mask in pairs:
                shape = (-1, *mask.shape[-2:])
                self.kept.append(
                    pixels(decision.view(shape), mask.view(shape), len(metric.classes), metric.ignore)
                )

    def conclude(self, split: str, trainer: Trainer, task: Any) -> None:
        if task.target == "labels":
            return
        metric = task.metrics[split]
        whole = metric.judged if task.target == "boxes" else None  # of all processes: each asks
        mine = torch.cat(self.kept).cpu().numpy() if self.kept else ()
        self.kept = []
        ids, rows = np.array(gathered(self.ids), dtype=np.str_), gathered([*mine])
        values = np.stack(rows) if rows else None
        if not trainer.is_global_zero:
            return
        classes, name = task.metrics[split].classes, "_".join(["images", split, *self.named])
        self.folder.mkdir(parents=True, exist_ok=True)
        by_id = np.argsort(ids, kind="stable")
        if whole is not None:
            _save(self.folder / f"{name}.npz", of_boxes(whole, ids, len(classes)))
        elif task.target == "label" and values is not None:
            cells = [
                [ids[i], classes[label], classes[found], int(label == found)]
                for i, (label, found) in zip(by_id, values[by_id].tolist(), strict=True)
            ]
            write_text(
                self.folder / f"{name}.csv", csv_text([["id", "label", "prediction", "correct"], *cells])
            )
        elif values is not None:
            counts = dict(zip(("hits", "truth", "predicted"), values[by_id].transpose(1, 0, 2), strict=True))
            _save(self.folder / f"{name}.npz", {"ids": ids[by_id], **counts})


def labels(logits: Tensor, target: Tensor) -> Tensor:
    """int32 ``[B, 2]``: the label and the class of the largest logit; of equal ones that which the metric takes."""
    most = 5 if logits.shape[1] > 5 else 1
    found = logits.float().topk(most, dim=1).indices[:, 0]
    return torch.stack([target, found], dim=1).int()


def pixels(prediction: Tensor, target: Tensor, classes: int, ignore: int) -> Tensor:
    """int32 ``[B, 3, classes]``: of each image and class the pixels that are right, true and predicted.

    prediction and target integer ``[B, H, W]``; target in 0 .. classes - 1, or ``ignore``, a larger number.
    """
    images, rows = len(target), ignore + 1
    # As SegmentationMetrics counts, with a matrix for each image; rows of what is ignored fall away below.
    first = torch.arange(0, images * rows, rows, device=target.device).view(-1, 1, 1)
    index = (target + first).mul_(classes).add_(prediction).flatten()
    counts = torch.zeros(images * rows * classes, dtype=torch.int32, device=target.device)
    counts.scatter_add_(0, index, counts.new_ones(()).expand_as(index))
    matrix = counts.view(images, rows, classes)[:, :classes]
    return torch.stack([matrix.diagonal(dim1=1, dim2=2), matrix.sum(2), matrix.sum(1)], dim=1).int()


def of_boxes(judged: Judged, ids: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """What COCO's average precision is made of, with D detections in N images:

    ``ids`` [N], sorted; ``objects`` int32 [N, C], those to be found of each class; of each detection ``image`` int32
    [D], its image's place among the ids, ``label`` int32 [D] and ``score`` float32 [D]; ``right`` bool [10, D],
    whether it finds an object at the IoU 0.5, 0.55, ..., 0.95, and ``passed`` bool [10, D], whether it is neither
    right nor wrong: in a crowd, or not among the first 100 of its class in its image.

    ids: of the images, in the order of the set; detections stay in it, as it decides between equal scores.
    """
    found, truth, _ = judged
    by_id = np.argsort(ids, kind="stable")
    place = np.empty(len(ids), np.int32)
    place[by_id] = np.arange(len(ids))
    pairs = overlaps(judged)
    which = np.stack(
        [matches(judged, Overlaps(*(column[pairs.iou >= least] for column in pairs))) for least in IOUS]
    )
    objects = np.zeros((len(ids), classes), np.int32)
    wanted = ~truth.crowd
    np.add.at(objects, (place[truth.images[wanted]], truth.labels[wanted]), 1)
    return {
        "ids": ids[by_id],
        "objects": objects,
        "image": place[found.images],
        "label": found.labels.astype(np.int32),
        "score": found.scores.astype(np.float32),
        "right": which >= 0,
        "passed": which == IGNORED,
    }


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """It loads with ``allow_pickle=False``."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_bytes(path, content.getvalue())
