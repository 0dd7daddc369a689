"""The memory of training: against what torch itself says that it keeps, and by hand."""

from functools import partial

import pytest
import torch
from torch import nn

from paribus.models.backbones.convnet import ConvNet
from paribus.models.classifier import Classifier
from paribus.models.detection.faster_rcnn import FasterRCNN
from paribus.profile.footprint import footprint, states

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (partial(torch.optim.SGD, lr=0.1), 0),
        (SGD, 1),
        (partial(torch.optim.Adagrad), 1),
        (partial(torch.optim.RMSprop, momentum=0.9), 2),
        (partial(torch.optim.AdamW, fused=True), 2),
    ],
)
def test_what_an_optimizer_keeps(optimizer, expected):
    assert states(optimizer) == expected


def test_by_hand():
    maps = 4 * 2 * 8 * 16 * 16  # bytes of two images of 8 channels
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid()
    )
    found = footprint(model, (16, 16), 3, 2, SGD)
    weights = 4 * (3 * 8 * 9 + 8 + 8 * 8 * 9 + 8)
    assert (found.parameters, found.gradients, found.states) == (weights, weights, weights)
    # The images, what ReLU made, what the sigmoid made; what a convolution made is overwritten or let go.
    assert found.activations == 4 * 2 * 3 * 16 * 16 + 2 * maps
    assert found.activation_gradients == pytest.approx(2 * maps, abs=16)  # one comes, one goes
    assert found.total == 3 * weights + found.activations + found.activation_gradients


def test_activations_are_what_autograd_keeps():
    model = Classifier(backbone=ConvNet(channels=[8, 16]), num_classes=10, dropout=0.5).to("meta").train()
    weights, kept = {p.untyped_storage()._cdata for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(torch.zeros(8, 3, 32, 32, device="meta"))
    saved = sum(storage.nbytes() for storage in kept.values()) + logits.numel() * 4
    assert footprint(model, (32, 32), 3, 8, SGD).activations == pytest.approx(saved, rel=1e-3)


def test_memory_grows_with_the_batch_and_parameters_do_not():
    model = Classifier(backbone=ConvNet(channels=[8, 16]), num_classes=10)
    one, two = (footprint(model, (32, 32), 3, batch, SGD) for batch in (4, 8))
    assert one.parameters == two.parameters
    assert two.activations == pytest.approx(2 * one.activations, rel=0.01)


def test_frozen_parts_take_neither_gradients_nor_activations():
    model = Classifier(backbone=ConvNet(channels=[8, 16]), num_classes=10)
    whole = footprint(model, (32, 32), 3, 8, SGD)
    model.backbone.requires_grad_(False)
    head = footprint(model, (32, 32), 3, 8, SGD)
    assert head.gradients == head.states == 4 * (64 * 10 + 10)
    assert head.parameters == whole.parameters
    assert head.activations < whole.activations / 20


def test_of_a_detector_what_its_losses_begin_with_counts():
    """Faster R-CNN's second stage sees boxes of constants when it is counted, and the first is kept all the same."""
    model = FasterRCNN(
        backbone=ConvNet(channels=[8, 8, 8, 8]), num_classes=3, pyramid_channels=8, box_channels=8
    )
    found = footprint(model, (64, 64), 3, 2, SGD)
    backbone = Classifier(backbone=ConvNet(channels=[8, 8, 8, 8]), num_classes=3)
    assert found.activations > footprint(backbone, (64, 64), 3, 2, SGD).activations
    assert found.gradients == 4 * sum(p.numel() for p in model.parameters())


def test_images_that_are_too_small():
    with pytest.raises(ValueError, match="does not take images of 2 x 2"):
        footprint(nn.Conv2d(3, 8, 5), (2, 2), 3, 2, SGD)
