"""mIoU, accuracy and F1 of masks with ignored pixels: Paribus, a torchmetrics collection, torchmetrics' MeanIoU.

    OMP_NUM_THREADS=1 python scripts/benchmarks/segmentation_metrics.py [--quick]

Each takes the same eight masks of 256 x 256 in 21 classes, a tenth of the pixels ignored, and says its numbers once.
Equal first: accuracy, mean IoU and mean F1 of the collection to 1e-6 (it computes in float32). MeanIoU averages over
images and knows no ignored pixels, so it is another number on a set: held to be equal on one image without them.
Seconds are the processor's, of one thread.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import measure
import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

from paribus.metrics import SegmentationMetrics

CLASSES, IGNORE = 21, 255


def masks(images: int, side: int, ignored: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(CLASSES, (images, side, side), generator=generator)
    drawn = torch.rand(target.shape, generator=generator)
    prediction = torch.where(drawn < 0.4, torch.randint(CLASSES, target.shape, generator=generator), target)
    target[drawn > 1 - ignored] = IGNORE
    return prediction, target


def ours(prediction: Tensor, target: Tensor) -> dict[str, float]:
    metric = SegmentationMetrics([str(i) for i in range(CLASSES)])
    metric.update(prediction, target)
    values, confusion = metric.compute(), metric.confusion.double()
    f1 = 2 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))
    return {"accuracy": values["accuracy"], "miou": values["miou"], "f1": float(f1.nanmean())}


def collection(prediction: Tensor, target: Tensor) -> dict[str, float]:
    metrics = MetricCollection(
        {
            "accuracy": MulticlassAccuracy(CLASSES, average="micro", ignore_index=IGNORE),
            "miou": MulticlassJaccardIndex(CLASSES, ignore_index=IGNORE),
            "f1": MulticlassF1Score(CLASSES, ignore_index=IGNORE),
        }
    )
    metrics.update(prediction, target)
    return {name: float(value) for name, value in metrics.compute().items()}


def mean_iou(prediction: Tensor, target: Tensor) -> float:
    metric = MeanIoU(CLASSES, input_format="index")
    metric.update(prediction, target)
    return float(metric.compute())


def main() -> None:
    quick = measure.quick(__doc__)
    torch.set_num_threads(1)
    images, side = (2, 64) if quick else (8, 256)
    given, whole = masks(images, side, 0.1), masks(1, side, 0.0)
    mine, theirs = ours(*given), collection(*given)
    for name, value in mine.items():
        assert abs(value - theirs[name]) < 1e-6, f"another {name}: {value} and {theirs[name]}"
    assert abs(ours(*whole)["miou"] - mean_iou(*whole)) < 1e-6, "another mean IoU of one image"
    without = given[0], torch.where(given[1] == IGNORE, 0, given[1])  # which is no value MeanIoU takes
    found = measure.in_turn(
        {
            "Paribus": measure.timed(lambda: ours(*given)),
            "torchmetrics collection": measure.timed(lambda: collection(*given)),
            "torchmetrics MeanIoU": measure.timed(lambda: mean_iou(*without)),
        },
        1 if quick else 9,
    )
    measure.table(found, "ms a batch and its numbers", 1e3)
    own, together, alone = found.values()
    what = "mIoU, accuracy and F1 of masks"
    measure.claim(what, "torchmetrics collection", measure.ratio(together, own), ">=20", not quick)
    measure.claim(what, "torchmetrics MeanIoU", measure.ratio(alone, own), ">=80", not quick)


if __name__ == "__main__":
    main()
    measure.end()
