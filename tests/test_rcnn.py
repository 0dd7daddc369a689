"""R-CNN: every proposal through the whole network, alone."""

import pytest
import torch

from boxes import given, scenes
from paribus.models.backbones.convnet import ConvNet
from paribus.models.detection.crops import crops
from paribus.models.detection.rcnn import RCNN
from paribus.profile.complexity import count


def rcnn(**more):
    torch.manual_seed(0)
    backbone = ConvNet(channels=[8, 8], norm="group")
    keys = {"crop": 16, "context": 1, "score_thresh": 0.0, **more}
    return RCNN(backbone=backbone, num_classes=3, **keys)


def test_a_proposal_is_answered_as_a_picture_of_its_own():
    model = rcnn(nms_thresh=1.0, box_regression=False, detections_per_img=10_000).eval()
    images, _ = scenes(2)
    proposals = [boxes[:9] for boxes in given(model, images)]
    with torch.no_grad():
        found = model(images, None, proposals)
        logits = model.box_head.box_predictor(model.backbone.embed(crops(images, proposals, 16, 1)))[0]
    shares = logits.softmax(1)[:, 1:].reshape(2, 9, 3)
    for one, boxes, share in zip(found, proposals, shares, strict=True):
        assert len(one["boxes"]) == 27  # each with each class
        for box, label, score in zip(one["boxes"], one["labels"], one["scores"], strict=True):
            which = int((boxes - box).abs().amax(1).argmin())
            torch.testing.assert_close(boxes[which], box, atol=1e-4, rtol=0)
            torch.testing.assert_close(share[which, label], score)


def test_chunks_change_nothing():
    images, _ = scenes(2)
    found = []
    for chunk in (1, 7, 1000):
        model = rcnn(chunk=chunk).eval()
        with torch.no_grad():
            found.append(model(images, None, given(model, images)))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            for key in a:
                torch.testing.assert_close(a[key], b[key], atol=1e-4, rtol=1e-4)


def test_without_regression_there_is_one_loss():
    model = rcnn(box_regression=False)
    images, targets = scenes(2)
    losses = model(images, targets, given(model, images))
    assert set(losses) == {"classification"}
    losses["classification"].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_objects_are_learned_even_if_no_proposal_is_near():
    """Their own boxes are among what the losses sample."""
    model = rcnn()
    images, targets = scenes(1)
    far = [torch.tensor([[0.0, 60.0, 4.0, 64.0]])]
    seen = model.see(images, far)
    samples = model.box_head.sample(seen.proposals, targets)
    assert sorted(samples.labels[0].tolist()) == [0, *sorted((targets[0]["labels"] + 1).tolist())]


def test_the_networks_own_head_or_an_average():
    """The small network's own head averages quarters of the last map, 2 x 2 cells."""
    images, targets = scenes(1)
    own, average = rcnn(), rcnn(head="average")
    assert own.box_head.box_predictor.cls_score.in_features == own.backbone.embedding == 32
    assert average.box_head.box_predictor.cls_score.in_features == 8
    sum(average(images, targets, given(average, images)).values()).backward()
    assert all(p.grad is not None for p in average.parameters())


def test_an_image_costs_as_many_passes_as_proposals():
    ten, twenty = (count(rcnn(num_proposals=n), (64, 64))[1] for n in (10, 20))
    assert ten > 0
    assert twenty == 2 * ten
    assert count(rcnn(proposals="grid", num_proposals=10), (64, 64))[1] == ten


def test_windows_in_place_of_a_search():
    model = rcnn(proposals="grid", num_proposals=40)
    assert model.search is None
    images, targets = scenes(2)
    assert all(loss.isfinite() for loss in model(images, targets).values())
    assert [len(boxes) for boxes in model.see(images).proposals] == [40, 40]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"context": 8}, r"model\.context=8: from 0 to less than half of model\.crop=16"),
        ({"context": -1}, r"model\.context=-1"),
        ({"crop": 0}, r"model\.crop=0: 1 or more"),
        ({"chunk": 0}, r"model\.chunk=0: 1 or more"),
        ({"box_batch": 0}, r"model\.box_batch=0: 1 or more"),
        ({"head": "none"}, r"model\.head=none: own or average"),
        ({"proposals": "rpn"}, r"model\.proposals=rpn: grid or selective_search"),
    ],
)
def test_refusals_name_the_key(keys, message):
    with pytest.raises(ValueError, match=message):
        rcnn(**keys)
