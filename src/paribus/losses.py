"""Losses on logits: no NaN where everything is ignored, and the same value twice on CUDA."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore: int = 255,
    smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    hardest: float | None = None,
) -> Tensor:
    """Mean cross-entropy over the images or pixels whose target is not ``ignore``, in float32.

    logits ``[B, C]`` or ``[B, C, H, W]``, target integer ``[B]`` or ``[B, H, W]``. Zero, with a gradient of
    zero, when all is ignored (torch's is NaN). ``smoothing`` in [0, 1) moves that share of the probability
    evenly to all classes (Szegedy et al. 2016, Rethinking the Inception Architecture, section 7). An image
    label is ignored only if it is no class: with 1000 classes, class 255 is learned.

    class_weights: float ``[C]``, of the mean: it is divided by the sum of the weights, as torch's is.
    hardest: the mean is over this share, in (0, 1], of those with the largest losses (Shrivastava et al.
        2016, Training Region-based Object Detectors with OHEM; of pixels: Wu et al. 2016, High-performance
        Semantic Segmentation Using Very Deep Fully Convolutional Networks). What is ignored is no part of
        the whole; of equal losses at the limit all count.

    A target float ``[B, C]`` gives each class its share (mixed images); nothing is ignored then, and the two
    above are not for it.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}; it must be at least 0 and below 1")
    if hardest is not None and not 0 < hardest <= 1:
        raise ValueError(f"hardest is {hardest}; it must be above 0 and at most 1")
    if target.is_floating_point():
        assert class_weights is None, "shares of classes have no class weight"
        assert hardest is None, "mixed images are learned from whole"
        return F.cross_entropy(logits.float(), target, label_smoothing=smoothing)
    losses, weights = _each(logits, target, ignore, smoothing, class_weights)
    if hardest is not None:
        judged = weights > 0
        count = (judged.sum().double() * hardest).ceil().long().sub_(1).clamp_(min=0)
        # Losses are at least 0. Compared with the limit, not taken by rank: no gradient is scattered.
        limit = losses.detach().masked_fill(~judged, -1).sort(descending=True).values.gather(0, count[None])
        kept = (losses.detach() >= limit) & judged
        losses, weights = losses * kept, weights * kept
    return losses.sum() / _or_one(weights.sum())


def focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    ignore: int = 255,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Mean of -(1 - p)^gamma log p, p the softmax's probability of the true class; a gamma of 0 makes it
    cross-entropy (Lin et al. 2017, Focal Loss for Dense Object Detection, equation 5, whose alpha the class
    weights are; there of a sigmoid).

    logits ``[B, C]`` or ``[B, C, H, W]``, target integer ``[B]`` or ``[B, H, W]``; all else as cross_entropy.
    """
    if gamma < 0:
        raise ValueError(f"gamma is {gamma}; it must be 0 or more")
    losses, weights = _each(logits, target, ignore, 0.0, None)
    wrong = (-(-losses).expm1()).clamp(min=1e-12)  # above 0: a power below 1 has no gradient there
    losses = losses * wrong**gamma
    if class_weights is not None:
        weights = _of_classes(class_weights, target.flatten(), weights > 0)
        losses = losses * weights
    return losses.sum() / _or_one(weights.sum())


def dice(logits: Tensor, target: Tensor, *, ignore: int = 255) -> Tensor:
    """1 - 2 sum(p g) / (sum(p^2) + sum(g^2)) of each class, p the softmax's probability and g the truth,
    summed over the batch's pixels (Milletari et al. 2016, V-Net, section 3); mean over the classes in the
    batch's truth.

    logits ``[B, C, H, W]``, target integer ``[B, H, W]``. Float32; zero, with a gradient of zero, when all is
    ignored.
    """
    probability, truth = _regions(logits, target, ignore)
    shared = (probability * truth).sum(1)
    there = truth.sum(1)
    # A class of the truth has a pixel: 1 is below any sum that counts.
    each = 1 - 2 * shared / (probability.square().sum(1) + there).clamp(min=1)
    return _mean_of_present(each, there)


def lovasz(logits: Tensor, target: Tensor, *, ignore: int = 255) -> Tensor:
    """Lovász-softmax (Berman et al. 2018, section 3.2): the convex surrogate of each class's 1 - IoU over the
    batch's pixels, mean over the classes in the batch's truth. Sorts the pixels once for each class: on
    one core 8 x 180 x 240 pixels of 11 classes take 0.4 s, where cross-entropy takes 0.08.

    logits ``[B, C, H, W]``, target integer ``[B, H, W]``. Float32; zero, with a gradient of zero, when all is
    ignored.
    """
    probability, truth = _regions(logits, target, ignore)
    # An ignored pixel has a probability of 0 and no class: an error of 0, behind all that count.
    errors = (truth.float() - probability).abs()
    slopes = torch.stack([_slopes(e, t) for e, t in zip(errors.detach(), truth, strict=True)])
    return _mean_of_present((errors * slopes).sum(1), truth.sum(1))


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy over the images' classes whose target is not NaN, in float32.

    logits ``[B, C]``, target ``[B, C]`` in [0, 1] or NaN: not judged. Zero, with a gradient of zero, when
    all is NaN.
    """
    target = target.float()
    judged = ~target.isnan()
    mean = F.binary_cross_entropy_with_logits(logits.float(), target.nan_to_num(), weight=judged.float())
    return mean * (judged.numel() / judged.sum().clamp(min=1))  # by 1, if all are judged: torch's own value


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(logits / T)), mean over images (Hinton et al. 2015, section 2).

    logits, teacher ``[B, C]``. T^2 keeps the gradient's size, whatever T.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    wanted = F.log_softmax(teacher.float() / temperature, dim=1)
    return F.kl_div(student, wanted, reduction="batchmean", log_target=True) * temperature**2


