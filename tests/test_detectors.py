"""Detectors: torchvision's numbers on any backbone, labels from 0, and they learn from scratch."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.ops import box_iou

from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.timm import Timm
from paribus.models.detection.faster_rcnn import FasterRCNN
from paribus.models.detection.fpn import Anchors, FeaturePyramid, octaves
from paribus.models.detection.retinanet import RetinaNet

BACKBONES = {
    "convnet": lambda: ConvNet(channels=[8, 12, 16]),
    "test_resnet": lambda: Timm(name="test_resnet"),
    "test_efficientnet": lambda: Timm(name="test_efficientnet", norm="group"),
    "test_convnext": lambda: Timm(name="test_convnext"),
    "test_vit": lambda: Timm(name="test_vit"),
    "swin": lambda: Timm(name="swin_tiny_patch4_window7_224"),
    "dilated": lambda: Timm(name="test_resnet", output_stride=8),
}
MODELS = {
    "retinanet": lambda backbone, **k: RetinaNet(
        backbone=backbone, **{"num_classes": 3, "pyramid_channels": 16, **k}
    ),
    "faster_rcnn": lambda backbone, **k: FasterRCNN(
        backbone=backbone, **{"num_classes": 3, "pyramid_channels": 16, "box_channels": 32, **k}
    ),
}
LOSSES = {
    "retinanet": {"classification", "bbox_regression"},
    "faster_rcnn": {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"},
}


def scenes(count, size=64):
    """Boxes of three colours on noise: images [count, 3, size, size] and targets."""
    images, targets = 0.2 * torch.randn(count, 3, size, size), []
    for image in images:
        boxes, labels = [], []
        for left in (0, size // 2):
            width, height = torch.randint(10, 28, (2,)).tolist()
            x = left + int(torch.randint(0, size // 2 - width, ()))
            y = int(torch.randint(0, size - height, ()))
            label = int(torch.randint(0, 3, ()))
            image[label, y : y + height, x : x + width] += 1.5
            boxes.append([x, y, x + width, y + height])
            labels.append(label)
        targets.append({"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)})
    return images, targets


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("kind", MODELS)
def test_losses_gradients_and_detections(kind, backbone):
    torch.manual_seed(0)
    model = MODELS[kind](BACKBONES[backbone]())
    images, targets = scenes(2, size=128)
    losses = model(images[..., :100, :110], targets)
    assert set(losses) == LOSSES[kind]
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    with torch.no_grad():
        found = model.eval()(images[..., :100, :110])
    assert [set(f) for f in found] == [{"boxes", "scores", "labels"}] * 2


@pytest.mark.parametrize("kind", MODELS)
def test_images_without_boxes(kind):
    torch.manual_seed(0)
    model = MODELS[kind](BACKBONES["convnet"]())
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    images, targets = scenes(2)
    for batch in ([empty, empty], [targets[0], empty]):
        losses = model(images, batch)
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()


def average_precision_50(found, targets):
    """Of all classes together, exactly: enough to see that a detector works."""
    hits, scores, total = [], [], 0
    for f, t in zip(found, targets, strict=True):
        total += len(t["boxes"])
        free = torch.ones(len(t["boxes"]), dtype=torch.bool)
        for box, label in zip(f["boxes"], f["labels"], strict=True):
            iou = box_iou(box[None], t["boxes"])[0] * free * (t["labels"] == label)
            hit = bool(iou.max() > 0.5)
            free[iou.argmax()] &= not hit
            hits.append(hit)
        scores += f["scores"].tolist()
    order = torch.tensor(scores).argsort(descending=True)
    hits = torch.tensor(hits)[order].float()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / total)


@pytest.mark.parametrize(
    ("kind", "arguments"), [("retinanet", {}), ("faster_rcnn", {"anchor_scale": 4.0, "box_channels": 64})]
)
def test_it_learns_from_scratch(kind, arguments):
    torch.manual_seed(0)
    backbone = ConvNet(channels=[16, 32, 32, 32], norm="group")
    model = MODELS[kind](backbone, pyramid_channels=32, levels=[4, 8, 16], **arguments)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    images, targets = scenes(32)
    with torch.no_grad():
        assert average_precision_50(model.eval()(images), targets) < 0.02
    model.train()
    for _ in range(80):
        loss = sum(model(*scenes(4)).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(images)
    assert {int(label) for f in found for label in f["labels"]} <= {0, 1, 2}
    assert average_precision_50(found, targets) > 0.2


class Wrapped(nn.Module):
    """Our backbone and pyramid as torchvision's detectors take them."""

    def __init__(self, model, channels):
        super().__init__()
        self.backbone, self.pyramid, self.out_channels = model.backbone, model.pyramid, channels

    def forward(self, x):
        return OrderedDict((str(i), m) for i, m in enumerate(self.pyramid(self.backbone(x))))


