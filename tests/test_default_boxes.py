"""SSD's default boxes, by hand and against torchvision's."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

from paribus.models.detection.default_boxes import DefaultBoxes
from paribus.models.detection.fpn import image_list

MAPS = [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)]


def boxes(**keys):
    return DefaultBoxes(
        **{"maps": 3, "ratios": [2.0], "min_scale": 0.2, "max_scale": 0.9, "scales": None, **keys}
    )


@pytest.mark.parametrize("ratios", [[2.0], [2.0, 3.0], [[2.0], [2.0, 3.0], []]])
@pytest.mark.parametrize("scales", [None, [0.1, 0.2, 0.8, 1.05]])
def test_of_a_square_image_they_are_torchvisions(ratios, scales):
    each = ratios if isinstance(ratios[0], list) else [ratios] * 3
    theirs = DefaultBoxGenerator(each, 0.2, 0.9, scales=scales)
    images = image_list(torch.zeros(2, 3, 64, 64), 64, 64)
    found = boxes(ratios=ratios, scales=scales)(images, MAPS)
    assert len(found) == 2
    for a, b in zip(found, theirs(images, MAPS), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_a_square_is_a_square_in_any_image_and_none_is_larger_than_it():
    found = boxes()(image_list(torch.zeros(1, 3, 64, 128), 60, 120), [torch.zeros(1, 1, 8, 16), *MAPS[1:]])[0]
    sizes = found[:, 2:] - found[:, :2]
    first, second, wide, tall = sizes[:4]
    assert first.tolist() == pytest.approx([12, 12])  # a fifth of the shorter side
    assert second.tolist() == pytest.approx([60 * (0.2 * 0.55) ** 0.5] * 2)
    assert wide.tolist() == pytest.approx([12 * 2**0.5, 12 / 2**0.5], abs=1e-4)
    assert tall.tolist() == pytest.approx(wide.flip(0).tolist())
    assert sizes[:, 0].max() <= 120
    assert sizes[:, 1].max() <= 60
    centers = (found[:, 2:] + found[:, :2]) / 2
    assert centers[0].tolist() == pytest.approx([4, 4], abs=1e-4)  # of cells of 8 pixels
    assert centers[4].tolist() == pytest.approx([12, 4], abs=1e-4)
