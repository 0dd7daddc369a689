"""torchvision's detectors as its builders make them, and their weights in ours."""

from typing import Any

import torch
from torch import Tensor, nn

# As they are: no weights to download, no resizing or normalizing of images. A batch norm of random weights is one
# that learns: torchvision freezes those of loaded weights.
PLAIN: dict[str, Any] = {
    "weights": None,
    "weights_backbone": None,
    "image_mean": [0.0] * 3,
    "image_std": [1.0] * 3,
    "min_size": 64,
    "max_size": 64,
    "_skip_resize": True,
}
# Of ResNet-50's batch norms, which torchvision's numbers of parameters leave out, because they are frozen.
NORMS = 53_120


@torch.no_grad()
def take(*pairs: tuple[nn.Module, nn.Module]) -> None:
    """Of each pair the second's values into the first, in their order."""
    for ours, theirs in pairs:
        for value, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert value.shape == other.shape
            value.copy_(other)


def ours_and_theirs(
    ours: nn.Module, theirs: nn.Module, images: Tensor, background: int = 0
) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """What both find in each image, asserted to be the same. background: by how much their labels are larger."""
    with torch.no_grad():
        pairs = list(zip(ours.eval()(images), theirs.eval()(list(images)), strict=True))
    for a, b in pairs:
        assert len(a["boxes"]) == len(b["boxes"]) >= 20
        assert torch.allclose(a["boxes"], b["boxes"], rtol=1e-5, atol=1e-5)
        assert torch.allclose(a["scores"], b["scores"], rtol=1e-5, atol=1e-6)
        assert torch.equal(a["labels"] + background, b["labels"])
    return pairs


def same_losses(ours: dict[str, Tensor], theirs: dict[str, Tensor], names: dict[str, str]) -> None:
    """names: ours to theirs."""
    assert set(ours) == set(names)
    assert set(theirs) == set(names.values())
    for name, other in names.items():
        assert ours[name] > 0
        assert torch.allclose(ours[name], theirs[other], rtol=1e-5, atol=1e-6), name
