"""The literature's metrics for the four kinds of target, exact for any number of processes.

``update`` counts or collects, on the device and without waiting for it. ``compute`` gathers once and
returns the scalars of the whole set, never a mean of batch values; ``per_class`` returns a table of
columns, ``class`` first. What is not defined (the accuracy of a class that does not occur) is NaN, and is
left out of means. With several processes every method but ``update`` is a collective: call it on all.
"""

from paribus.metrics.classification import ClassificationMetrics, MultilabelMetrics
from paribus.metrics.detection import DetectionMetrics
from paribus.metrics.mean import WeightedMean
from paribus.metrics.proposal_recall import recalls
from paribus.metrics.segmentation import SegmentationMetrics

__all__ = [
    "ClassificationMetrics",
    "DetectionMetrics",
    "MultilabelMetrics",
    "SegmentationMetrics",
    "WeightedMean",
    "recalls",
]