@pytest.mark.parametrize("kind", MODELS)
def test_equal_to_torchvisions_detector(kind):
    torch.manual_seed(0)
    ours = MODELS[kind](BACKBONES["test_resnet"](), score_thresh=0.0)
    plain = {
        "image_mean": [0.0] * 3,
        "image_std": [1.0] * 3,
        "min_size": 64,
        "max_size": 64,
        "_skip_resize": True,
    }
    if kind == "retinanet":
        theirs = detection.RetinaNet(
            Wrapped(ours, 16),
            3,
            anchor_generator=ours.anchor_generator,
            head=ours.head,
            score_thresh=0.0,
            detections_per_img=100,
            **plain,
        )
    else:
        theirs = detection.FasterRCNN(
            Wrapped(ours, 16),
            rpn_anchor_generator=ours.rpn.anchor_generator,
            rpn_head=ours.rpn.head,
            box_roi_pool=ours.roi_heads.box_roi_pool,
            box_head=ours.roi_heads.box_head,
            box_predictor=ours.roi_heads.box_predictor,
            rpn_pre_nms_top_n_train=400,
            rpn_pre_nms_top_n_test=400,
            rpn_post_nms_top_n_train=200,
            rpn_post_nms_top_n_test=200,
            rpn_batch_size_per_image=64,
            box_batch_size_per_image=64,
            box_score_thresh=0.0,
            **plain,
        )
    images, targets = scenes(2)
    shifted = [{**t, "labels": t["labels"] + (kind == "faster_rcnn")} for t in targets]
    torch.manual_seed(1)
    our_losses = ours(images, targets)
    torch.manual_seed(1)
    their_losses = theirs(list(images), shifted)
    for name, loss in their_losses.items():
        assert torch.allclose(our_losses[name], loss), name
    ours.eval(), theirs.eval()
    with torch.no_grad():
        for a, b in zip(ours(images), theirs(list(images)), strict=True):
            assert len(a["boxes"]) > 0
            assert torch.allclose(a["boxes"], b["boxes"])
            assert torch.allclose(a["scores"], b["scores"])
            assert torch.equal(a["labels"] + (kind == "faster_rcnn"), b["labels"])


@pytest.mark.parametrize("kind", MODELS)
def test_boxes_stay_in_an_image_whose_size_is_padded_inside(kind):
    torch.manual_seed(0)
    model = MODELS[kind](BACKBONES["test_resnet"](), score_thresh=0.0).eval()
    with torch.no_grad():
        for found in model(scenes(2)[0][..., :49, :61]):
            assert len(found["boxes"]) > 0
            assert found["boxes"].min() >= 0
            assert found["boxes"][:, 0::2].max() <= 61
            assert found["boxes"][:, 1::2].max() <= 49


@pytest.mark.parametrize("kind", MODELS)
def test_boxes_are_float32_under_autocast(kind):
    torch.manual_seed(0)
    model = MODELS[kind](BACKBONES["convnet"](), score_thresh=0.0)
    images, targets = scenes(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images, targets)
        found = model.eval()(images)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(f["boxes"].dtype == torch.float32 for f in found)


def test_retinanets_own_anchors():
    anchors = Anchors(levels=[8, 16, 32, 64, 128], scale=4, per_octave=3, ratios=(0.5, 1.0, 2.0))
    assert anchors.sizes == tuple(
        (s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in (32, 64, 128, 256, 512)
    )


def test_levels_of_a_backbone():
    assert octaves([2, 4, 8, 16, 32], 8, 128) == [8, 16, 32, 64, 128]
    assert octaves([2, 4, 8, 16, 32], 4, 64) == [4, 8, 16, 32, 64]
    assert octaves([16, 16, 16], 8, 128) == [16, 32, 64, 128]
    assert octaves([2, 4], 8, 16) == [4, 8, 16]


@pytest.mark.parametrize("extra", ["pool", "conv"])
def test_a_pyramid_of_own_and_appended_levels(extra):
    pyramid = FeaturePyramid(
        channels=[4, 6, 8], strides=[4, 8, 8], levels=[8, 16, 32], out_channels=5, extra=extra
    )
    features = [torch.randn(1, c, 64 // s, 64 // s) for c, s in ((4, 4), (6, 8), (8, 8))]
    assert [tuple(m.shape) for m in pyramid(features)] == [(1, 5, 8, 8), (1, 5, 4, 4), (1, 5, 2, 2)]
    assert pyramid.indices == [2]


@pytest.mark.parametrize("levels", [[2, 4], [8, 32], [4, 64], [32]])
def test_levels_out_of_reach_are_refused(levels):
    with pytest.raises(ValueError, match=r"model\.levels=.* maps of stride \[4, 8, 16\]"):
        FeaturePyramid(channels=[1, 1, 1], strides=[4, 8, 16], levels=levels, out_channels=2, extra="pool")
