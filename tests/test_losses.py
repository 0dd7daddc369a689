"""Losses: equal to torch's in value and gradient where those are defined, and zero where they are not."""

import pytest
import torch
import torch.nn.functional as F

from paribus.losses import binary_cross_entropy, cross_entropy


def batch(shape, ignored=0.3):
    generator = torch.Generator().manual_seed(len(shape))
    logits = torch.randn(*shape, generator=generator) * 3
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target


def value_and_gradient(loss, logits):
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(64, 7), (3, 5, 9, 11)], ids=["images", "pixels"])
def test_cross_entropy_equals_torch(shape, smoothing):
    logits, target = batch(shape)
    ours = value_and_gradient(lambda x: cross_entropy(x, target, smoothing=smoothing), logits)
    theirs = value_and_gradient(
        lambda x: F.cross_entropy(x, target, ignore_index=255, label_smoothing=smoothing), logits
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    if len(shape) == 4:  # the layout of the logits changes nothing
        nhwc = logits.to(memory_format=torch.channels_last)
        again = value_and_gradient(lambda x: cross_entropy(x, target, smoothing=smoothing), nhwc)
        assert torch.equal(again[0], ours[0])
        assert torch.equal(again[1], ours[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(4, 7), (2, 5, 3, 3)], ids=["images", "pixels"])
def test_all_ignored_is_zero_with_a_gradient(shape, smoothing):
    logits, target = batch(shape, ignored=2)
    assert F.cross_entropy(logits, target, ignore_index=255).isnan()
    value, gradient = value_and_gradient(lambda x: cross_entropy(x, target, smoothing=smoothing), logits)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(logits))


def test_another_ignore_value():
    logits, target = batch((2, 5, 4, 4))
    other = torch.where(target == 255, 99, target)
    assert cross_entropy(logits, other, ignore=99) == cross_entropy(logits, target)


def test_class_255_of_an_image_is_learned():
    logits, target = batch((16, 1000), ignored=0)
    target[:8] = 255
    assert cross_entropy(logits, target) == pytest.approx(F.cross_entropy(logits, target).item(), rel=1e-6)
    with pytest.raises(ValueError, match="255 is ignored, so it cannot be one of the 300 classes"):
        cross_entropy(torch.zeros(1, 300, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))


def test_bytes_and_half_precision_are_computed_in_float32():
    logits, target = batch((2, 6, 8, 8))
    half = logits.bfloat16()
    loss = cross_entropy(half, target.to(torch.uint8))
    assert loss.dtype == torch.float32
    assert loss == cross_entropy(half.float(), target)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_wrong_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError, match="smoothing is"):
        cross_entropy(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), smoothing=smoothing)


def test_binary_cross_entropy_by_hand():
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(8, 5, generator=generator), torch.rand(8, 5, generator=generator) > 0.5
    p = logits.double().sigmoid()
    expected = -torch.where(target, p.log(), (1 - p).log()).mean()
    assert binary_cross_entropy(logits, target).item() == pytest.approx(expected.item(), rel=1e-6)
    assert binary_cross_entropy(logits.bfloat16(), target.float()).dtype == torch.float32


def test_binary_cross_entropy_without_nan_is_torchs_bit_for_bit():
    generator = torch.Generator().manual_seed(1)
    logits, target = torch.randn(37, 21, generator=generator) * 4, torch.rand(37, 21, generator=generator)
    ours = value_and_gradient(lambda x: binary_cross_entropy(x, target), logits)
    theirs = value_and_gradient(lambda x: F.binary_cross_entropy_with_logits(x, target), logits)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_binary_cross_entropy_leaves_nan_out():
    generator = torch.Generator().manual_seed(2)
    logits, target = torch.randn(16, 9, generator=generator), torch.rand(16, 9, generator=generator)
    target[torch.rand(16, 9, generator=generator) < 0.3] = torch.nan
    judged = ~target.isnan()
    ours = value_and_gradient(lambda x: binary_cross_entropy(x, target), logits)
    theirs = value_and_gradient(
        lambda x: F.binary_cross_entropy_with_logits(x[judged], target[judged]), logits
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    assert torch.equal(ours[1] == 0, ~judged)


def test_binary_cross_entropy_of_nan_only_is_zero_with_a_gradient():
    logits, target = torch.randn(4, 3), torch.full((4, 3), torch.nan)
    value, gradient = value_and_gradient(lambda x: binary_cross_entropy(x, target), logits)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(logits))
