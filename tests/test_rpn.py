"""The region proposal network in its steps."""

import torch

from boxes import EMPTY, scenes
from paribus.models.detection.fpn import Anchors, image_list
from paribus.models.detection.rpn import ProposalNetwork


def network(**keys):
    torch.manual_seed(0)
    anchors = Anchors(levels=[8, 16], scale=4, per_octave=1, ratios=(0.5, 1.0, 2.0))
    return ProposalNetwork(
        anchors=anchors, channels=4, **{"proposals": 20, "candidates": 50, "batch": 32, **keys}
    )


def seen():
    images = image_list(torch.zeros(2, 3, 64, 64), 60, 50)
    return images, [torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)]


def test_proposals_are_the_best_anchors_inside_the_image():
    model = network()
    images, maps = seen()
    outputs = model(maps)
    assert outputs["objectness"].shape == (2, 3 * (64 + 16), 1)
    assert outputs["deltas"].shape == (2, 3 * (64 + 16), 4)
    found = model.proposals(outputs, images, maps)
    assert len(found) == 2
    for boxes in found:
        assert 0 < len(boxes) <= 20
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= 50
        assert boxes[:, 3].max() <= 60
    # One anchor far above the rest is proposed first, as its deltas say: not at all moved.
    with torch.no_grad():
        outputs["objectness"][0, 30] += 100
        outputs["deltas"][0, 30] = 0
    anchor = (
        model.anchor_generator(images, maps)[0][30].clamp(min=0).minimum(torch.tensor([50.0, 60, 50, 60]))
    )
    assert torch.allclose(model.proposals(outputs, images, maps)[0][0], anchor)


def test_losses_are_the_same_in_training_and_in_evaluation_and_finite_without_objects():
    model = network()
    images, maps = seen()
    _, targets = scenes(2)
    outputs = model(maps)
    found = []
    for training in (True, False):
        torch.manual_seed(1)
        found.append(model.train(training).losses(outputs, images, maps, targets))
    assert set(found[0]) == {"proposal_objectness", "proposal_box"}
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    empty = model.losses(outputs, images, maps, [EMPTY, EMPTY])
    assert all(loss.isfinite() for loss in empty.values())
    assert empty["proposal_box"] == 0
