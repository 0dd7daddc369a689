"""Losses: equal to torch's, or to the papers', in value and gradient where defined, and zero where not."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from paribus.losses import binary_cross_entropy, cross_entropy, dice, focal, lovasz
from waits import Waits


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


# --- masks -----------------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.3, 2.0, 0.0, 1.0, 5.0])
OF_MASKS = {
    "cross_entropy": cross_entropy,
    "weighted": partial(cross_entropy, class_weights=WEIGHTS, smoothing=0.1),
    "hardest": partial(cross_entropy, hardest=0.3),
    "focal": focal,
    "weighted focal": partial(focal, gamma=0.5, class_weights=WEIGHTS),
    "dice": dice,
    "lovasz": lovasz,
}


def masks(absent=(), ignored=0.3, seed=0):
    """Logits ``[3, 5, 9, 11]`` and masks, some classes in none of them."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 5, 9, 11, generator=generator) * 3
    target = torch.randint(5, (3, 9, 11), generator=generator)
    for label in absent:
        target[target == label] = (label + 1) % 5
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target


def pixels(logits, target):
    """Only what is judged, double: probabilities ``[N, C]``, labels ``[N]``."""
    judged = target != 255
    return logits.double().movedim(1, -1)[judged].softmax(1), target[judged]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_torchs(smoothing):
    logits, target = masks()
    ours = value_and_gradient(
        lambda x: cross_entropy(x, target, class_weights=WEIGHTS, smoothing=smoothing), logits
    )
    theirs = value_and_gradient(
        lambda x: F.cross_entropy(x, target, WEIGHTS, ignore_index=255, label_smoothing=smoothing), logits
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
    images, labels = batch((64, 5), ignored=0)
    expected = F.cross_entropy(images, labels, WEIGHTS)
    torch.testing.assert_close(cross_entropy(images, labels, class_weights=WEIGHTS), expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("share", [0.001, 0.25, 0.5, 1.0])
def test_the_hardest_share_is_the_mean_of_the_largest(share, weighted):
    logits, target = masks()
    weights = WEIGHTS if weighted else torch.ones(5)

    def reference(x):
        judged = (target != 255) & (weights[target % 255] > 0)
        labels = target[judged]
        each = F.cross_entropy(x.movedim(1, -1)[judged], labels, weights, reduction="none")
        order = each.argsort(descending=True)[: math.ceil(share * len(each))]
        return each[order].sum() / weights[labels[order]].sum()

    ours = value_and_gradient(
        lambda x: cross_entropy(x, target, hardest=share, class_weights=weights if weighted else None), logits
    )
    torch.testing.assert_close(ours, value_and_gradient(reference, logits), rtol=1e-5, atol=1e-8)


def test_equally_hard_pixels_are_all_learned():
    logits, target = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    target[0, 0] = 255
    value, gradient = value_and_gradient(lambda x: cross_entropy(x, target, hardest=0.1), logits)
    assert value == pytest.approx(math.log(2))
    assert gradient[0, 0, 1:].unique().tolist() == pytest.approx([-0.5 / 12])


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_equals_the_papers_equation(gamma):
    logits, target = masks()

    def reference(x, weights):
        p, labels = pixels(x, target)
        p = p.gather(1, labels[:, None])[:, 0]
        return (-weights[labels] * (1 - p) ** gamma * p.log()).sum() / weights[labels].sum()

    for weights in (None, WEIGHTS):
        ours = value_and_gradient(lambda x, w=weights: focal(x, target, gamma=gamma, class_weights=w), logits)
        used = torch.ones(5) if weights is None else weights
        theirs = value_and_gradient(lambda x, w=used: reference(x, w).float(), logits)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_focal_without_focus_is_cross_entropy():
    logits, target = masks()
    for weights in (None, WEIGHTS):
        ours = value_and_gradient(lambda x, w=weights: focal(x, target, gamma=0.0, class_weights=w), logits)
        theirs = value_and_gradient(lambda x, w=weights: cross_entropy(x, target, class_weights=w), logits)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("absent", [(), (1, 3)])
def test_dice_equals_the_papers_equation(absent):
    logits, target = masks(absent)

    def reference(x):
        p, labels = pixels(x, target)
        losses = []
        for label in labels.unique():
            g = (labels == label).double()
            losses.append(1 - 2 * (p[:, label] * g).sum() / ((p[:, label] ** 2).sum() + (g**2).sum()))
        return torch.stack(losses).mean().float()

    ours = value_and_gradient(lambda x: dice(x, target), logits)
    torch.testing.assert_close(ours, value_and_gradient(reference, logits), rtol=1e-5, atol=1e-7)


def jaccard_loss(wrong, truth):
    """1 - IoU where the pixels ``wrong`` are mistaken (Berman et al. 2018, equation 3)."""
    return len(wrong) / len(truth | wrong) if truth | wrong else 0.0


@pytest.mark.parametrize("absent", [(), (1, 3)])
def test_lovasz_equals_the_extension_as_it_is_defined(absent):
    """Sum of the errors, sorted, times the differences of 1 - IoU over growing sets of pixels."""
    logits, target = masks(absent)

    def reference(x):
        p, labels = pixels(x, target)
        losses = []
        for label in labels.unique().tolist():
            errors = torch.where(labels == label, 1 - p[:, label], p[:, label])
            truth, wrong, loss = set((labels == label).nonzero()[:, 0].tolist()), set(), 0.0
            for pixel in errors.argsort(descending=True).tolist():
                before = jaccard_loss(wrong, truth)
                wrong = wrong | {pixel}
                loss = loss + errors[pixel] * (jaccard_loss(wrong, truth) - before)
            losses.append(loss)
        return torch.stack(losses).mean().float()

    ours = value_and_gradient(lambda x: lovasz(x, target), logits)
    torch.testing.assert_close(ours, value_and_gradient(reference, logits), rtol=1e-5, atol=1e-7)


def test_lovasz_of_decisions_is_one_minus_the_mean_iou():
    _, target = masks(absent=(2,))
    decided = torch.randint(5, target.shape, generator=torch.Generator().manual_seed(1))
    judged = target != 255
    ious = []
    for label in target[judged].unique():
        true, found = (target == label) & judged, (decided == label) & judged
        ious.append((true & found).sum() / (true | found).sum())
    certain = F.one_hot(decided, 5).movedim(-1, 1) * 200.0
    assert lovasz(certain, target).item() == pytest.approx(1 - torch.stack(ious).mean().item(), abs=1e-6)


def test_lovasz_keeps_its_digits_on_a_million_pixels():
    """Differences of 1 - IoU are 1e-6 there: float32 would leave one digit of them."""
    generator = torch.Generator().manual_seed(2)
    target = (torch.rand(1, 1000, 1000, generator=generator) < 0.3).long()
    logits = torch.randn(1, 2, 1000, 1000, generator=generator).double()
    losses = []
    for label, p in enumerate(logits.softmax(1)[0]):
        truth = (target[0] == label).flatten().double()
        errors, order = (truth - p.flatten()).abs().sort(descending=True)
        missed = truth[order].cumsum(0)
        jaccard = 1 - (truth.sum() - missed) / (truth.sum() + (1 - truth[order]).cumsum(0))
        losses.append((errors * jaccard.diff(prepend=jaccard.new_zeros(1))).sum())
    assert lovasz(logits.float(), target).item() == pytest.approx(torch.stack(losses).mean().item(), rel=2e-6)


@pytest.mark.parametrize("name", OF_MASKS)
def test_masks_that_are_all_ignored_lose_nothing(name):
    logits, target = masks(ignored=2)
    value, gradient = value_and_gradient(lambda x: OF_MASKS[name](x, target), logits)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(logits))


@pytest.mark.parametrize("name", OF_MASKS)
def test_ignored_pixels_change_nothing(name):
    logits, target = masks(absent=(1,))
    value, gradient = value_and_gradient(lambda x: OF_MASKS[name](x, target), logits)
    other = torch.where((target == 255)[:, None], torch.randn_like(logits) * 50, logits)
    assert torch.equal(value_and_gradient(lambda x: OF_MASKS[name](x, target), other)[0], value)
    assert torch.equal(gradient * (target == 255)[:, None], torch.zeros_like(gradient))
    assert gradient.any()


@pytest.mark.parametrize("certainty", [0.0, 300.0])
@pytest.mark.parametrize("name", OF_MASKS)
def test_certain_and_undecided_networks_have_a_gradient(name, certainty):
    _, target = masks()
    right = F.one_hot(target % 255, 5).movedim(-1, 1) * certainty
    for logits in (right, -right):
        value, gradient = value_and_gradient(lambda x: OF_MASKS[name](x, target), logits.float())
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", OF_MASKS)
def test_half_precision_and_layouts_change_nothing(name):
    logits, target = masks()
    half = logits.bfloat16()
    loss = OF_MASKS[name](half, target)
    assert loss.dtype == torch.float32
    assert loss == OF_MASKS[name](half.float(), target)
    assert OF_MASKS[name](half.to(memory_format=torch.channels_last), target.to(torch.uint8)) == loss


@pytest.mark.parametrize("name", OF_MASKS)
def test_no_loss_waits_for_the_device(name):
    logits, target = masks()
    logits.requires_grad_()
    with Waits() as waits:
        OF_MASKS[name](logits, target).backward()
        assert waits.found == []
        torch.ones(2)[torch.tensor([True, False])]
        assert waits.found  # it does notice


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (partial(cross_entropy, hardest=0.0), "hardest is 0.0; it must be above 0"),
        (partial(cross_entropy, hardest=1.5), "hardest is 1.5; it must be above 0 and at most 1"),
        (partial(focal, gamma=-1.0), "gamma is -1.0; it must be 0 or more"),
        (partial(dice, ignore=1), "the mask value 1 is ignored, so it cannot be one of the 2 classes"),
        (partial(lovasz, ignore=0), "the mask value 0 is ignored"),
    ],
)
def test_wrong_settings_are_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))


