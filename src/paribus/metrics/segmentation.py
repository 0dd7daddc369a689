"""Metrics of a class for every pixel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from paribus.metrics.base import ConfusionMetric
from paribus.metrics.boundary import contour_counts

# Scores are summed as integers, so that the sum depends on neither their order nor the number of processes.
UNIT = 2**40


class SegmentationMetrics(ConfusionMetric):
    """One class a pixel: ``accuracy``, ``accuracy_macro``, ``miou``, ``fwiou``; ignored pixels do not count.

    From one confusion matrix of the whole set (Long et al. 2015, Fully Convolutional Networks, section 5;
    PASCAL VOC's development kit):

    ``accuracy``        the share of the pixels that is right (global accuracy);
    ``accuracy_macro``  its mean over the classes that occur in the truth (class average);
    ``miou``            the mean of intersection over union, over the classes that occur in the truth or in a
                        prediction;
    ``fwiou``           the same mean weighted by the classes' true pixels (frequency weighted IoU).

    boundary_f1: judge contours too. ``boundary_f1`` of an image and a class is the harmonic mean of the share
    of the predicted contour that is right and the share of the true one that was found, see
    ``boundary.contour_counts`` (Csurka et al. 2013, What is a good evaluation measure for semantic
    segmentation?, section 4). An image's is the mean over the classes with a contour in its truth, the set's
    the mean over the images that have one (Badrinarayanan et al. 2017, SegNet, section 4.1); in the table each
    class's is the mean over the images whose truth has its contour. The tolerance is that of the size in
    ``update``: images padded to one size are better judged one by one.
    """

    contours: Tensor
    images: Tensor

    def __init__(self, classes: Sequence[str], ignore: int = 255, *, boundary_f1: bool = False) -> None:
        if ignore < len(classes):
            raise ValueError(
                f"the mask value {ignore} is ignored, so it cannot also be one of the {len(classes)} classes "
                f"(0 to {len(classes) - 1}): leave classes out or set a larger `ignore`"
            )
        # A row for every value up to `ignore` makes the ignored a row like any other: no masking, which
        # would cost a pass over the pixels, and values that are no class are noticed.
        super().__init__(classes, rows=ignore + 1)
        self.ignore, self.boundary_f1 = ignore, boundary_f1
        if boundary_f1:  # sums of scores, and how many
            self.add_state("contours", torch.zeros(2, len(classes), dtype=torch.int64), "sum")
            self.add_state("images", torch.zeros(2, dtype=torch.int64), "sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """prediction and target integer ``[B, H, W]``; target in 0 .. C - 1, or ``ignore``."""
        assert prediction.shape == target.shape, f"{tuple(prediction.shape)} != {tuple(target.shape)}"
        self._count(prediction, target)
        if self.boundary_f1:
            self._judge_contours(prediction, target)

    def _judge_contours(self, prediction: Tensor, target: Tensor) -> None:
        predicted, right, true, found = contour_counts(prediction, target, len(self.classes))
        # 2 p r / (p + r) of p = right / predicted and r = found / true; all without a hit is 0.
        f1 = (2 * right * found).double() / (right * true + found * predicted).clamp(min=1).double()
        there = true > 0
        scores, count = (f1 * UNIT).round().long() * there, there.sum(1)
        means = (scores.sum(1).double() / count.clamp(min=1)).round().long()
        self.contours += torch.stack([scores.sum(0), there.sum(0)])
        self.images += torch.stack([means.sum(), (count > 0).sum()])

    def compute(self) -> dict[str, float]:
        classes = len(self.classes)
        met = self.counts.reshape(-1, classes).sum(1).nonzero().flatten().tolist()
        unknown = [value for value in met if value >= classes and value != self.ignore]
        if unknown:
            raise ValueError(
                f"masks hold the value(s) {', '.join(map(str, unknown))}, which are no class (0 to "
                f"{classes - 1}) and not {self.ignore} (ignored): name these classes in `data.reader`, "
                f"or map them to {self.ignore}"
            )
        hits, truth, predicted = self._sums()
        accuracy, iou = hits / truth, hits / (truth + predicted - hits)
        values = {
            "accuracy": hits.sum() / truth.sum(),
            "accuracy_macro": accuracy.nanmean(),
            "miou": iou.nanmean(),
            "fwiou": (truth * iou.nan_to_num()).sum() / truth.sum(),
        }
        self._columns = {
            "iou": iou.tolist(),
            "accuracy": accuracy.tolist(),
            "precision": (hits / predicted).tolist(),
            "pixels": self._confusion.sum(1).tolist(),
        }
        if self.boundary_f1:
            total, count = self.images.cpu().double()
            values["boundary_f1"] = total / UNIT / count
            scores, images = self.contours.cpu().double()
            self._columns["boundary_f1"] = (scores / UNIT / images).tolist()
        return {name: value.item() for name, value in values.items()}
