"""What a user of an exported program has to know, in words and numbers: how images get in, what comes out."""

from collections.abc import Sequence
from typing import Any

from paribus.data.samples import IGNORE

# Of each detector how a box is read from its outputs. `anchors`: those of anchors.npy.
_ANCHOR = (
    "row i belongs to row i of anchors.npy (x1, y1, x2, y2 in pixels of the input), whose centre is (cx, cy) and "
    "whose size is (w, h)"
)
DECODING = {
    "RetinaNet": [
        f"cls_logits [batch, A, classes] and bbox_regression [batch, A, 4]: {_ANCHOR}",
        "score of class i: sigmoid(cls_logits[..., i])",
        "box of (dx, dy, dw, dh): centre (cx + dx w, cy + dy h), size (w exp(dw), h exp(dh)), dw and dh at most "
        "log(1000 / 16)",
    ],
    "FCOS": [
        f"cls_logits [batch, A, classes], bbox_regression [batch, A, 4] and bbox_ctrness [batch, A, 1]: {_ANCHOR}",
        "score of class i: sqrt(sigmoid(cls_logits[..., i]) * sigmoid(bbox_ctrness))",
        "box of (l, t, r, b): from (cx - l w, cy - t h) to (cx + r w, cy + b h)",
    ],
    "SSD": [
        f"bbox_regression [batch, A, 4] and cls_logits [batch, A, 1 + classes]: {_ANCHOR}",
        "softmax over the last axis of cls_logits: entry 0 is background, entry 1 + i the score of class i",
        "box of (dx, dy, dw, dh): centre (cx + dx w / 10, cy + dy h / 10), size (w exp(dw / 5), h exp(dh / 5)), "
        "dw / 5 and dh / 5 at most log(1000 / 16)",
    ],
    "YOLO": [
        "cells [batch, A, 4 + 1 + classes]: the cells of all levels, fine to coarse, each level row by row; their "
        "strides s are `levels`",
        "score of class i: sigmoid(entry 4) * sigmoid(entry 5 + i)",
        "box of the cell in row r and column c: centre ((c + 0.5 + entry 0) s, (r + 0.5 + entry 1) s), size "
        "(exp(entry 2) s, exp(entry 3) s), in pixels of the input; entries 2 and 3 cut to +-log(1000)",
    ],
    "YOLO2015": [
        "map [batch, boxes * 5 + classes, S, S]: for each of the boxes x, y, u, v and a confidence, then the classes",
        "score of class i: confidence * entry boxes * 5 + i, both cut to 0 ... 1",
        "box of the cell in row r and column c: centre ((c + x) / S, (r + y) / S), size (u u, v v), in shares of the "
        "input (padded at the right and at the bottom as `padded_to_multiple_of` says)",
    ],
}
NAMES = {"YOLO": ["cells"], "YOLO2015": ["map"]}  # of outputs that are no dict
LEFT_OUT = [
    "the decoding of boxes",
    "the threshold of scores, the largest number of candidates, and that of detections",
    "non-maximum suppression (torchvision::nms): how many boxes it leaves depends on the image",
]


def described(
    *,
    data: Any,
    model: Any,
    task: str,
    config: dict[str, Any],
    window: Sequence[int] | None,
    outputs: dict[str, list[Any]],
    least: int | None,
    why: str | None,
) -> dict[str, Any]:
    """Of a program. config: of the model. window: in which the run was judged. outputs: their shapes by name.
    least, why: see Traced.
    """
    size, fit, boxes = data.size, data.eval_transform.fit, data.target == "boxes"
    sides: Any = {"height": size[0], "width": size[1]} if size else {"height": None, "width": None}
    said: dict[str, Any] = {
        "task": task,
        "classes": list(data.classes),
        "palette": data.reader.palette,
        "input": {
            "name": "images",
            "layout": "[batch, 3, height, width], RGB",
            "dtype": "uint8",
            "values": [0, 255],
            "batch": "any number of images",
            "size": {**sides, "fit": fit if size else "none: every image keeps its size"},
            "program_takes": f"any height and width of {least} pixels or more"
            if least
            else f"{sides['height']} x {sides['width']} only" + (f": {why}" if why else ""),
            "mean": [round(float(m) / 255, 6) for m in data.mean.flatten()],
            "std": [round(1 / (255 * float(s)), 6) for s in data.scale.flatten()],
            "channels_of_the_network": data.channels,
        },
        "outputs": {name: {"shape": shape, "dtype": "float32"} for name, shape in outputs.items()},
        "preprocess": preparing(size, fit, data.channels == 1),
        "postprocess": finding(model) if boxes else deciding(data.target, size, fit),
        "left_out": list(LEFT_OUT) if boxes else [],
    }
    if boxes:
        said["detector"] = {key: value for key, value in config.items() if key != "_target_"}
        said["detector"]["padded_to_multiple_of"] = max(model.backbone.strides)
        if hasattr(getattr(model, "pyramid", None), "levels"):
            said["detector"]["levels"] = list(model.pyramid.levels)
    if window:
        said["left_out"].append(
            f"windows: the run answers a large image in overlapping windows of {list(window)}, whose logits are "
            "averaged; the program answers as a whole what it is given"
        )
    return said


