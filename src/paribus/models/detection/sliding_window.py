"""A sliding window: a classifier is asked of every window of an image, at several sizes and aspect ratios.

As Rowley et al. 1998 (Neural Network-Based Face Detection) and Dalal and Triggs 2005 (Histograms of Oriented Gradients
for Human Detection) found faces and people; overlapping answers are suppressed.
"""

from typing import Literal

from paribus.models.backbones import Backbone
from paribus.models.detection.rcnn import RCNN


class SlidingWindow(RCNN):
    """A detector, see Detector; loss "classification".

    It is an R-CNN whose proposals are all windows of a grid, and which moves no box: what it says an object fills is
    one of its windows. It learns from windows on objects, from the objects' own boxes, and from windows on the
    background, drawn anew in each step.

    window_smallest, windows_per_octave, window_ratios, window_step: of the grid, see windows(). An object is found if a
        window overlaps it by an IoU of 0.5, which steps of a quarter and two sizes an octave just about make sure of.
    The rest as of RCNN.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        window_smallest: float = 16.0,
        windows_per_octave: int = 2,
        window_ratios: list[float] | tuple[float, ...] = (0.5, 1.0, 2.0),
        window_step: float = 0.25,
        crop: int = 64,
        context: int = 4,
        head: Literal["own", "average"] = "own",
        box_batch: int = 64,
        chunk: int = 256,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.3,
        detections_per_img: int = 100,
    ):
        super().__init__(
            backbone=backbone,
            num_classes=num_classes,
            proposals="grid",
            num_proposals=None,
            window_smallest=window_smallest,
            windows_per_octave=windows_per_octave,
            window_ratios=window_ratios,
            window_step=window_step,
            crop=crop,
            context=context,
            head=head,
            box_regression=False,
            box_batch=box_batch,
            chunk=chunk,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
        )