@torch.no_grad()
def _slopes(errors: Tensor, truth: Tensor) -> Tensor:
    """Of the Lovász extension at ``errors`` float ``[N]``: how much each pixel, the largest error first, adds
    to 1 - IoU (Berman et al. 2018, algorithm 1). In closed form, as differences of float32 lose their digits
    where there are a million pixels; what is summed up are whole numbers, exact and in any order on CUDA.
    """
    order = errors.argsort(descending=True, stable=True)
    truth = truth[order]
    missed = truth.cumsum(0)
    union = (truth.sum() + torch.arange(1, len(truth) + 1, device=truth.device) - missed).float()
    left = (truth.sum() - missed).float()
    slopes = torch.where(truth, 1 / union.clamp(min=1), left / (union * (union - 1)).clamp(min=1))
    return torch.empty_like(slopes).scatter_(0, order, slopes)


def _each(
    logits: Tensor, target: Tensor, ignore: int, smoothing: float, class_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The weighted loss of each image or pixel, and its weight; both flat, 0 where ignored."""
    classes = logits.shape[1]
    if 0 <= ignore < classes:
        if logits.ndim > 2:
            raise ValueError(
                f"the mask value {ignore} is ignored, so it cannot be one of the {classes} classes"
            )
        ignore = -100
    # Not reduced by the loss itself, because that kernel runs in a single block on CUDA.
    asked: dict[str, Any] = {
        "weight": class_weights,
        "ignore_index": ignore,
        "reduction": "none",
        "label_smoothing": smoothing,
    }
    logits, target = logits.float(), target.long()
    if logits.is_cuda:  # flat, because the 2-D loss has no deterministic kernel there
        losses = F.cross_entropy(logits.movedim(1, -1).reshape(-1, classes), target.reshape(-1), **asked)
    else:  # a sixth of the time of the flat one
        losses = F.cross_entropy(logits, target, **asked).reshape(-1)
    target = target.reshape(-1)
    judged = target != ignore
    return losses, judged if class_weights is None else _of_classes(class_weights, target, judged)


def _of_classes(weights: Tensor, target: Tensor, judged: Tensor) -> Tensor:
    return weights[target.long() * judged] * judged


def _or_one(total: Tensor) -> Tensor:
    return total + (total == 0)


def _regions(logits: Tensor, target: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """The probabilities, 0 where ignored, and the truth, bool: both ``[C, pixels]``."""
    classes = logits.shape[1]
    if 0 <= ignore < classes:
        raise ValueError(f"the mask value {ignore} is ignored, so it cannot be one of the {classes} classes")
    target = target.reshape(-1)
    probability = logits.float().softmax(1).movedim(1, 0).reshape(classes, -1) * (target != ignore)
    return probability, target == torch.arange(classes, device=target.device)[:, None]


def _mean_of_present(each: Tensor, pixels: Tensor) -> Tensor:
    present = pixels > 0
    return (each * present).sum() / present.sum().clamp(min=1)
