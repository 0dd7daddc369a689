"""Matching by tables is torchvision's, pair by pair and bit by bit."""

import pytest
import torch
from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, sigmoid_focal_loss

from boxes import EMPTY
from paribus.models.detection import anchor_matching
from paribus.models.detection.anchor_matching import (
    BACKGROUND,
    IGNORED,
    by_overlap,
    codes,
    focal_loss,
    kept,
    learned,
    overlaps,
)
from paribus.models.detection.assignment import padded
from waits import Waits


def boxes(count, generator, size=64):
    corner = torch.rand(count, 2, generator=generator) * size
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 20], dim=1)


def objects(*counts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"boxes": boxes(n, generator), "labels": torch.randint(5, (n,), generator=generator)} for n in counts
    ]


ANCHORS = boxes(50, torch.Generator().manual_seed(9))


def test_overlaps_are_torchvisions_bit_for_bit_and_the_padding_has_none():
    targets = objects(3, 0, 11)
    targets[0]["boxes"][1] += 1000  # overlaps nothing
    found = overlaps(padded(targets), ANCHORS)
    assert found.shape == (3, 16, 50)
    for target, iou in zip(targets, found, strict=True):
        n = len(target["boxes"])
        assert torch.equal(iou[:n], box_iou(target["boxes"], ANCHORS))
        assert (iou[n:] == -1).all()
    assert (found[0, 1] == 0).all()


@pytest.mark.parametrize(
    ("low", "high", "wanted"), [(0.4, 0.5, [-1, -1, -2, 3, 3]), (0.5, 0.5, [-1, -1, -1, 3, 3])]
)
def test_an_overlap_makes_an_object_background_or_neither(low, high, wanted):
    iou = torch.tensor([[-1.0, 0.39, 0.4, 0.5, 1.0]])
    assert by_overlap(iou, torch.full_like(iou, 3).long(), low, high).tolist() == [wanted]
    assert (BACKGROUND, IGNORED) == (-1, -2)


def test_what_matches_are_of():
    targets = objects(2, 1)
    matches = torch.tensor([[1, BACKGROUND, IGNORED, 0], [BACKGROUND, 0, 0, IGNORED]])
    positive, ignored, box, label = learned(lambda _: matches, padded(targets), ANCHORS[:4])
    assert positive.tolist() == [[True, False, False, True], [False, True, True, False]]
    assert ignored.tolist() == [[False, False, True, False], [False, False, False, True]]
    first, second = targets
    one, two = first["labels"].tolist()
    other = int(second["labels"][0])
    assert label.tolist() == [[two, -1, -1, one], [-1, other, other, -1]]
    assert torch.equal(box[0], torch.stack([first["boxes"][1], *ANCHORS[1:3], first["boxes"][0]]))
    assert torch.equal(box[1, 1:3], second["boxes"].expand(2, 4))


@pytest.mark.parametrize(
    ("pairs", "images"), [(1, [1] * 5), (8 * 50, [1] * 5), (2 * 8 * 50, [2, 2, 1]), (2**20, [5])]
)
def test_so_many_images_at_once_as_the_memory_holds(monkeypatch, pairs, images):
    given = []

    def match(part):
        given.append(len(part.real))
        return overlaps(part, ANCHORS).max(1).indices

    table = padded(objects(3, 0, 5, 1, 2))
    whole = learned(match, table, ANCHORS)
    given.clear()
    monkeypatch.setattr(anchor_matching, "PAIRS", pairs)
    parts = learned(match, table, ANCHORS)
    assert given == images
    assert all(torch.equal(a, b) for a, b in zip(parts, whole, strict=True))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_codes_are_torchvisions(weights):
    box = torch.stack([boxes(50, torch.Generator().manual_seed(i)) for i in range(3)])
    found = codes(box, ANCHORS, weights)
    assert found.shape == (3, 50, 4)
    for one, wanted in zip(found, box, strict=True):
        assert torch.equal(one, BoxCoder(weights).encode_single(wanted, ANCHORS))
    assert not codes(ANCHORS[None], ANCHORS, weights).any()


def test_focal_loss_of_labels_is_that_of_their_classes():
    logits, labels = torch.randn(2, 3, 4), torch.tensor([[0, -1, 3], [-1, 2, 2]])
    wanted = nn.functional.one_hot(labels + 1, 5)[..., 1:].float()
    torch.testing.assert_close(focal_loss(logits, labels), sigmoid_focal_loss(logits, wanted).sum(2))


def test_what_is_not_kept_may_be_infinite():
    losses = torch.tensor([1.0, torch.inf, torch.nan], requires_grad=True)
    found = kept(losses, torch.tensor([True, False, False]))
    found.sum().backward()
    assert found.tolist() == losses.grad.tolist() == [1, 0, 0]


def test_nothing_waits_for_the_device():
    with Waits() as waits:
        table = padded([*objects(3), EMPTY])
        found = learned(lambda part: by_overlap(*overlaps(part, ANCHORS).max(1), 0.4, 0.5), table, ANCHORS)
        codes(found.boxes, ANCHORS, (1.0, 1.0, 1.0, 1.0))
        kept(focal_loss(torch.zeros(2, 50, 5), found.labels), ~found.ignored).sum()
    assert waits.found == []
