"""Normalization as a factor: one word chooses it, in our blocks and on any network built with batch norm."""

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["batch", "sync_batch", "group", "layer", "instance", "local_response", "none"]
# Without batch's or a group's statistics: convolutions keep their biases, and what was designed for batch norm is
# scaled (calibrate).
UNNORMALIZED: tuple[Norm, ...] = ("local_response", "none")


class Affine(nn.Module):
    """y = weight * x + bias for each channel: what is left of a norm that does not normalize."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class LocalResponseNorm(nn.Module):
    """Krizhevsky et al. 2012, section 3.3: x / (k + alpha * sum of squares of `size` neighbours) ** beta.

    The defaults are Caffe's and torch's, which divide alpha by the size: k 1, alpha 1e-4 / 5. The paper has
    k 2, alpha 1e-4. As F.local_response_norm, in a quarter of its time on a CPU for a beta of 0.75.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4 / 5, beta: float = 0.75, k: float = 1.0):
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        before, channels = self.size // 2, x.shape[1]
        squares = F.pad(x.square(), (0, 0, 0, 0, before, self.size - 1 - before))
        window = torch.stack([squares[:, i : i + channels] for i in range(self.size)]).sum(0)
        scale = self.k + self.alpha * window
        if self.beta != 0.75:
            return x / scale.pow(self.beta)
        root = scale.rsqrt()
        return x * root * root.sqrt()


class LocalResponseAffine(Affine):
    """Local response norm and then an affine, in place of the biases that convolutions made for batch norm do
    not have.
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        self.norm = LocalResponseNorm()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


class InstanceNorm(nn.InstanceNorm2d):
    """Ulyanov et al. 2016, with an affine. Refuses a 1 x 1 map, of which it would make a constant."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] * x.shape[-1] == 1:
            raise ValueError(
                f"instance norm makes a constant of a 1 x 1 map, here {tuple(x.shape)}: take larger images "
                "(`data.size`), or `backbone.norm=group` for a network that normalizes pooled values"
            )
        return super().forward(x)


def groups(channels: int) -> int:
    """Of a group norm (Wu & He 2018): 32, or the next smaller number that divides the channels into groups of
    two or more; groups of one would be instance norm.
    """
    return max(g for g in range(1, 33) if channels % g == 0 and (g == 1 or channels // g >= 2))


def make_norm(norm: Norm, channels: int, eps: float = 1e-5) -> nn.Module:
    """A normalization of [B, channels, H, W]; each has weight and bias, so the convolution before needs none.

    layer is over C, H and W: a group norm of one group, as in Wu & He 2018. none is a per-channel affine.
    """
    match norm:
        case "batch":
            return nn.BatchNorm2d(channels, eps=eps)
        case "sync_batch":
            return nn.SyncBatchNorm(channels, eps=eps)
        case "group":
            return nn.GroupNorm(groups(channels), channels, eps=eps)
        case "layer":
            return nn.GroupNorm(1, channels, eps=eps)
        case "instance":
            return InstanceNorm(channels, eps=eps, affine=True)
        case "local_response":
            return LocalResponseAffine(channels)
        case "none":
            return Affine(channels)
        case _:
            raise ValueError(f"there is no norm {norm!r}; there are: {', '.join(get_args(Norm))}")


def replace_norm(module: nn.Module, norm: Norm) -> nn.Module:
    """Puts `norm` in the place of every 2-d batch norm, in place; returns the module.

    The new layer takes over weight and bias (zero-initialized gammas included) and eps; none and
    local_response also the running statistics, folded into their affine, so that a pretrained network left
    without its norm still computes what it did in evaluation. timm's BatchNormAct2d keeps its activation.

    Raises ValueError for a network without batch norm (ViT, Swin, ConvNeXt), or with one of vectors (LeViT).
    """
    if norm not in get_args(Norm):
        raise ValueError(f"there is no norm {norm!r}; there are: {', '.join(get_args(Norm))}")
    batch_norm = nn.modules.batchnorm._BatchNorm
    found = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, batch_norm)]
    if not found:
        raise ValueError(
            "this network has no batch norm to replace, its norm is part of its design: "
            "leave `backbone.norm=null`, or take a network built with batch norm"
        )
    if norm == "batch":
        return module
    if norm == "sync_batch":
        # torch's own conversion loses the activation inside BatchNormAct2d:
        # https://github.com/pytorch/pytorch/issues/187298, https://github.com/huggingface/pytorch-image-models/issues/1254
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(module)
    for name, layer in found:
        if not isinstance(layer, nn.BatchNorm2d):
            raise ValueError(f"its {name} normalizes vectors, not maps: leave `backbone.norm=null`")
    for name, layer in found:
        module.set_submodule(name, _replacement(cast(nn.BatchNorm2d, layer), norm))
    return module


@torch.no_grad()
def _replacement(old: nn.BatchNorm2d, norm: Norm) -> nn.Module:
    new: Any = make_norm(norm, old.num_features, old.eps)
    if old.affine:
        new.weight.copy_(old.weight)
        new.bias.copy_(old.bias)
    if norm in UNNORMALIZED and old.running_mean is not None and old.running_var is not None:
        new.weight.div_((old.running_var + old.eps).sqrt())
        new.bias.sub_(old.running_mean * new.weight)
    new.train(old.training)
    if hasattr(old, "act"):
        return nn.Sequential(new, cast(nn.Module, old.drop), cast(nn.Module, old.act))
    return new


def freeze_batch_norms(module: nn.Module) -> list[nn.Module]:
    """Stops weight and bias of every batch norm from learning; returns these layers, which must stay in evaluation
    mode for their statistics to stay too.

    Raises ValueError, in the words of the config's keys, for a network without one.
    """
    found: list[nn.Module] = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not found:
        raise ValueError(
            "task.freeze_norm=true: this backbone has no batch norm; task.freeze_norm=false, or a backbone with "
            "backbone.norm=batch"
        )
    for layer in found:
        layer.requires_grad_(False)
    return found


@torch.no_grad()
def calibrate(module: nn.Module, size: tuple[int, int], channels: int) -> None:
    """Scales every Affine as if its input had mean square 1: LSUV (Mishkin & Matas 2016). Without, networks
    designed for batch norm and left without one grow or shrink their maps layer by layer.

    One pass over noise of `size` (H, W) with a photograph's falling spectrum. torch's generator is not
    touched, so what is drawn afterwards is the same for every norm. Zero gammas stay zero.
    """
    generator = torch.Generator().manual_seed(0)
    if any(parameter.is_meta for parameter in module.parameters()):
        return  # no values, nothing to scale
    images = torch.zeros(2, channels, *size)
    for octave in range(5):
        coarse = [max(1, side >> octave) for side in size]
        noise = torch.randn(2, channels, *coarse, generator=generator)
        images += F.interpolate(noise, size=size, mode="nearest") / 5**0.5
    seen: set[nn.Module] = set()

    def scale(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        if layer not in seen:
            seen.add(layer)
            layer.weight.div_(inputs[0].square().mean().sqrt().clamp(min=1e-6))

    hooks = [m.register_forward_pre_hook(scale) for m in module.modules() if isinstance(m, Affine)]
    training = module.training
    module.eval()(images)
    module.train(training)
    for hook in hooks:
        hook.remove()
