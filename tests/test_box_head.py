"""What the R-CNNs share: boxes cut out of maps, and what is said of them."""

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool

from boxes import EMPTY, scenes
from paribus.models.detection.box_head import BoxHead, RegionPool

BOXES = [
    torch.tensor([[0.0, 0, 20, 30], [3, 5, 250, 250], [100, 20, 220, 150]]),
    torch.zeros(0, 4),
    torch.tensor([[10.0, 10, 130, 130]]),
]


def maps(*strides, size=256, channels=4):
    torch.manual_seed(0)
    return [torch.randn(3, channels, size // stride, size // stride) for stride in strides]


def test_pooling_from_a_pyramid_is_torchvisions():
    found = maps(4, 8, 16, 32)
    theirs = MultiScaleRoIAlign(list("0123"), output_size=7, sampling_ratio=2)
    named = OrderedDict((str(i), m) for i, m in enumerate(found))
    pooled = RegionPool(strides=[4, 8, 16, 32])(found, BOXES)
    assert torch.allclose(pooled, theirs(named, BOXES, [(256, 256)] * 3))


def test_pooling_takes_the_maximum_of_whole_cells():
    (m,) = maps(8)
    rois = torch.cat([torch.tensor([[0.0], [0], [0], [2]]), torch.cat(BOXES)], dim=1)
    assert torch.equal(RegionPool(strides=[8], roi="pool")([m], BOXES), roi_pool(m, rois, 7, 1 / 8))
    assert torch.equal(
        RegionPool(strides=[8], resolution=14)([m], BOXES), roi_align(m, rois, 14, 1 / 8, sampling_ratio=2)
    )


def test_a_box_is_cut_out_of_the_map_that_suits_its_size():
    """A map that is left out is replaced by the next finer one."""
    marked = [torch.full_like(m, float(i)) for i, m in enumerate(maps(4, 16))]
    sides = [20, 100, 112, 223, 224, 255]
    boxes = [torch.tensor([[0.0, 0, side, side] for side in sides]), torch.zeros(0, 4), torch.zeros(0, 4)]
    assert RegionPool(strides=[4, 16])(marked, boxes)[:, 0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1]


def test_boxes_are_pooled_in_float32():
    found = RegionPool(strides=[8, 16])([m.bfloat16() for m in maps(8, 16)], BOXES)
    assert found.dtype == torch.float32


def head(**keys):
    torch.manual_seed(0)
    return BoxHead(in_channels=4, strides=[8], num_classes=3, channels=16, **keys)


@pytest.mark.parametrize("training", [True, False])
def test_any_proposals_give_losses_and_detections(training):
    model = head(score_thresh=0.0).train(training)
    _, targets = scenes(3)
    found = maps(8, size=64)
    none = [torch.zeros(0, 4)] * 3
    some = [b / 4 for b in BOXES]
    for proposals in (some, none):
        for wanted in (targets, [EMPTY] * 3):
            losses = model.losses(found, model.sample(proposals, wanted))
            assert set(losses) == {"classification", "box"}
            assert all(loss.isfinite() and loss.requires_grad for loss in losses.values())
            sum(losses.values()).backward()
        detections = model.detections(found, proposals, (64, 64))
        assert [len(f["boxes"]) for f in detections] == [3 * len(p) for p in proposals]
    assert [len(p) for p in some] == [3, 0, 1]  # they are left as they were


def test_samples_are_a_quarter_objects_at_most_and_know_which():
    _, targets = scenes(1)
    model = head(batch=8)
    near = targets[0]["boxes"].repeat_interleave(10, dim=0) + torch.rand(20, 4)
    far = torch.tensor([[60.0, 60, 64, 64]]).repeat(20, 1)
    samples = model.sample([torch.cat([near, far])], targets)
    (labels,), (objects,), (boxes,) = samples.labels, samples.objects, samples.boxes
    held = labels > 0
    assert len(labels) == 8
    assert int(held.sum()) == 2
    assert torch.equal(targets[0]["labels"][objects[held]] + 1, labels[held])
    # The deltas lead from the box to its object.
    moved = model.box_coder.decode(samples.deltas[0][held], [boxes[held]])[:, 0]
    assert torch.allclose(moved, targets[0]["boxes"][objects[held]], atol=1e-3)
