"""Fast R-CNN: torchvision's heads on proposals from anywhere; with a proposal network it is Faster R-CNN."""

from collections import OrderedDict

import pytest
import torch
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign

from boxes import given, scenes
from paribus.models.backbones.convnet import ConvNet
from paribus.models.detection.fast_rcnn import FastRCNN
from paribus.models.detection.faster_rcnn import FasterRCNN
from paribus.profile.complexity import count

KEYS = {"num_classes": 3, "pyramid_channels": 16, "box_channels": 32, "score_thresh": 0.001, "neck": "fpn"}


def fast(**more):
    torch.manual_seed(0)
    backbone = ConvNet(channels=[8, 8, 16, 16], norm="group")
    return FastRCNN(backbone=backbone, **{**KEYS, "levels": [4, 8], **more})


def faster(**more):
    torch.manual_seed(0)
    backbone = ConvNet(channels=[8, 8, 16, 16], norm="group")
    return FasterRCNN(backbone=backbone, **{**KEYS, "levels": [4, 8], "roi": "pool", **more})


def test_with_a_proposal_network_it_is_faster_rcnn():
    ours, theirs = fast(proposals="rpn", num_proposals=50), faster(num_proposals=50, candidates=1000)
    assert ours.search is None
    assert set(ours.state_dict()) == set(theirs.state_dict())
    images, targets = scenes(2)
    results = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        losses = model.train()(images, targets)
        with torch.no_grad():
            results.append((losses, model.eval()(images)))
    assert set(results[0][0]) == {"proposal_objectness", "proposal_box", "classification", "box"}
    assert all(torch.equal(results[0][0][name], loss) for name, loss in results[1][0].items())
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert len(a["boxes"])
        assert all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize("proposals", ["grid", "selective_search"])
def test_what_proposes_does_not_change_the_first_weights(proposals):
    ours, theirs = fast(proposals=proposals).state_dict(), faster().state_dict()
    assert not any(name.startswith("rpn") for name in ours)
    assert set(ours) == {name for name in theirs if not name.startswith("rpn")}
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_losses_and_detections_are_those_of_torchvisions_heads():
    model = fast(roi="align", levels=[8], neck="none")
    heads = RoIHeads(
        MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        TwoMLPHead(16 * 49, 32),
        FastRCNNPredictor(32, 4),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=64,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.001,
        nms_thresh=0.5,
        detections_per_img=100,
    )
    parts = {k: v for k, v in model.box_head.state_dict().items() if "roi_pool" not in k}
    heads.load_state_dict(parts)
    images, targets = scenes(2)
    proposals = given(model, images)
    shifted = [{**t, "labels": t["labels"] + 1} for t in targets]
    maps = OrderedDict({"0": model.pyramid(model.backbone(images))[0]})
    torch.manual_seed(1)
    losses = model(images, targets, proposals)
    torch.manual_seed(1)
    _, expected = heads.train()(maps, proposals, [(64, 64)] * 2, shifted)
    assert torch.allclose(losses["classification"], expected["loss_classifier"], rtol=1e-5)
    assert torch.allclose(losses["box"], expected["loss_box_reg"], rtol=1e-5)
    with torch.no_grad():
        found = model.eval()(images, None, proposals)
        there, _ = heads.eval()(maps, proposals, [(64, 64)] * 2)
    for ours, theirs in zip(found, there, strict=True):
        assert len(ours["boxes"]) > 10
        torch.testing.assert_close(ours["boxes"], theirs["boxes"])
        torch.testing.assert_close(ours["scores"], theirs["scores"])
        assert torch.equal(ours["labels"] + 1, theirs["labels"])


def test_the_network_sees_the_image_once_however_many_proposals():
    ten, twenty, thirty = (count(fast(num_proposals=n), (64, 64))[1] for n in (10, 20, 30))
    assert thirty - twenty == twenty - ten == 10 * (16 * 49 * 32 + 32 * 32 + 32 * 4 * 5)
    assert ten > 5 * (twenty - ten)


def test_windows_in_place_of_a_search():
    model = fast(proposals="grid", num_proposals=40)
    assert model.search is None
    images, targets = scenes(2)
    losses = model(images[..., :50, :61], targets)
    assert set(losses) == {"classification", "box"}
    boxes = model.see(images[..., :50, :61]).proposals[1]
    assert len(boxes) == 40
    assert boxes[:, [0, 2]].max() <= 61
    assert boxes[:, [1, 3]].max() <= 50


def test_judging_tells_the_proposals():
    images, targets = scenes(2)
    for model in (fast(), fast(proposals="grid"), fast(proposals="rpn")):
        proposals = given(model, images)
        with torch.no_grad():
            found, _ = model.eval().judged(images, targets, proposals)
        assert all(len(one["proposals"]) > 5 for one in found)
        if proposals:
            assert torch.equal(found[0]["proposals"], proposals[0])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"proposals": "edges"}, r"model\.proposals=edges: grid, selective_search or rpn"),
        ({"num_proposals": 0}, r"model\.num_proposals=0: 1 or more"),
        ({"roi": "crop"}, r"model\.roi=crop: align or pool"),
    ],
)
def test_refusals_name_the_key(keys, message):
    with pytest.raises(ValueError, match=message):
        fast(**keys)