def shape(of: Sequence[int], target: str, least: int | None) -> list[Any]:
    """An output's, with words for the sides that follow the input's."""
    said: list[Any] = ["batch", *of[1:]]
    if least and target == "mask":
        said[2:] = ["height", "width"]
    if least and target == "boxes" and len(said) == 3:
        said[1] = "A"
    return said


def preparing(size: tuple[int, int] | None, fit: str, gray: bool) -> list[str]:
    """From a file to the input."""
    said = [
        "decode to RGB, 8 bits a channel, upright (EXIF orientation applied); grey is repeated in three channels, "
        "alpha is dropped"
    ]
    if size is None:
        said.append("leave the size as it is")
    else:
        said += _fitting(size, fit)
        said.append(
            "every resize: OpenCV's INTER_AREA where a side becomes half of what it was or less, else INTER_LINEAR; "
            "an image of the size already is left alone; `round` takes halves to the even number"
        )
    said.append(
        "transpose [height, width, 3] to [3, height, width] and stack images of one size: uint8, 0 ... 255"
    )
    said.append(
        "nothing else: the program itself "
        + ("averages the three channels and " if gray else "")
        + "computes (x / 255 - mean) / std"
    )
    return said


def _fitting(size: tuple[int, int], fit: str) -> list[str]:
    height, width = size
    if fit == "stretch":
        return [f"resize to {height} x {width} (height x width), whatever the aspect"]
    ratio = "max" if fit == "crop" else "min"
    resized = (
        f"of an image of h x w take ratio = {ratio}({height} / h, {width} / w), and resize it to H = "
        "max(1, round(h ratio)) by W = max(1, round(w ratio))"
    )
    if fit == "crop":
        return [
            resized,
            f"cut {height} x {width} out of it, from row (H - {height}) // 2 and column (W - {width}) // 2 on",
        ]
    return [resized, f"fill it with 0 at the bottom and at the right up to {height} x {width}"]


def deciding(target: str, size: tuple[int, int] | None, fit: str) -> list[str]:
    """From the outputs to an answer, for all but boxes."""
    if target == "label":
        return [
            "logits [batch, classes]: softmax over the last axis gives probabilities; the largest at index i means "
            "classes[i]"
        ]
    if target == "labels":
        return [
            "logits [batch, classes]: the sigmoid of each is the probability of classes[i], each by itself; above "
            "0.5 (a logit above 0) is yes"
        ]
    said = [
        "logits [batch, classes, height, width], at the input's size: softmax over axis 1 gives probabilities; the "
        "largest at index i means classes[i], whose colour is palette[i] where there is a palette",
        f"{IGNORE} is no class and the program never answers it: in masks it stands for pixels that nobody judged"
        + (", here those that the crop has cut off" if size and fit == "crop" else ""),
    ]
    back = "resize the logits, not the classes, to the file's size and take the largest then: bilinear, half-pixel centres, antialiased where it shrinks"
    if size and fit == "pad":
        back = f"leave out the filled rows and columns (keep H x W), then {back}"
    if size and fit == "crop":
        back = f"put the logits where they were cut from and repeat those of the border around them (H x W), then {back}"
    return [*said, back] if size else said


def finding(model: Any) -> list[str]:
    """From a detector's outputs to boxes: what is left to do."""
    kind, early = type(model).__name__, type(model).__name__.startswith("YOLO")
    best = f"keep the {model.detections_per_img} best"
    return [
        *DECODING[kind],
        f"keep scores above {model.score_thresh:g}, each box with every class that has one; cut boxes at the input's "
        "border" + (", and drop those without an area" if early else ""),
        f"suppress, class by class, best first, boxes that overlap a better one by an IoU above {model.nms_thresh:g}; "
        + (best if early else f"{best}, and of these, if the input was padded, those with an area"),
        "undo the fit: a box in pixels of the input, plus what was cut off at the left and the top, times the "
        "file's size / the resized size",
    ]
