"""Metrics of boxes, and of the instances' masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paribus.metrics import coco, voc
from paribus.metrics.base import CollectingMetric
from paribus.metrics.detection_errors import errors
from paribus.metrics.judged import Judged, encoded, found_table, judged, tensor, truth_table
from paribus.metrics.matching import overlaps


class DetectionMetrics(CollectingMetric):
    """Boxes, by two protocols; and masks, where both the truth and the detections have some.

    COCO's (Lin et al. 2014; cocodataset.org, detection evaluation), equal to pycocotools: ``ap``, the mean over the
    IoUs 0.5, 0.55, ..., 0.95, ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``, ``ap_large`` with at most 100
    detections of a class in an image; the recall with at most 1, 10 and 100, ``ar1``, ``ar10``, ``ar100``, and
    ``ar_small``, ``ar_medium``, ``ar_large``. Small is below 32 x 32 pixels, large above 96 x 96, by the target's
    ``area`` where it has one, else by the box's. Where COCO writes -1, for a class or a size without an object, this
    is NaN. Of masks the same with ``mask_`` before the name.

    VOC's at IoU 0.5: ``ap_voc07`` and ``ap_voc`` (2010 to 2012), see voc.py. Objects marked ``difficult`` are
    passed over in these alone: COCO's protocol knows no such mark.
    """

    found: list[Tensor]
    truth: list[Tensor]
    sizes: list[Tensor]
    found_masks: list[Tensor]
    true_masks: list[Tensor]
    _judged: Judged
    _curves: coco.Curves

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        for name in ("found", "truth", "sizes", "found_masks", "true_masks"):
            self.add_state(name, [], None)  # an entry an image

    def update(self, prediction: Sequence[dict[str, Tensor]], target: Sequence[dict[str, Any]]) -> None:
        """One dict an image: ``boxes`` float ``[N, 4]`` (x1, y1, x2, y2, pixels) and ``labels`` int64 ``[N]``
        from 0; in prediction ``scores`` float ``[N]``, in target optionally ``iscrowd``, ``difficult`` and ``area``
        ``[N]``, and the image's ``size``, (height, width). ``masks`` ``[N, H, W]`` in both, nonzero inside. Tensors,
        in target also arrays.

        Waits for the device where there are masks, and nowhere else.
        """
        assert len(prediction) == len(target), f"{len(prediction)} predictions for {len(target)} images"
        for found, truth in zip(prediction, target, strict=True):
            self.found.append(found_table(found))
            self.truth.append(truth_table(truth))
            size = truth.get("size", truth["masks"].shape[1:] if "masks" in truth else (0, 0))
            self.sizes.append(tensor(size).to(torch.int64).reshape(1, 2).clone())
            if "masks" in found and "masks" in truth:
                self.found_masks.append(encoded(found["masks"]))
                self.true_masks.append(encoded(truth["masks"]))

    def compute(self) -> dict[str, float]:
        classes = len(self.classes)
        whole = judged(self.found, self.truth, self.sizes, self.found_masks, self.true_masks)
        self._judged, self._curves = whole, coco.curves(whole, classes)
        area, eleven = voc.average_precisions(whole, overlaps(whole), classes)
        values = coco.values(self._curves)
        values |= {"ap_voc07": _nanmean(eleven), "ap_voc": _nanmean(area)}
        self._columns = coco.by_class(self._curves)
        self._columns |= {"ap_voc07": eleven.tolist(), "ap_voc": area.tolist()}
        if whole.truth.masks is not None:
            masks = coco.curves(whole, classes, "segm")
            values |= {f"mask_{name}": value for name, value in coco.values(masks).items()}
            of_class = coco.by_class(masks)
            self._columns |= {f"mask_{name}": of_class[name] for name in ("ap", "ap50")}
        ordinary = whole.truth.labels[~whole.truth.crowd]
        self._columns["objects"] = np.bincount(ordinary, minlength=classes).tolist()
        return values

    @property
    def judged(self) -> Judged:
        """All detections and objects, over all processes."""
        self.compute()
        return self._judged

    @property
    def curves(self) -> coco.Curves:
        """Of precision over recall, over all processes."""
        self.compute()
        return self._curves

    @property
    def errors(self) -> dict[str, list]:
        """By kind: one list a column; see detection_errors.py. Over all processes."""
        return errors(self.judged, len(self.classes))


def _nanmean(values: np.ndarray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))
