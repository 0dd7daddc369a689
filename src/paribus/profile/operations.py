"""What torch's operations are as layers: their kind, and the window that they slide over a map."""

from typing import Any

from paribus.profile.receptive_field import REDUCTIONS

# What a table shows unless it shows everything; `unused` are parameters that evaluation does not touch.
KINDS = ("conv", "transposed conv", "linear", "attention", "norm", "pool", "upsample", "parameter", "unused")

POOLS = {"max_pool2d_with_indices", "avg_pool2d"}
ADAPTIVE = {"_adaptive_avg_pool2d", "adaptive_max_pool2d"}
NORMS = ("batch_norm", "layer_norm", "group_norm", "rms_norm")
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # and the place of the first of the two factors

Weights = frozenset  # of names of parameters: the origin of a tensor that has not met the image


def meaning(operation: str, args: Any) -> tuple[str, dict[str, Any]]:
    """The kind of layer that an operation is, and its window; `other` for none of KINDS."""
    if operation == "convolution":
        _, weight, _, stride, padding, dilation, transposed, _, groups = args
        kernel = tuple(weight.shape[2:])
        window = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
        window = {key: tuple(value) for key, value in window.items()}
        return "transposed conv" if transposed else "conv", window | {"groups": groups}
    if operation in POOLS:
        kernel, stride, padding = (tuple(a) for a in (*args[1:4], *((), (0, 0))[len(args) - 2 :])[:3])
        return "pool", {"kernel": kernel, "stride": stride or kernel, "padding": padding}
    if operation in ADAPTIVE:
        sizes = list(zip(args[0].shape[-2:], args[1], strict=True))
        if all(a == b for a, b in sizes):
            return "other", {}
        kernel = tuple(max(-(-(i + 1) * a // b) - i * a // b for i in range(b)) for a, b in sizes)
        return "pool", {"kernel": kernel, "stride": tuple(max(1, a // b) for a, b in sizes)}
    if operation in REDUCTIONS and _over_space(args):
        return "pool", {"kernel": tuple(args[0].shape[d] for d in args[1])}
    if operation in PRODUCTS:
        place = PRODUCTS[operation]
        learned = any(isinstance(getattr(t, "origin", None), Weights) for t in args[place : place + 2])
        return "linear" if learned else "attention", {}
    if operation.startswith("_scaled_dot_product"):
        return "attention", {}
    if operation.endswith(NORMS) or "_norm_legit" in operation:
        return "norm", {}
    if operation.startswith(("upsample_", "pixel_shuffle", "max_unpool2d")):
        return "upsample", {}
    return "other", {}


def _over_space(args: Any) -> bool:
    """Whether a reduction leaves nothing of a map's rows and columns, or of a sequence's tokens."""
    tensor, dims = args[0], args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else []
    reduced = {d % tensor.ndim for d in dims}
    return (tensor.ndim == 4 and reduced in ({2, 3}, {1, 2})) or (tensor.ndim == 3 and reduced == {1})
