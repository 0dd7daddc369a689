"""Any network of timm (Wightman 2019, https://github.com/huggingface/pytorch-image-models) as a backbone."""

import difflib
from contextlib import suppress
from typing import Any

import timm
from timm.layers import DropPath
from timm.models import group_parameters
from torch import Tensor, nn

from paribus.models.activation import Activation
from paribus.models.backbones import finish
from paribus.models.dilation import check_dilation, dilate
from paribus.models.normalization import Norm

# A network tied to one input size takes any with one of these, under its family's name for it.
_ANY_SIZE: list[dict[str, Any]] = [
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
]
# Where the network may be found in a file: in a Paribus run, in a Paribus state dict, in timm's own.
_PREFIXES = ("model.backbone.network.", "backbone.network.", "network.", "model.", "")


class Timm(nn.Module):
    """Maps NCHW, fine to coarse, whatever the network's own layout; of a network of one stride (ViT) three,
    at thirds of its depth. `embed` gives what the network's own classifier would see.

    name: timm's, with or without a tag of weights ("resnet50", "resnet50.a1_in1k").
    norm: in place of every batch norm; None leaves the network's own.
    activation: in place of every rectifier and its relatives; None leaves the network's own.
    init: see initialize().
    dropout: timm's drop_rate, where the network has it, mostly before the classifier.
    pretrained: timm's weights for the name, downloaded or from its cache.
    weights: a .pth, .pt, .safetensors or .ckpt file, or a run folder, whose backbone is taken.
    output_stride: the coarsest at most, 32 whatever it is. Below the network's own it is dilated, see dilate(), so
        that weights make the features that they made; where dilate() cannot and timm can, as timm does.
    drop_path: the last block's rate of stochastic depth (Huang et al. 2016).
    image_size: (H, W), for networks that are tied to one (beit, maxvit, mixer, ...); all others take any.

    Raises ValueError for what the network cannot do, saying what it can.
    """

    def __init__(
        self,
        *,
        name: str,
        norm: Norm | None = None,
        activation: Activation | None = None,
        init: str = "default",
        pretrained: bool = False,
        weights: str | None = None,
        in_channels: int = 3,
        output_stride: int = 32,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        image_size: tuple[int, int] | None = None,
    ):
        super().__init__()
        _check_name(name)
        if pretrained and weights:
            raise ValueError("backbone.pretrained and backbone.weights: choose one")
        if pretrained and init != "default":
            raise ValueError(f"backbone.init={init} would draw pretrained weights anew: init=default")
        options: dict[str, Any] = {"pretrained": pretrained, "in_chans": in_channels, "num_classes": 0}
        if drop_path:
            options["drop_path_rate"] = drop_path
        if dropout:
            options["drop_rate"] = dropout
        if image_size:
            options["img_size"] = tuple(image_size)
        self._take(_create(name, options))
        dilated = output_stride < 32  # timm's default, which levit's strides of 64 pass as well
        try:
            if dilated:
                check_dilation(self, output_stride, name=name)
        except ValueError:
            with suppress(TypeError, AssertionError, ValueError, NotImplementedError):
                self._take(_create(name, options | {"output_stride": output_stride}))
            if max(self.strides) > output_stride:
                raise
        network = self.network
        if drop_path and not any(isinstance(m, DropPath) and m.drop_prob for m in network.modules()):
            raise ValueError(f"backbone.drop_path: {name} has no stochastic depth in timm; leave it at 0")
        self.embedding: int = network.head_hidden_size

        classifier = network.pretrained_cfg.get("classifier") or ()
        try:
            finish(
                network,
                norm=norm,
                activation=activation,
                init=init,
                weights=weights,
                calibrated=None
                if pretrained
                else (in_channels, image_size or network.pretrained_cfg["input_size"][1:]),
                prefixes=_PREFIXES,
                ignore=(classifier,) if isinstance(classifier, str) else classifier,
            )
        except ValueError as error:
            raise ValueError(f"backbone.name={name}: {error}") from None
        if dilated:
            dilate(self, output_stride, name=name)

    def _take(self, network: Any) -> None:
        self.network = network
        strides = [info["reduction"] for info in _features(network)]
        self.indices = _selection(strides)
        self.strides = [strides[i] for i in self.indices]
        self.channels = [_features(network)[i]["num_chs"] for i in self.indices]

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.network.forward_intermediates(
            x, indices=self.indices, output_fmt="NCHW", intermediates_only=True
        )

    def embed(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, embedding]: the network with its own pooling and norm, up to its classifier."""
        return self.network.forward_head(self.network.forward_features(x), pre_logits=True)

    def depths(self, fine: bool) -> dict[str, int]:
        """See depths() in this folder: timm's own grouping of the parameters by name."""
        groups = group_parameters(self.network, self.network.group_matcher(coarse=not fine))
        return {f"network.{name}": depth for depth, names in groups.items() for name in names}

    def dense(self) -> "Timm":
        """Itself, without the layers after the last map (final norm, head convolution) that `embed` needs."""
        self.indices = self.network.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        return self


def _check_name(name: str) -> None:
    base = name.split(".")[0]
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=5, cutoff=0.5)
        raise ValueError(f"backbone.name: timm has no network {name!r}; near: {', '.join(near) or 'none'}")
    tagged = timm.list_models(f"{base}.*", pretrained=True)
    if "." in name and name not in tagged:
        raise ValueError(
            f"backbone.name: timm has no weights {name!r}; there are: {', '.join(tagged) or 'none'}"
        )


def _create(name: str, options: dict[str, Any]) -> Any:
    """timm's network; its errors in the words of our keys."""
    try:
        return _any_size(name, options)
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise ValueError(f"backbone.drop_path: {name} has none in timm; leave it at 0") from error
        if "drop_rate" in str(error):
            raise ValueError(f"backbone.dropout: {name} has none in timm; leave it at 0") from error
        if "img_size" in str(error):
            raise ValueError(f"backbone.image_size: {name} takes any; leave it null") from error
        raise


def _any_size(name: str, options: dict[str, Any]) -> Any:
    for extra in _ANY_SIZE:
        try:
            network = timm.create_model(name, **options, **extra)
            break
        except TypeError as error:
            if not any(key in str(error) for key in extra):
                raise
        except (OSError, RuntimeError) as error:
            if not options["pretrained"]:
                raise
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"backbone.pretrained: the weights of {name} cannot be had ({type(error).__name__}: "
                f"{reason}); offline, set `backbone.pretrained=false backbone.weights=<file>`"
            ) from error
    if not hasattr(network, "forward_intermediates"):
        raise ValueError(f"backbone.name: timm {timm.__version__} gives no maps of {name}; timm 1.0.31 does")
    return network


def _features(network: Any) -> list[dict[str, Any]]:
    info = network.feature_info
    return info if isinstance(info, list) else info.info


def _selection(strides: list[int]) -> list[int]:
    """All maps of a pyramid; of a column of equal maps, those at thirds of its depth."""
    depth = len(strides)
    if depth > 3 and len(set(strides)) == 1:
        return [depth // 3 - 1, 2 * depth // 3 - 1, depth - 1]
    return list(range(depth))
