"""Several views of an image, or several networks, and one answer: the mean of their probabilities.

Test-time augmentation and ensembles as Krizhevsky et al. 2012 (ImageNet Classification with Deep
Convolutional Neural Networks, sections 4.1 and 6.1) and Simonyan and Zisserman 2015 (section 3.2, scales)
judge with. torchvision cuts the crops; it has no averaging, and timm and Lightning have none either.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paribus.windows import slide

LEAST = torch.finfo(torch.float32).tiny  # a probability of 0 has no logarithm


class Views(nn.Module):
    """images ``[B, C, H, W]`` -> the logarithm of the mean probability, in the place of a model's logits.

    For ``label`` log p ``[B, classes]``, for ``mask`` log p ``[B, classes, H, W]``, p the mean softmax; for
    ``labels`` the logit of the mean sigmoid ``[B, classes]``. What is computed from logits (losses, metrics,
    calibration, a threshold at 0) is thus that of the mean. Maps of a mask are turned back, and resized to the
    images' size, before the mean is taken. One view follows the other, so that memory is that of one; the
    mean is taken of logarithms (logaddexp), so that a small probability does not become 0.

    models: give logits to images; each sees every view.
    target: ``label``, ``labels`` or ``mask``; ``boxes`` are refused.
    views: ``none``; ``flip`` adds the mirror image; ``ten_crop`` cuts the four corners and the centre and
        mirrors each, for label and labels.
    crop: (height, width) of the ten crops; images are at least as large.
    scales: the image is resized by each factor (bilinear, antialiased), before it is mirrored.
    window, overlap: of masks, each view is answered in windows (see windows.py), whatever its scale.

    Raises ValueError for what cannot be averaged, and for a network that does not take a scaled image.
    """

    def __init__(
        self,
        *,
        models: Sequence[nn.Module],
        target: str,
        views: str = "none",
        crop: tuple[int, int] | None = None,
        scales: Sequence[float] = (1.0,),
        window: Sequence[int] | None = None,
        overlap: float = 0.5,
    ):
        super().__init__()
        refuse(models=len(models), target=target, views=views, crop=crop, scales=scales)
        self.models = nn.ModuleList(models)
        self.target, self.scales = target, tuple(scales)
        self.mirrored = (False,) if views == "none" else (False, True)
        self.crop = crop if views == "ten_crop" else None
        self.window, self.overlap = window, overlap

    @property
    def backbone(self) -> nn.Module:
        return self.models[0].backbone  # type: ignore[return-value]

    def forward(self, images: Tensor) -> Tensor:
        total, count = None, 0
        for view, mirrored in self._views(images):
            for model in self.models:
                answer = self._answer(model, view, view.shape[-2:] == images.shape[-2:])
                if self.target == "mask":
                    answer = _turned_back(answer, mirrored, images.shape[-2:])
                total = answer if total is None else torch.logaddexp(total, answer)
                count += 1
        assert total is not None
        if self.target == "labels":
            return total[0] - total[1]
        return total - math.log(count)

    def _views(self, images: Tensor) -> Iterator[tuple[Tensor, bool]]:
        """Each view, and whether it is a mirror image."""
        from torchvision.transforms.functional import five_crop, hflip

        for scale in self.scales:
            size = [max(1, round(n * scale)) for n in images.shape[-2:]]
            scaled = _resized(images, size)
            for part in five_crop(scaled, list(self.crop)) if self.crop else (scaled,):
                for mirrored in self.mirrored:
                    yield (hflip(part) if mirrored else part), mirrored

    def _answer(self, model: nn.Module, view: Tensor, own_size: bool) -> Tensor:
        """Log probabilities float32: ``[B, C, ...]``; for labels ``[2, B, C]``, of yes and of no."""
        try:
            if self.window:
                logits = slide(model, view, window=self.window, overlap=self.overlap)
            else:
                logits = model(view).float()
        except (RuntimeError, AssertionError) as error:
            if own_size or self.crop:
                raise
            height, width = view.shape[-2:]
            raise ValueError(
                f"scales={list(self.scales)}: {type(model).__name__} fails on images of {height} x {width} "
                f"({error}); a network tied to one size takes no other: leave scales out"
            ) from error
        if self.target == "labels":
            return F.logsigmoid(torch.stack([logits, -logits]))
        return logits.log_softmax(1)


def judge_by(parts: Any, models: Sequence[nn.Module], *, resize: Any = None, **views: Any) -> None:
    """Puts the mean of models and of views of an image (the keys of `Views`) in the place of a task's model.

    resize: [H, W] that ten crops are cut from; None: 8/7 of the crop, 256 for 224.
    """
    task, crop = parts.task, parts.data.size
    if views.get("views") == "ten_crop":
        parts.data.fit_judged(resize or cut_from(crop))
    window = getattr(task, "window", None)
    overlap = {"window": window, "overlap": task.overlap} if window else {}
    task.model = Views(models=models, target=task.target, crop=crop, **overlap, **views)
    if window:  # of each view, not of the image
        task.window = None


def cut_from(size: Sequence[int]) -> list[int]:
    """[H, W] that ten crops of a size are cut from: 8/7 of it, 256 for 224."""
    return [round(n * 8 / 7) for n in size]


def refuse(
    *, models: int, target: str, views: str, crop: Sequence[int] | None, scales: Sequence[float]
) -> None:
    """ValueError for what cannot be averaged: ``models`` is their number, the rest as `Views` has it."""
    if models < 1:
        raise ValueError("of no network there is no mean: one or more")
    if views not in ("none", "flip", "ten_crop"):
        raise ValueError(f"views={views}: none, flip or ten_crop")
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales={list(scales)}: one factor or more, each above 0")
    if target == "boxes" and (models > 1 or views != "none" or list(scales) != [1.0]):
        raise ValueError(
            "boxes of several views or networks cannot be averaged (which box of one is which of the other is "
            "not known), and weighted box fusion is not built: judge one run at a time, without views and scales"
        )
    if views != "ten_crop":
        return
    if target == "mask":
        raise ValueError("views=ten_crop answers for an image, not for its pixels: views=flip, or scales")
    if crop is None:
        raise ValueError("views=ten_crop cuts crops of the size trained on, and the run has no data.size")
    if list(scales) != [1.0]:
        raise ValueError(
            f"views=ten_crop with scales={list(scales)}: crops are of the size trained on; scales go with "
            "views=none and views=flip"
        )


def _turned_back(answer: Tensor, mirrored: bool, size: torch.Size) -> Tensor:
    """The log probabilities of a view's pixels, as those of the image's."""
    if mirrored:
        answer = answer.flip(-1)
    if answer.shape[-2:] == size:
        return answer
    return _resized(answer.exp(), list(size)).clamp(LEAST, 1).log()


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    if list(maps.shape[-2:]) == list(size):
        return maps
    return F.interpolate(maps, list(size), mode="bilinear", antialias=True)
