"""Metrics of a class for every pixel."""

from collections.abc import Sequence

from torch import Tensor

from paribus.metrics.base import ConfusionMetric


class SegmentationMetrics(ConfusionMetric):
    """One class a pixel: ``pixel_accuracy``, ``class_accuracy``, ``miou``; ignored pixels do not count.

    From one confusion matrix of the whole set: ``class_accuracy`` is the mean over the classes that occur in
    the truth, ``miou`` the mean of intersection over union over the classes that occur in the truth or in a
    prediction (Long et al. 2015, Fully Convolutional Networks, section 5; PASCAL VOC's development kit).
    """

    def __init__(self, classes: Sequence[str], ignore: int = 255) -> None:
        if ignore < len(classes):
            raise ValueError(
                f"the mask value {ignore} is ignored, so it cannot also be one of the {len(classes)} classes "
                f"(0 to {len(classes) - 1}): leave classes out or set a larger `ignore`"
            )
        # A row for every value up to `ignore` makes the ignored a row like any other: no masking, which
        # would cost a pass over the pixels, and values that are no class are noticed.
        super().__init__(classes, rows=ignore + 1)
        self.ignore = ignore

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """prediction and target integer ``[B, H, W]``; target in 0 .. C - 1, or ``ignore``."""
        assert prediction.shape == target.shape, f"{tuple(prediction.shape)} != {tuple(target.shape)}"
        self._count(prediction, target)

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
        self._columns = {
            "iou": iou.tolist(),
            "accuracy": accuracy.tolist(),
            "pixels": self._confusion.sum(1).tolist(),
        }
        return {
            "pixel_accuracy": (hits.sum() / truth.sum()).item(),
            "class_accuracy": accuracy.nanmean().item(),
            "miou": iou.nanmean().item(),
        }
