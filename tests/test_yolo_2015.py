import math

import pytest
import torch
from torch import nn

from boxes import EMPTY, average_precision_50, learned, scenes
from paribus.models.backbones.convnet import ConvNet
from paribus.models.detection.yolo_2015 import YOLO2015
from test_yolo import overlap
from waits import Waits


def model_of(classes=3, **more):
    torch.manual_seed(0)
    return YOLO2015(
        backbone=ConvNet(channels=[8, 12, 16], norm="group"),
        num_classes=classes,
        **{"grid": 4, "head": "fully_connected", "head_channels": 16, "hidden": 32, "dropout": 0.0, **more},
    )


def equation_3(map, targets, grid, boxes, size, coord=5.0, noobj=0.5):
    """The paper's loss, term by term, of one image. map: [boxes * 5 + classes, grid, grid]."""
    height, width = size
    place = classification = confidence = 0.0
    for row in range(grid):
        for column in range(grid):
            says = map[:, row, column].tolist()
            predictors = [says[5 * j : 5 * j + 5] for j in range(boxes)]
            held = None
            for box, label in zip(targets["boxes"].tolist(), targets["labels"].tolist(), strict=True):
                x, y = (box[0] + box[2]) / 2 / width * grid, (box[1] + box[3]) / 2 / height * grid
                if held is None and (math.floor(y), math.floor(x)) == (row, column):
                    held = [x - column, y - row, (box[2] - box[0]) / width, (box[3] - box[1]) / height], label
            if held is None:
                confidence += noobj * sum(p[4] ** 2 for p in predictors)
                continue
            (x, y, w, h), label = held
            ious = [
                overlap(corners(p[0], p[1], p[2] ** 2, p[3] ** 2, grid), corners(x, y, w, h, grid))
                for p in predictors
            ]
            responsible = ious.index(max(ious))
            for j, p in enumerate(predictors):
                if j == responsible:
                    place += coord * ((p[0] - x) ** 2 + (p[1] - y) ** 2)
                    place += coord * ((p[2] - math.sqrt(w)) ** 2 + (p[3] - math.sqrt(h)) ** 2)
                    confidence += (p[4] - ious[j]) ** 2
                else:
                    confidence += noobj * p[4] ** 2
            for c, p in enumerate(says[5 * boxes :]):
                classification += (p - (c == label)) ** 2
    return {"classification": classification, "box": place, "objectness": confidence}


def corners(x, y, w, h, grid):
    """In shares of the image, of a cell at its upper left corner: all cells' overlaps are the same."""
    return [x / grid - w / 2, y / grid - h / 2, x / grid + w / 2, y / grid + h / 2]


@pytest.mark.parametrize(("boxes", "size"), [(2, (64, 64)), (1, (64, 64)), (3, (48, 64))])
def test_losses_are_equation_3(boxes, size):
    model = learned(model_of(boxes=boxes, coord_weight=4.0, noobj_weight=0.25), 20)
    images, targets = scenes(4)
    images = images[..., : size[0], : size[1]]
    targets[1] = EMPTY
    # One more in the cell of another, which it does not learn; one in the image's corner.
    more = torch.tensor([[*targets[2]["boxes"][0, :2].tolist(), 0, 0], [50.0, 34, 64, 48]])
    more[0, 2:] = targets[2]["boxes"][0, 2:]
    targets[2] = {
        "boxes": torch.cat([targets[2]["boxes"], more]),
        "labels": torch.cat([targets[2]["labels"], (targets[2]["labels"][:2] + 1) % 3]),
    }
    targets = [{**t, "boxes": t["boxes"] * t["boxes"].new_tensor([1, size[0] / 64] * 2)} for t in targets]
    with torch.no_grad():
        seen = model.see(images)
        losses = model.losses(seen, targets)
        expected = [
            equation_3(map, target, 4, boxes, size, coord=4.0, noobj=0.25)
            for map, target in zip(model.raw(images), targets, strict=True)
        ]
        alone = [model.losses(seen.one(i), targets[i : i + 1]) for i in range(4)]
    assert expected[1]["box"] == expected[1]["classification"] == 0
    for name in losses:
        assert float(losses[name]) == pytest.approx(sum(e[name] for e in expected) / 4, rel=1e-4), name
        for one, e in zip(alone, expected, strict=True):
            assert float(one[name]) == pytest.approx(e[name], rel=1e-4, abs=1e-6), name


def told(map, size=(64, 64), **more):
    """The detections of one image of whose cells a map [boxes * 5 + classes, 4, 4] says."""
    model = model_of(**more).eval()
    images = torch.zeros(1, 3, *size)
    seen = model.see(images)
    return model.detections(seen._replace(outputs={"map": map[None]}))[0]


