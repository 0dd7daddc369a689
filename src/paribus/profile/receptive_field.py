"""What a cell of a map has seen of the image, followed through the operations of a network.

With s the field's side and j the jump, both in pixels: a window of k cells, d apart, makes s + (k - 1) d j of
s, and its stride multiplies j (Dumoulin and Visin 2016, https://arxiv.org/abs/1603.07285; Araujo et al. 2019,
https://distill.pub/2019/computing-receptive-fields/). Where paths meet, the largest field counts.
"""

import math
from typing import Any, NamedTuple

from torch import Tensor


class Field(NamedTuple):
    """size: of the receptive field, (rows, columns) in pixels; inf is the whole image, or what attention mixes.
    jump: pixels between neighbouring cells. cells: rows * columns of the map.
    """

    size: tuple[float, float]
    jump: tuple[float, float]
    cells: int


WHOLE = (math.inf, math.inf)
JOINS = {"cat", "stack"}
REDUCTIONS = {"mean", "sum", "amax"}
# Operations that read the map at places which the values decide.
ANYWHERE = {"grid_sampler_2d", "deform_conv2d", "roi_align"}
REACH = {"upsample_bilinear2d": 2, "upsample_bicubic2d": 4}  # cells that one new cell is made of, a side


def followed(
    operation: str,
    args: Any,
    sources: list[tuple[Tensor, Field]],
    out: Tensor,
    kind: str,
    window: dict[str, Any],
) -> Field | None:
    """The field of an operation's result, from those of its arguments; None if none of them has one.

    kind, window: of the layer, as complexity.py calls it.
    """
    if not sources:
        return None
    field = _largest(operation, sources)
    tensor = sources[0][0]
    cells = out.shape[-2] * out.shape[-1] if out.ndim == 4 else field.cells
    if kind == "attention" or operation in ANYWHERE or (kind == "pool" and cells == 1 and len(window) < 3):
        return field._replace(size=WHOLE)  # the last: a mean, or adaptive pooling, of the whole map
    if kind == "pool" and operation in REDUCTIONS:
        return field._replace(size=WHOLE)
    if kind == "linear":
        # A linear layer on every cell of a map, or on all cells as one vector.
        local = out.numel() // out.shape[-1] == field.cells
        return field if local else field._replace(size=WHOLE)
    if kind in ("conv", "transposed conv", "pool") and len(window["kernel"]) == 2:
        dilation, stride = window.get("dilation", (1, 1)), window["stride"]
        reach = [(k - 1) * d for k, d in zip(window["kernel"], dilation, strict=True)]
        if kind == "transposed conv":
            reach = [r // s for r, s in zip(reach, stride, strict=True)]
            stride = tuple(1 / s for s in stride)
        return _moved(field, reach, stride, cells)
    if kind == "upsample":
        scale = tuple(1 / _ratio(n, m) for n, m in zip(tensor.shape[-2:], out.shape[-2:], strict=True))
        reach = [(REACH.get(operation, 1) - 1) * (s != 1) for s in scale]
        return _moved(field, reach, scale, cells)
    if operation == "slice" and out.ndim == 4 and len(args) > 4:  # x[:, :, ::2, ::2]
        step = [args[4] if axis == args[1] % 4 else 1 for axis in (2, 3)]
        return _moved(field, [0, 0], step, cells)
    return field


def _largest(operation: str, sources: list[tuple[Tensor, Field]]) -> Field:
    """Where paths meet. A gate, of pooled values that scale a whole map (Hu et al. 2018), does not count."""
    most = max(tensor.numel() for tensor, _ in sources)
    fields = [
        field
        for tensor, field in sources
        if operation in JOINS or field.size != WHOLE or tensor.numel() == most
    ] or [field for _, field in sources]
    largest = max(fields, key=lambda field: field.size)
    rows, columns = zip(*(field.size for field in fields), strict=True)
    return largest._replace(size=(max(rows), max(columns)))


def _moved(field: Field, reach: Any, stride: Any, cells: int) -> Field:
    (rows, columns), (down, right) = field.size, field.jump
    return Field(
        (rows + reach[0] * down, columns + reach[1] * right), (down * stride[0], right * stride[1]), cells
    )


def _ratio(before: int, after: int) -> float:
    """How much larger a map has become; whole where one cell more or less than a multiple makes the rest."""
    ratio = after / before
    near = max(1, round(ratio))
    return near if abs(after - before * near) < near else ratio
