"""A set that a detector learns in seconds: blocks of three colours on noise."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from paribus.models.detection.proposer import windows

EMPTY = {
    "boxes": torch.zeros(0, 4),
    "labels": torch.zeros(0, dtype=torch.int64),
    "masks": torch.zeros(0, 64, 64, dtype=torch.uint8),
}


def scenes(count: int, size: int = 64) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Images [count, 3, size, size] with two blocks each, and their boxes, labels and masks."""
    images, targets = 0.2 * torch.randn(count, 3, size, size), []
    for image in images:
        boxes, labels, masks = [], [], torch.zeros(2, size, size, dtype=torch.uint8)
        for left, mask in zip((0, size // 2), masks, strict=True):
            width, height = torch.randint(10, 28, (2,)).tolist()
            x = left + int(torch.randint(0, size // 2 - width, ()))
            y = int(torch.randint(0, size - height, ()))
            label = int(torch.randint(0, 3, ()))
            image[label, y : y + height, x : x + width] += 1.5
            mask[y : y + height, x : x + width] = 1
            boxes.append([x, y, x + width, y + height])
            labels.append(label)
        targets.append({"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels), "masks": masks})
    return images, targets


def given(model: nn.Module, images: Tensor) -> list[Tensor] | None:
    """For a detector that takes proposals: some that overlap nearly every block by half or more."""
    if getattr(model, "search", None) is None:
        return None
    found = windows((images.shape[-2], images.shape[-1]), smallest=12.0, ratios=(0.7, 1.4), step=0.45)
    return [found[found[:, 2] - found[:, 0] < 36] for _ in images]


def learned(
    model: nn.Module, steps: int, batch: Callable[[], tuple[Tensor, list]] = lambda: scenes(4)
) -> nn.Module:
    """The model after so many steps of four new scenes each, or of what `batch` gives."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    model.train()
    for _ in range(steps):
        images, targets = batch()
        loss = sum(model(images, targets, given(model, images)).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
    return model


@torch.no_grad()
def average_precision_50(model: nn.Module, images: Tensor, targets: list[dict[str, Tensor]]) -> float:
    """Of all classes together, exactly: enough to see that a detector works."""
    hits, scores, total = [], [], 0
    for f, t in zip(model.eval()(images, None, given(model, images)), targets, strict=True):
        total += len(t["boxes"])
        free = torch.ones(len(t["boxes"]), dtype=torch.bool)
        for box, label in zip(f["boxes"], f["labels"], strict=True):
            iou = box_iou(box[None], t["boxes"])[0] * free * (t["labels"] == label)
            hit = bool(iou.max() > 0.5)
            free[iou.argmax()] &= not hit
            hits.append(hit)
        scores += f["scores"].tolist()
    order = torch.tensor(scores).argsort(descending=True)
    ranked = torch.tensor(hits)[order].float()
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
    return float((precision * ranked).sum() / total)