def test_boxes_of_cells():
    map = torch.zeros(13, 4, 4)
    map[:5, 1, 2] = torch.tensor([0.5, 0.25, 0.5, -0.25, 0.5])  # of 16 pixels, and of 4: a root has two signs
    map[5:10, 3, 0] = torch.tensor([0.0, 1.0, 2.0, 1.0, 1.0])  # beyond the image
    map[10:, 1, 2] = torch.tensor([0.0, 0.5, -1.0])
    map[10:, 3, 0] = torch.tensor([2.0, 0.0, 0.0])
    found = told(map)
    assert found["scores"].tolist() == pytest.approx([1.0, 0.25])
    assert found["labels"].tolist() == [0, 1]
    assert found["boxes"].tolist() == [[0, 32, 64, 64], [32, 18, 48, 22]]


def test_scores_that_are_no_probabilities_are_cut():
    map = torch.zeros(13, 4, 4)
    map[2:4], map[4], map[9], map[10:] = 0.5, -1.0, -1.0, -1.0
    assert len(told(map, score_thresh=0.0)["scores"]) == 0


def test_predictors_start_in_the_middle_of_their_cells_with_sizes_apart():
    for head in ("fully_connected", "convolutional"):
        model = model_of(head=head).eval()
        nn.init.zeros_(next(layer for layer in reversed(model.head) if hasattr(layer, "weight")).weight)
        map = model.raw(torch.randn(1, 3, 64, 64))[0]
        expected = [0.5, 0.5, 1 / 3, 1 / 3, 0, 0.5, 0.5, 2 / 3, 2 / 3, 0, 1 / 3, 1 / 3, 1 / 3]
        assert torch.allclose(map, torch.tensor(expected)[:, None, None].expand(13, 4, 4))


@pytest.mark.parametrize("head", ["fully_connected", "convolutional"])
@pytest.mark.parametrize("size", [(64, 64), (49, 61), (8, 8), (96, 40)])
def test_any_size_of_image_has_the_same_grid(head, size):
    model = model_of(head=head)
    images = torch.randn(1, 3, *size)
    assert model.raw(images).shape == (1, 13, 4, 4)
    target = {"boxes": torch.tensor([[0.0, 0, size[1], size[0]]]), "labels": torch.tensor([2])}
    losses = model(images, [target])
    assert all(loss.isfinite() for loss in losses.values())


def test_one_head_sees_the_whole_image_and_the_other_a_part():
    images = torch.randn(1, 3, 64, 64)
    for head, whole in (("fully_connected", True), ("convolutional", False)):
        model = model_of(head=head, head_layers=1, norm=None).eval()
        model.backbone.requires_grad_(False)
        maps = model.backbone(images)[-1].requires_grad_()
        model.head(maps)[0, :, 0, 0].sum().backward()
        assert bool(maps.grad[..., -1, -1].any()) == whole


def test_the_papers_head():
    """Four convolutions of 1024, 4096 hidden, 7 x 7 x 30 for VOC's 20 classes."""
    with torch.device("meta"):
        model = model_of(
            classes=20,
            grid=7,
            head="fully_connected",
            head_layers=4,
            head_channels=1024,
            hidden=4096,
            norm=None,
        )
    convs = 16 * 1024 * 9 + 1024 + 3 * (1024 * 1024 * 9 + 1024)
    full = 7 * 7 * 1024 * 4096 + 4096 + 4096 * 1470 + 1470
    assert sum(p.numel() for p in model.head.parameters()) == convs + full


def test_a_finer_map():
    model = model_of(level=4, grid=16, head="convolutional", head_layers=1)
    assert len(model.backbone.stages) == 2  # what makes the coarser map would learn nothing
    assert model.head[0][0].in_channels == 12
    images, targets = scenes(2)
    assert model.see(images).maps[-1].shape[-2:] == (16, 16)
    sum(model(images, targets).values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_map_that_the_backbone_lacks_is_refused():
    with pytest.raises(ValueError, match=r"model\.level=16: this backbone has maps of stride \[2, 4, 8\]"):
        model_of(level=16)


@pytest.mark.parametrize("key", ["grid", "boxes", "head_channels", "hidden", "detections_per_img"])
def test_what_is_refused(key):
    with pytest.raises(ValueError, match=f"model.{key}=0: 1 or more"):
        model_of(**{key: 0})


@pytest.mark.parametrize("empty", [False, True])
def test_a_training_step_does_not_wait_for_the_device(empty):
    model = model_of()
    images, targets = scenes(2)
    targets = [targets[0], EMPTY] if not empty else [EMPTY, EMPTY]
    with Waits() as waits:
        sum(model(images, targets).values()).backward()
    assert waits.found == []


def test_the_same_step_twice_gives_the_same_gradients():
    gradients = []
    for _ in range(2):
        model = model_of()
        images, targets = scenes(2)
        sum(model(images, targets).values()).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("head", ["fully_connected", "convolutional"])
def test_it_remembers_a_few_scenes(head):
    model = model_of(head=head, hidden=128)
    images, targets = scenes(4)
    assert average_precision_50(model, images, targets) < 0.2
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()
    assert average_precision_50(model, images, targets) > 0.9
