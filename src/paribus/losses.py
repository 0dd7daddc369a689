"""Losses on logits: no NaN where everything is ignored, and the same value twice on CUDA."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, target: Tensor, *, ignore: int = 255, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the images or pixels whose target is not ``ignore``, in float32.

    logits ``[B, C]`` or ``[B, C, H, W]``, target integer ``[B]`` or ``[B, H, W]``. Zero, with a gradient of
    zero, when all is ignored (torch's is NaN). ``smoothing`` in [0, 1) moves that share of the probability
    evenly to all classes (Szegedy et al. 2016, Rethinking the Inception Architecture, section 7). An image
    label is ignored only if it is no class: with 1000 classes, class 255 is learned.

    A target float ``[B, C]`` gives each class its share (mixed images); nothing is ignored then.
    """
    classes = logits.shape[1]
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}; it must be at least 0 and below 1")
    if target.is_floating_point():
        return F.cross_entropy(logits.float(), target, label_smoothing=smoothing)
    if 0 <= ignore < classes:
        if logits.ndim > 2:
            raise ValueError(
                f"the mask value {ignore} is ignored, so it cannot be one of the {classes} classes"
            )
        ignore = -100
    target = target.reshape(-1).long()
    # Flat, because the 2-D loss has no deterministic CUDA kernel; not reduced by the loss itself, because
    # that kernel runs in a single block.
    losses = F.cross_entropy(
        logits.movedim(1, -1).reshape(-1, classes).float(),
        target,
        ignore_index=ignore,
        reduction="none",
        label_smoothing=smoothing,
    )
    return losses.sum() / (target != ignore).sum().clamp(min=1)


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
