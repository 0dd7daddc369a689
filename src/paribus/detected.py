"""What detectors found in a judged split, in COCO's formats, and what is to be said of it beside its metrics."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Trainer

from paribus.callbacks import Judging, gathered
from paribus.curves import figure, table
from paribus.metrics.judged import Judged
from paribus.results import write_text


class Detected(Judging):
    """Writes, of a validation or a test of boxes and over all processes:

    predictions_<split>.json  COCO's format for results, boxes in pixels of the file
    truth_<split>.json        COCO's format for annotations: what they are judged by, so that any tool can do it
    curves_<split>.csv        precision over recall, by class and in the mean, and a picture of it in
                              figures/<split>_curves.png

    and keeps ``errors``, for each split the table of their kinds (metrics/detection_errors.py).
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.ids: list[str] = []
        self.errors: dict[str, dict[str, list]] = {}

    def begin(self, split: str, trainer: Trainer, task: Any) -> None:
        self.ids = []

    def batch(self, split: str, trainer: Trainer, task: Any, decisions: Any, batch: Any) -> None:
        self.ids += batch[2]

    def conclude(self, split: str, trainer: Trainer, task: Any) -> None:
        metric = task.metrics[split]
        if not hasattr(type(metric), "judged"):
            return
        judged, curves, ids = metric.judged, metric.curves, gathered(self.ids)  # of all processes: each asks
        if not trainer.is_global_zero:
            return
        classes = trainer.datamodule.classes  # type: ignore[attr-defined]
        self.errors[split] = metric.errors
        (self.folder / "figures").mkdir(parents=True, exist_ok=True)
        write_text(self.folder / f"predictions_{split}.json", _lines(predictions(judged)))
        write_text(self.folder / f"truth_{split}.json", annotations(judged, ids, classes))
        write_text(self.folder / f"curves_{split}.csv", table(curves, classes))
        picture = figure(curves, classes, title=split)
        picture.savefig(self.folder / "figures" / f"{split}_curves.png", dpi=160)


def predictions(judged: Judged) -> list[dict[str, Any]]:
    """COCO's results: images are numbered from 1 as they lie in the set, and category_id is the label + 1.

    Masks come as ``segmentation``, run-length coded, beside the boxes. pycocotools then takes a detection to be as
    small or large as its box; Paribus, as COCO's server does for masks alone, as its mask.
    """
    found = judged.found
    scores = _short(found.scores).tolist()
    return [row | {"score": score} for row, score in zip(_rows(judged, found), scores, strict=True)]


def annotations(judged: Judged, ids: Sequence[str], classes: Sequence[str]) -> str:
    """COCO's JSON of annotations; ids: of the images, in their order."""
    truth = judged.truth
    images = [
        {"id": i, "file_name": name, "height": height, "width": width}
        for i, (name, (height, width)) in enumerate(zip(ids, judged.sizes.tolist(), strict=True), start=1)
    ]
    columns = {"area": _short(truth.area).tolist(), "iscrowd": truth.crowd.astype(int).tolist()}
    if truth.difficult.any():
        columns["difficult"] = truth.difficult.astype(int).tolist()
    more = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    rows = [
        {"id": i, **row, **rest}
        for i, (row, rest) in enumerate(zip(_rows(judged, truth), more, strict=True), start=1)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    parts = {"images": images, "categories": categories, "annotations": rows}
    inside = ",\n".join(f'"{name}": {_lines(part).strip()}' for name, part in parts.items())
    return f'{{"info": {{"description": "what was judged, by Paribus"}},\n{inside}}}\n'


def _rows(judged: Judged, side: Any) -> list[dict[str, Any]]:
    """What detections and objects have in common."""
    corners = np.concatenate([side.boxes[:, :2], side.boxes[:, 2:] - side.boxes[:, :2]], axis=1)
    columns = {
        "image_id": (side.images + 1).tolist(),
        "category_id": (side.labels + 1).tolist(),
        "bbox": _short(corners).tolist(),
    }
    if side.masks is not None:
        sizes = judged.sizes[side.images].tolist()
        columns["segmentation"] = [
            {"size": size, "counts": code.decode()} for size, code in zip(sizes, side.masks, strict=True)
        ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _short(values: np.ndarray) -> np.ndarray:
    """The float32 that these are, with as few decimals as tell them apart: 0.1, not 0.10000000149011612."""
    return values.astype(np.float32).astype(np.str_).astype(np.float64)


def _lines(rows: Iterable[Any]) -> str:
    """JSON, a line each."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"
