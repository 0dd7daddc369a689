"""Measured speed and memory: that they are of what they say. How fast is the machine's affair."""

from functools import partial

import pytest
import torch

from paribus.models.backbones.convnet import ConvNet
from paribus.models.classifier import Classifier
from paribus.models.detection.retinanet import RetinaNet
from paribus.profile import measure as room
from paribus.profile.footprint import footprint, total_bytes
from paribus.profile.measure import measure

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(room, "SECONDS", 0.0)


def test_a_classifier():
    model = Classifier(backbone=ConvNet(channels=[16, 16], in_channels=1), num_classes=10)
    before = [p.detach().clone() for p in model.parameters()]
    forward, training = measure(model, (64, 64), 1, 8, SGD, CPU)
    assert forward.repeats == training.repeats == 3
    assert forward.images_per_second > 0
    weights = total_bytes([*model.parameters(), *model.buffers()])
    images = 4 * 8 * 64 * 64
    assert forward.peak > weights + images + 4 * 8 * 16 * 32 * 32  # and at least one map
    predicted = footprint(model, (64, 64), 1, 8, SGD)
    assert forward.peak < training.peak
    assert predicted.activations < training.peak < 1.5 * predicted.total
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_detector_learns_boxes():
    model = RetinaNet(backbone=ConvNet(channels=[4, 4, 4]), num_classes=2, pyramid_channels=4, levels=[8])
    forward, training = measure(model, (32, 32), 3, 2, SGD, CPU)
    assert forward.peak < training.peak


def test_the_profilers_library_is_not_heard(capfd):
    measure(Classifier(backbone=ConvNet(channels=[4]), num_classes=2), (8, 8), 3, 2, SGD, CPU)
    assert capfd.readouterr().err == ""
