"""torchvision's one-stage detectors: its losses by tables and masks, without a wait for the device."""

import sys

import pytest
import torch
from torchvision.ops import box_iou

from boxes import EMPTY, scenes
from paribus.models.backbones.convnet import ConvNet
from paribus.models.detection.assignment import padded
from paribus.models.detection.fcos import FCOS
from paribus.models.detection.retinanet import RetinaNet
from paribus.models.detection.ssd import SSD
from waits import Shapes, Waits

DETECTORS = {
    "retinanet": (RetinaNet, {"pyramid_channels": 16}),
    "retinanet of one map": (RetinaNet, {"pyramid_channels": 16, "neck": "none"}),
    "fcos": (FCOS, {"pyramid_channels": 16}),
    "fcos of one map": (FCOS, {"pyramid_channels": 16, "neck": "none"}),
    "ssd": (SSD, {"extra_channels": [8, 8]}),
}
NAMES = {"classification": "classification", "box": "bbox_regression", "centerness": "bbox_ctrness"}


def model_of(kind):
    torch.manual_seed(0)
    made, keys = DETECTORS[kind]
    return made(backbone=ConvNet(channels=[8, 8, 12, 16]), num_classes=3, **keys)


def objects(generator, count, width, height, largest):
    """Some of one place, some half outside, one that overlaps nothing."""
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    boxes = torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * largest], dim=1)
    if count > 4:
        boxes[1], boxes[3] = boxes[0], boxes[3] + 1000
    return {"boxes": boxes.round(), "labels": torch.randint(3, (count,), generator=generator)}


def cases(kind):
    """Of a model what it has seen, with outputs as of one that has learned something, and targets."""
    model, generator = model_of(kind), torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, 72, 96, generator=generator)
    for most in (1, 3, 9, 40):
        for largest in (8, 30, 100):
            counts = torch.randint(0, most + 1, (3,), generator=generator).tolist()
            targets = [objects(generator, n, 96, 72, largest) for n in counts]
            with torch.no_grad():
                seen = model.see(images)
            said = {
                name: (v + torch.randn(v.shape, generator=generator)).abs()
                for name, v in seen.outputs.items()
            }
            yield model, seen._replace(outputs={n: v.requires_grad_() for n, v in said.items()}), targets


def torchvisions(model, seen, targets):
    """What torchvision's own code says, image by image."""
    anchors = model.anchors(seen)
    if isinstance(model, FCOS):
        counts = [m.shape[-2] * m.shape[-1] for m in seen.maps]
        return model.compute_loss(targets, seen.outputs, anchors, counts)
    if isinstance(model, RetinaNet):
        return model.compute_loss(targets, seen.outputs, anchors)
    shifted = [{**t, "labels": t["labels"] + 1} for t in targets]
    return model.compute_loss(shifted, seen.outputs, anchors, matches(model, targets, anchors[0]))


def matches(model, targets, anchors):
    nothing = torch.full((len(anchors),), -1)
    return [
        model.proposal_matcher(box_iou(t["boxes"], anchors)) if len(t["boxes"]) else nothing for t in targets
    ]


@pytest.mark.parametrize("kind", ["retinanet", "retinanet of one map", "ssd"])
def test_matches_are_torchvisions(kind):
    positive = 0
    for model, seen, targets in cases(kind):
        anchors = model.anchors(seen)[0]
        found = model.match(anchors, padded(targets))
        assert torch.equal(found, torch.stack(matches(model, targets, anchors)))
        positive += int((found >= 0).sum())
    assert positive > 100


@pytest.mark.parametrize("kind", DETECTORS)
def test_losses_and_gradients_are_torchvisions(kind):
    several = 0
    for model, seen, targets in cases(kind):
        ours, theirs = model.losses(seen, targets), torchvisions(model, seen, targets)
        assert len(ours) == len(theirs)
        for name, loss in ours.items():
            torch.testing.assert_close(loss, theirs[NAMES[name]], rtol=1e-5, atol=1e-6)
        outputs = list(seen.outputs.values())
        found, wanted = (torch.autograd.grad(sum(losses.values()), outputs) for losses in (ours, theirs))
        for one, other in zip(found, wanted, strict=True):
            assert one.isfinite().all()
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        several += bool(ours["box"].detach() > 0)
    assert several >= 6


@pytest.mark.parametrize("empty", [0, 1, 2])
@pytest.mark.parametrize("kind", DETECTORS)
def test_a_training_step_waits_for_nothing(kind, empty):
    model = model_of(kind)
    images, targets = scenes(2)
    targets = [*targets[empty:], *[EMPTY] * empty]
    with Waits() as waits:
        sum(model(images, targets).values()).backward()
    assert waits.found == []


@pytest.mark.parametrize("kind", DETECTORS)
def test_shapes_of_the_losses_do_not_depend_on_the_objects(kind, monkeypatch):
    model = model_of(kind)
    images, targets = scenes(2)
    monkeypatch.setattr(sys.modules[type(model).__module__], "padded", lambda table: table)
    shapes = []

    seen = model.see(images)
    for batch in (targets, [targets[0], EMPTY], [EMPTY, EMPTY]):
        table = padded(batch)
        with Shapes() as noted:
            model.losses(seen, table)
        shapes.append(noted.shapes)
    assert shapes[0] == shapes[1] == shapes[2]
    assert shapes[0]


@pytest.mark.parametrize("kind", DETECTORS)
def test_boxes_said_where_no_object_is_may_be_infinite(kind):
    for model, seen, targets in cases(kind):
        whole = model.losses(seen, targets)["box"]
        (gradient,) = torch.autograd.grad(whole, seen.outputs["bbox_regression"])
        idle = (gradient == 0).all(2, keepdim=True)
        said = seen.outputs["bbox_regression"].detach().masked_fill(idle, torch.inf).requires_grad_()
        outputs = {**seen.outputs, "bbox_regression": said}
        loss = model.losses(seen._replace(outputs=outputs), targets)["box"]
        assert loss == whole
        assert torch.equal(torch.autograd.grad(loss, said)[0], gradient)


def test_hard_negatives_are_torchvisions():
    """Three for each positive, and where there are fewer, positives once more."""
    model = model_of("ssd")
    losses = torch.rand(3, 40, generator=torch.Generator().manual_seed(0))
    positive = torch.zeros(3, 40, dtype=torch.bool)
    positive[0, :2], positive[2, 5:20] = True, True
    ranks = losses.masked_fill(positive, -torch.inf).sort(1, descending=True)[1].sort(1)[1]
    found = model.hardest(losses, positive)
    assert torch.equal(found, ranks < 3 * positive.sum(1, keepdim=True))
    assert found.sum(1).tolist() == [6, 0, 40]
    assert losses[0][found[0]].min() > losses[0][~found[0] & ~positive[0]].max()
