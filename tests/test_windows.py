"""Windows blended into one answer, held to the whole image's where they must agree."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from paribus.tasks import Segmentation
from paribus.windows import slide

IMAGES = torch.randn(2, 3, 50, 71, generator=torch.Generator().manual_seed(0))


def convolutions(count: int, channels: int = 8) -> nn.Module:
    """Sees ``count`` pixels to each side; pads with zeros, as networks do."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(count):
        layers += [nn.Conv2d(3 if i == 0 else channels, channels, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Conv2d(channels, 4, 1)).eval()


@torch.inference_mode()
@pytest.mark.parametrize(
    ("window", "overlap", "sees"),
    [((24, 24), 0.5, 3), ((16, 40), 0.5, 2), ((33, 27), 0.8, 5), ((50, 20), 0.4, 2), ((9, 9), 0.9, 2)],
)
def test_a_network_that_looks_within_a_quarter_of_the_overlap_answers_as_on_the_whole(window, overlap, sees):
    model = convolutions(sees)
    found = slide(model, IMAGES, window=window, overlap=overlap)
    torch.testing.assert_close(found, model(IMAGES), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_network_that_looks_further_does_not():
    model = convolutions(8)
    difference = (slide(model, IMAGES, window=(24, 24), overlap=0.5) - model(IMAGES)).abs()
    assert difference.max() > 1e-3
    assert difference[..., :4, :4].max() < 1e-5  # far from where windows end, the corner is itself


@torch.inference_mode()
@pytest.mark.parametrize("window", [(50, 71), (64, 96), (50, 500)])
def test_a_window_that_holds_the_image_is_the_whole(window):
    model = convolutions(3)
    assert torch.equal(slide(model, IMAGES, window=window, overlap=0.5), model(IMAGES))


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("window", [(1, 1), (2, 3), (7, 10), (25, 70)])
def test_weights_sum_to_one_at_every_pixel(window, overlap):
    images = IMAGES[:1, :, :26]
    found = slide(lambda part: torch.ones_like(part[:, :2]), images, window=window, overlap=overlap)
    torch.testing.assert_close(found, torch.ones(1, 2, 26, 71))


def test_windows_have_the_size_asked_for_and_share_what_was_asked():
    columns = torch.arange(71.0).expand(1, 1, 50, 71)
    seen = []

    def probe(part):
        seen.append((int(part[0, 0, 0, 0]), int(part[0, 0, 0, -1])))
        assert part.shape == (1, 1, 50, 20)  # one at a time, and as low as the image
        return part

    found = slide(probe, columns, window=(64, 20), overlap=0.5)
    assert seen[0][0] == 0
    assert seen[-1][1] == 70
    assert all(end - start == 19 for start, end in seen)
    assert min(end - start + 1 for (_, end), (start, _) in pairwise(seen)) >= 10
    assert len(seen) == 7  # ceil((71 - 20) / 10) steps, and no more
    torch.testing.assert_close(found, columns)


def test_neighbours_fade_into_one_another():
    """Of two windows with the answers 0 and 1 the second takes over in the middle half of what they share."""
    answers = iter([0.0, 1.0])
    image = torch.zeros(1, 1, 4, 24)
    found = slide(
        lambda part: torch.full_like(part, next(answers)), image, window=(4, 16), overlap=0.5
    )  # columns 8 to 15 are shared
    assert found[0, 0, 0, :10].eq(0).all()
    assert found[0, 0, 0, 14:].eq(1).all()
    torch.testing.assert_close(found[0, 0, 0, 10:14], torch.tensor([0.125, 0.375, 0.625, 0.875]))


def test_half_precision_is_blended_in_float32():
    model = convolutions(1)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert model(IMAGES).dtype == torch.bfloat16
        assert slide(model, IMAGES, window=(24, 24), overlap=0.5).dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": [0, 5]}, r"task\.window=\[0, 5\]: \[height, width\] in pixels, or null"),
        ({"window": [5]}, r"task\.window=\[5\]: \[height, width\]"),
        ({"overlap": 1.0}, r"task\.overlap=1\.0: the share of a window, from 0 to below 1"),
        ({"overlap": -0.1}, r"task\.overlap=-0\.1: "),
    ],
)
def test_windows_that_cannot_be(settings, message):
    from paribus.metrics import SegmentationMetrics

    model = nn.Module()
    model.backbone = nn.Conv2d(3, 4, 1)
    with pytest.raises(ValueError, match=message):
        Segmentation(
            target="mask",
            monitor="val/miou",
            mode="max",
            model=model,
            metrics=lambda **more: SegmentationMetrics(list("abcd"), **more),
            optimizer=None,
            scheduler=lambda step, steps: 1.0,
            **settings,
        )
