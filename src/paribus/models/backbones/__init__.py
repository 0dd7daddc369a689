"""Image encoders with one interface, so that `backbone=` is one factor in every task."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from paribus.models.activation import Activation, replace_activation
from paribus.models.initialization import initialize
from paribus.models.normalization import UNNORMALIZED, Norm, calibrate, replace_norm
from paribus.models.weights import load_published, load_weights, read_weights

# Where a backbone may be found in a file: in a Paribus run, in a Paribus state dict, alone.
PREFIXES = ("model.backbone.", "backbone.", "model.", "")


class Backbone(Protocol):
    """`forward(x[B, C, H, W])` gives maps NCHW, fine to coarse, of `channels` and `strides` (pixels a cell).

    What stands between a network's last map and its classifier (a final norm, a class token, fully connected
    layers) is no map. A backbone with such a part has further:
      embed(x) -> [B, embedding], what its own classifier would see, and the attribute `embedding`;
      dense() -> itself without that part, whose parameters would never get a gradient (DDP stops at those).

    A network of Paribus keeps its parts in `stages`, one a map, by which depths() tells them apart; any other
    may have depths(fine) itself.
    """

    channels: list[int]
    strides: list[int]

    def __call__(self, x: Tensor) -> list[Tensor]: ...


def dense(backbone: Any) -> Any:
    """The backbone for a model that uses its maps only."""
    return backbone.dense() if hasattr(backbone, "dense") else backbone


def need_borders(backbone: Any, model: str) -> None:
    """Raises ValueError for a backbone whose convolutions are unpadded, so that its maps lack the border."""
    if not getattr(backbone, "padded", True):
        raise ValueError(
            f"backbone.padded=false: {model} needs maps with their borders, backbone.padded=true"
        )


def maps(stages: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What each stage makes of the last one's map."""
    found = []
    for stage in stages:
        x = stage(x)
        found.append(x)
    return found


def depths(backbone: Any, fine: bool = False) -> dict[str, int]:
    """The depth of each parameter by its name, 0 the stem's: by stage, or if `fine` by block. What follows the
    last map is as deep as it.
    """
    if hasattr(backbone, "depths"):
        return backbone.depths(fine)
    found: dict[str, int] = {}
    depth, last = -1, None
    for name, parameter in backbone.named_parameters():
        place = name.split(".")[1:3] if name.startswith("stages.") else last
        # Within a stage a block begins with a convolution; the norm after it belongs to it.
        if place is not None and (
            last is None or place[0] != last[0] or (fine and place != last and parameter.ndim > 1)
        ):
            depth, last = depth + 1, place
        found[name] = max(depth, 0)
    return found


def freeze_stages(backbone: Any, stages: str | int) -> list[nn.Module]:
    """Freezes "none", "all" or the first `stages` (1 is the stem) of a backbone; returns the modules all of whose
    parameters are frozen, whose batch statistics should be as well.
    """
    if stages == "none":
        return []
    place = depths(backbone)
    count = 1 + max(place.values(), default=0)
    if isinstance(stages, int) and not 1 <= stages <= count:
        raise ValueError(
            f"task.freeze={stages}: none, all, or from 1 to the {count} stages of this backbone, the stem first"
        )
    for name, parameter in backbone.named_parameters():
        if stages == "all" or place[name] < int(stages):
            parameter.requires_grad_(False)
    return [
        module
        for module in backbone.modules()
        if (own := list(module.parameters())) and not any(p.requires_grad for p in own)
    ]


def finish(
    network: nn.Module,
    *,
    norm: Norm | None = None,
    activation: Activation | None = None,
    init: str = "default",
    weights: str | None = None,
    published: str | None = None,
    calibrated: tuple[int, tuple[int, int]] | None = None,
    prefixes: Sequence[str] = PREFIXES,
    ignore: Sequence[str] = (),
) -> None:
    """The knobs that every backbone has, set on a network as built: with batch norm and ReLU.

    norm, activation: in the place of these; None leaves the network's own.
    init: see initialize().
    weights: a file or run folder. published: a library's weights, see load_published(). Not both.
    calibrated: (channels, (H, W)) of an image, for networks designed for batch norm: left without any norm and
        not loaded, they are scaled, see calibrate().
    prefixes, ignore: see load_weights().

    Raises ValueError for what the network cannot do, in the words of the config's keys.
    """
    if weights and published:
        raise ValueError("backbone.pretrained and backbone.weights: choose one")
    initialize(network, init)
    if activation:
        try:
            replace_activation(network, activation)
        except ValueError as error:
            raise ValueError(f"backbone.activation={activation}: {error}") from None
    if published:
        load_published(network, published)
    # Batch statistics in a file are loaded into batch norms, from which the replacement takes them over.
    content = read_weights(weights) if weights else {}
    statistics = any(key.endswith("running_var") for key in content)
    if weights and statistics:
        load_weights(network, weights, prefixes, ignore, content)
    if norm:
        try:
            replace_norm(network, norm)
        except ValueError as error:
            raise ValueError(f"backbone.norm={norm}: {error}") from None
    if weights and not statistics:
        load_weights(network, weights, prefixes, ignore, content)
    if calibrated and norm in UNNORMALIZED and not (published or weights):
        calibrate(network, calibrated[1], calibrated[0])
