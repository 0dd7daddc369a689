"""How models are trained and judged: a base class and its tasks."""

from paribus.tasks.base import Batch, Task
from paribus.tasks.classification import Classification
from paribus.tasks.clustering import Clustering
from paribus.tasks.detection import Detection
from paribus.tasks.diverged import DivergedError
from paribus.tasks.segmentation import Segmentation

__all__ = ["Batch", "Classification", "Clustering", "Detection", "DivergedError", "Segmentation", "Task"]
