"""Metrics of images with one class, and with any number of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from paribus.metrics.base import CollectingMetric, ConfusionMetric

ECE_BINS = 15
# Confidences are summed as integers, so that the sum depends on neither their order nor the number of
# processes. A float32 above 1/256 is a multiple of 2^-32; 2^31 of them fit.
ECE_UNIT = 2**32


class ClassificationMetrics(ConfusionMetric):
    """One class an image: ``accuracy``, ``accuracy_macro``, ``ece`` and, above 5 classes, ``accuracy_top5``.

    ``accuracy_macro`` is the mean over the classes that occur of the share of their images that is right.
    ``ece`` is the expected calibration error of the largest softmax probability, 15 bins of equal width
    (Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3).
    """

    in_top5: Tensor
    gaps: Tensor

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes, rows=len(classes))
        self.add_state("in_top5", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("gaps", torch.zeros(ECE_BINS, dtype=torch.int64), "sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """logits float ``[B, C]``, target int64 ``[B]`` in 0 .. C - 1; B may be 0."""
        logits = logits.float()
        largest, top = logits.topk(5 if len(self.classes) > 5 else 1, dim=1)
        hits = top == target[:, None]
        self._count(top[:, 0], target)
        self.in_top5 += hits.sum()
        # A network that diverged has NaN here, which an integer cannot hold: no confidence.
        confidence = (largest[:, 0] - logits.logsumexp(1)).exp().nan_to_num(0.0)
        bins = (confidence * ECE_BINS).ceil().long().sub_(1).clamp_(0, ECE_BINS - 1)
        self.gaps.scatter_add_(0, bins, hits[:, 0] * ECE_UNIT - (confidence * ECE_UNIT).long())

    def compute(self) -> dict[str, float]:
        hits, truth, predicted = self._sums()
        images = truth.sum()
        self._columns = {
            "accuracy": (hits / truth).tolist(),
            "precision": (hits / predicted).tolist(),
            "f1": (2 * hits / (truth + predicted)).tolist(),
            "images": self._confusion.sum(1).tolist(),
        }
        values = {
            "accuracy": hits.sum() / images,
            "accuracy_macro": (hits / truth).nanmean(),
            # The bins' sizes cancel: n_b / n * |accuracy_b - confidence_b| = |sum over b of (hit - p)| / n.
            "ece": (self.gaps.cpu().double() / ECE_UNIT).abs().sum() / images,
        }
        if len(self.classes) > 5:
            values["accuracy_top5"] = self.in_top5.cpu().double() / images
        return {name: value.item() for name, value in values.items()}


class MultilabelMetrics(CollectingMetric):
    """Any number of classes an image: ``map`` in three kinds, ``f1_macro``, ``f1_micro``, ``accuracy_exact``.

    Images are ranked by a class's logit. Each distinct logit is a threshold, with the precision and the
    recall of all images at or above it: equal ones share a threshold, so that their order says nothing (the
    VOC devkit ranks them as they lie in its list). The average precision of a class is

    ``map``      the sum over the thresholds of precision times the step in recall (scikit-learn's
                 ``average_precision_score``);
    ``map_voc``  VOC 2010 to 2012: the same with the largest precision at that or a larger recall (VOC2012
                 devkit, section 3.4.1 and VOCap.m);
    ``map_voc07``  VOC 2007: the mean of that largest precision at the recalls 0, 0.1, ..., 1 (Everingham
                 et al. 2010, The Pascal Visual Object Classes Challenge, IJCV, section 4.2),

    and its mean is over the classes that occur. A class is predicted where its logit is above 0. ``f1_macro``
    is the mean over the classes that occur in the truth or in a prediction; ``accuracy_exact`` the share of
    images with every class right. A target of NaN is left out of everything: of this class the image is
    neither a positive nor a negative; an image of NaN only is in no number.
    """

    scores: list[Tensor]
    truths: list[Tensor]
    judged: list[Tensor]

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self.add_state("scores", [], None)
        self.add_state("truths", [], None)
        self.add_state("judged", [], None)

    def update(self, logits: Tensor, target: Tensor) -> None:
        """logits float ``[B, C]``, target float or bool ``[B, C]`` of 0 and 1, or NaN: not judged."""
        self.scores.append(logits.detach().float().clone())
        self.truths.append(target > 0.5)
        self.judged.append(~target.isnan())

    def compute(self) -> dict[str, float]:
        empty = torch.zeros(0, len(self.classes))
        scores = torch.cat([empty, *(s.cpu() for s in self.scores)])
        truth = torch.cat([empty, *(t.cpu() for t in self.truths)]).bool()
        judged = torch.cat([empty, *(j.cpu() for j in self.judged)]).bool()
        predicted = (scores > 0) & judged
        hits = (predicted & truth).sum(0).double()
        of_class = zip(scores.T, truth.T, judged.T, strict=True)
        ap, voc, voc07 = torch.stack([_average_precisions(s[j], t[j]) for s, t, j in of_class], dim=1)
        f1 = 2 * hits / (predicted.sum(0) + truth.sum(0))
        self._columns = {
            "ap": ap.tolist(),
            "ap_voc": voc.tolist(),
            "ap_voc07": voc07.tolist(),
            "f1": f1.tolist(),
            "precision": (hits / predicted.sum(0)).tolist(),
            "recall": (hits / truth.sum(0)).tolist(),
            "images": truth.sum(0).tolist(),
        }
        return {
            "map": ap.nanmean().item(),
            "map_voc": voc.nanmean().item(),
            "map_voc07": voc07.nanmean().item(),
            "f1_macro": f1.nanmean().item(),
            "f1_micro": (2 * hits.sum() / (predicted.sum() + truth.sum())).item(),
            "accuracy_exact": (predicted == truth).all(1)[judged.any(1)].double().mean().item(),
        }


def _average_precisions(scores: Tensor, truth: Tensor) -> Tensor:
    """Of one class, scikit-learn's, VOC's of 2010 and of 2007: float64 ``[3]``, NaN without a positive.

    scores float ``[N]``, truth bool ``[N]``.
    """
    positives = int(truth.sum())
    if not positives:
        return torch.full((3,), torch.nan, dtype=torch.float64)
    scores, order = scores.sort(descending=True)
    hits = truth[order].cumsum(0)
    # Equal scores share one threshold: the last of each run of them.
    ends = scores.diff(append=scores.new_full((1,), -torch.inf)).nonzero().flatten()
    hits = hits[ends]
    precision = hits.double() / (ends + 1)
    largest = precision.flip(0).cummax(0).values.flip(0)  # at this or a larger recall
    steps = hits.diff(prepend=hits.new_zeros(1)).double()
    # In whole numbers: 0.1 is none of float64, and 3 of 10 positives would miss the recall 0.3.
    eleven = largest[torch.searchsorted(10 * hits, positives * torch.arange(11))]
    return torch.stack(
        [(steps * precision).sum() / positives, (steps * largest).sum() / positives, eleven.mean()]
    )
