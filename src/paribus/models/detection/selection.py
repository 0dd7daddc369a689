"""From the scores of many boxes to an image's detections."""

from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image


def select(
    boxes: Tensor,
    scores: Tensor,
    *,
    size: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    detections_per_img: int,
) -> dict[str, Tensor]:
    """Every box with every class whose score is above `score_thresh`, suppressed class by class, best first.

    boxes: [N, 4] of one image. scores: [N, C]. size: (H, W), at which boxes are cut; what lies outside is left
    out.
    """
    boxes = clip_boxes_to_image(boxes, size)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    box, label = ((scores > score_thresh) & inside[:, None]).nonzero(as_tuple=True)
    boxes, scores = boxes[box], scores[box, label]
    kept = batched_nms(boxes, scores, label, nms_thresh)[:detections_per_img]
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": label[kept]}
