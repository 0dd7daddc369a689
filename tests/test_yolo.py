import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from boxes import EMPTY, average_precision_50, learned, scenes
from paribus.models.backbones.convnet import ConvNet
from paribus.models.detection.assignment import padded
from paribus.models.detection.detector import Seen
from paribus.models.detection.yolo import YOLO, decoded
from paribus.profile.complexity import count
from waits import Shapes, Waits


def model_of(classes=3, **more):
    torch.manual_seed(0)
    return YOLO(
        backbone=ConvNet(channels=[8, 12, 16], norm="group"),
        num_classes=classes,
        **{"pyramid_channels": 16, "levels": [4, 8, 16], **more},
    )


def said(levels, size, classes, batch=1):
    """What a head with nothing to say says: outputs of zero."""
    maps = [torch.zeros(batch, 1, size[0] // s, size[1] // s) for s in levels]
    cells = sum(m.shape[-2] * m.shape[-1] for m in maps)
    outputs = {"cells": torch.zeros(batch, cells, 5 + classes)}
    return Seen(torch.zeros(batch, 3, *size), maps, size, outputs=outputs)


def test_boxes_of_cells():
    seen = said([8, 16], (16, 32), 2)
    cells = decoded(seen, [8, 16])
    assert cells.boxes.shape == (1, 10, 4)
    assert cells.boxes[0, 0].tolist() == [0, 0, 8, 8]
    assert cells.boxes[0, 5].tolist() == [8, 8, 16, 16]  # row by row
    assert cells.boxes[0, 9].tolist() == [16, 0, 32, 16]
    assert (cells.centers[5].tolist(), cells.strides.tolist()) == ([12, 12], [8.0] * 8 + [16.0] * 2)
    seen.outputs["cells"][0, 5, :4] = torch.tensor([0.5, -0.25, math.log(2), math.log(0.5)])
    assert decoded(seen, [8, 16]).boxes[0, 5].tolist() == pytest.approx([8, 8, 24, 12])


def test_boxes_stay_finite():
    seen = said([8], (8, 8), 1)
    seen.outputs["cells"][..., :4] = torch.tensor([0, 0, 1e4, -1e4])
    boxes = decoded(seen, [8]).boxes[0, 0]
    assert boxes.isfinite().all()
    assert boxes[3] > boxes[1]


def slow_losses(model, seen, targets):
    """Cell by cell; which cell has which object is taken from the model."""
    cells = decoded(seen, model.pyramid.levels)
    positive, held = model.assigned(cells, padded(targets))
    count = max(1, int(positive.sum()))
    classification = box = objectness = 0.0
    for b in range(len(targets)):
        for a in range(positive.shape[1]):
            wanted = 0.0
            if positive[b, a]:
                truth = targets[b]["boxes"][held[b, a]]
                loss = float(generalized_box_iou_loss(cells.boxes[b, a], truth))
                box += model.box_weight * loss
                for c in range(cells.classes.shape[2]):
                    p = float(cells.classes[b, a, c].double().sigmoid())
                    classification -= math.log(p if c == targets[b]["labels"][held[b, a]] else 1 - p)
                wanted = overlap(cells.boxes[b, a].tolist(), truth.tolist()) if model.iou_aware else 1.0
            p = float(cells.objectness[b, a].double().sigmoid())
            objectness -= wanted * math.log(p) + (1 - wanted) * math.log(1 - p)
    return {"classification": classification / count, "box": box / count, "objectness": objectness / count}


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("iou_aware", [True, False])
def test_losses_equal_a_loop(iou_aware):
    model = learned(model_of(iou_aware=iou_aware), 10)
    images, targets = scenes(3)
    targets[1] = EMPTY
    with torch.no_grad():
        seen = model.see(images)
        losses = model.losses(seen, targets)
        for name, value in slow_losses(model, seen, targets).items():
            assert float(losses[name]) == pytest.approx(value, rel=1e-4), name


def test_cells_are_chosen_by_their_losses():
    """The cost of every pair, computed one by one."""
    model = model_of(match_top=1, match_box_weight=2.0)
    images, targets = scenes(1)
    with torch.no_grad():
        seen = model.see(images)
        seen.outputs["cells"][..., 5:] += torch.randn(seen.outputs["cells"][..., 5:].shape)
        cells = decoded(seen, model.pyramid.levels)
        positive, held = model.assigned(cells, padded(targets))
    assert positive.sum() == 2  # one each: top 1
    for m, (truth, label) in enumerate(zip(targets[0]["boxes"], targets[0]["labels"], strict=True)):
        one_hot = F.one_hot(label, 3).float().expand_as(cells.classes[0])
        cost = F.binary_cross_entropy_with_logits(cells.classes[0], one_hot, reduction="none").sum(1)
        cost += 2.0 * generalized_box_iou_loss(cells.boxes[0], truth.expand_as(cells.boxes[0]))
        middle = (truth[:2] + truth[2:]) / 2
        cost[(cells.centers - middle).abs().amax(1) >= 1.5 * cells.strides] = math.inf
        assert (positive[0] & (held[0] == m)).nonzero().tolist() == [[int(cost.argmin())]]


def test_every_object_of_a_scene_is_learned():
    model = learned(model_of(), 20)
    images, targets = scenes(16)
    with torch.no_grad():
        positive, held = model.assigned(decoded(model.see(images), model.pyramid.levels), padded(targets))
    for p, h in zip(positive, held, strict=True):
        assert set(h[p].tolist()) == {0, 1}


@pytest.mark.parametrize("empty", [False, True])
def test_a_training_step_does_not_wait_for_the_device(empty):
    model = model_of()
    images, targets = scenes(2)
    targets = [targets[0], EMPTY] if not empty else [EMPTY, EMPTY]
    with Waits() as waits:
        sum(model(images, targets).values()).backward()
    assert waits.found == []


def test_shapes_of_a_training_step_do_not_depend_on_the_objects():
    model = model_of()
    images, targets = scenes(2)
    shapes = []

    cells = decoded(model.see(images), model.pyramid.levels)
    for batch in (targets, [targets[0], EMPTY], [EMPTY, EMPTY]):
        table = padded(batch)
        with Shapes() as noted:
            model.assigned(cells, table)
        shapes.append(noted.shapes)
    assert shapes[0] == shapes[1] == shapes[2]


def test_multiply_adds_are_counted_without_values():
    model = model_of(levels=[8], head_layers=1)
    parameters, macs = count(model, (32, 32))
    assert parameters == sum(p.numel() for p in model.parameters())
    backbone = count(model.backbone, (32, 32))[1]
    cells, convs = 16, 16 * 16 * 9
    assert macs == backbone + cells * (16 * 16 + convs + 2 * convs + 16 * (5 + 3))


def test_certain_heads_start_with_few_objects():
    model = model_of(classes=9)
    with torch.no_grad():
        cells = decoded(model.see(torch.randn(1, 3, 64, 64)), model.pyramid.levels)
    assert cells.objectness.sigmoid().mean() == pytest.approx(0.01, rel=0.2)
    assert cells.classes.sigmoid().mean() == pytest.approx(0.1, rel=0.2)
    sides = (cells.boxes[0, :, 2] - cells.boxes[0, :, 0]) / cells.strides
    assert sides.mean() == pytest.approx(4, rel=0.2)


def test_detections_are_the_products_of_objectness_and_class():
    model = model_of(levels=[8], score_thresh=0.1, nms_thresh=0.5)
    seen = said([8], (32, 32), 3)
    cells = seen.outputs["cells"]
    cells[..., 4:] = -20.0
    for cell, objectness, label, score in ((0, 20.0, 1, 0.0), (5, 0.0, 2, 20.0), (10, 0.0, 0, -3.0)):
        cells[0, cell, 4], cells[0, cell, 5 + label] = objectness, score
    cells[0, 5, 5] = 0.0  # a second class of the same box
    (found,) = model.eval().detections(seen)
    assert found["scores"].tolist() == pytest.approx([0.5, 0.5, 0.25])
    assert sorted(zip(found["labels"].tolist(), found["boxes"][:, 0].tolist(), strict=True)) == [
        (0, 8.0),
        (1, 0.0),
        (2, 8.0),
    ]


def test_the_most_candidates_of_a_level_and_detections():
    images, _ = scenes(1)
    with torch.no_grad():
        for limit, count in (({"candidates": 2}, 6), ({"detections_per_img": 5}, 5)):
            model = model_of(classes=1, score_thresh=0.0, nms_thresh=1.0, **limit).eval()
            assert len(model(images)[0]["scores"]) == count


@pytest.mark.parametrize("more", [{"neck": "none"}, {"norm": None}, {"norm": "batch", "activation": "relu"}])
def test_it_learns_in_other_forms(more):
    model = model_of(**more)
    images, targets = scenes(16)
    learned(model, 80)
    assert average_precision_50(model, images, targets) > 0.1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"match_radius": 0.5},
            r"model\.match_radius=0\.5: more than 0\.5 strides, so that each object has a cell",
        ),
        ({"match_top": 0}, r"model\.match_top=0: 1 or more"),
    ],
)
def test_what_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        model_of(**more)


def test_the_same_step_twice_gives_the_same_gradients():
    gradients = []
    for _ in range(2):
        model = model_of()
        images, targets = scenes(2)
        sum(model(images, targets).values()).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