def test_parity_with_segmentation_models():
    """Where both mean the same: ours are the papers', theirs differ as said at each."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, target = masks()
    # Theirs is a sigmoid's, of one class against the rest: of two classes, the same.
    two, mask = logits[:, :2], torch.where(target == 255, 255, target % 2)
    expected = smp.losses.FocalLoss("binary", gamma=2.0, ignore_index=255)(two[:, 1] - two[:, 0], mask)
    torch.testing.assert_close(focal(two, mask), expected)
    # Theirs sorts as ours, per class over the batch.
    expected = smp.losses.LovaszLoss("multiclass", ignore_index=255)(logits, target)
    torch.testing.assert_close(lovasz(logits, target), expected, rtol=1e-4, atol=1e-6)
    # Theirs sums p where V-Net's, and ours, sums p^2: of certain networks, the same. An absent class is 0 in
    # its mean, which is over all classes.
    decided = torch.randint(5, target.shape, generator=torch.Generator().manual_seed(1))
    certain = F.one_hot(decided, 5).movedim(-1, 1) * 200.0
    expected = smp.losses.DiceLoss("multiclass", ignore_index=255)(certain, target)
    torch.testing.assert_close(dice(certain, target), expected)
    expected = smp.losses.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=255, reduction="sum")
    whole = expected(logits, target) / (target != 255).sum()
    torch.testing.assert_close(cross_entropy(logits, target), whole)
