"""What all detectors have in common. A new one is added by one line of DETECTORS."""

import pytest
import torch

from boxes import EMPTY, average_precision_50, given, learned, scenes
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.timm import Timm
from paribus.models.detection.fast_rcnn import FastRCNN
from paribus.models.detection.faster_rcnn import FasterRCNN
from paribus.models.detection.fcos import FCOS
from paribus.models.detection.mask_rcnn import MaskRCNN
from paribus.models.detection.rcnn import RCNN
from paribus.models.detection.retinanet import RetinaNet
from paribus.models.detection.sliding_window import SlidingWindow
from paribus.models.detection.ssd import SSD
from paribus.models.detection.yolo import YOLO
from paribus.models.detection.yolo_2015 import YOLO2015
from paribus.signatures import signature

BACKBONES = {
    "convnet": lambda: ConvNet(channels=[8, 12, 16]),
    "test_resnet": lambda: Timm(name="test_resnet"),
    "test_efficientnet": lambda: Timm(name="test_efficientnet", norm="group"),
    "test_convnext": lambda: Timm(name="test_convnext"),
    "test_vit": lambda: Timm(name="test_vit"),
    "swin": lambda: Timm(name="swin_tiny_patch4_window7_224"),
    "dilated": lambda: Timm(name="test_resnet", output_stride=8),
}
ONE_STAGE = {"classification", "box"}
TWO_STAGES = {"proposal_objectness", "proposal_box", "classification", "box"}
FEW = {"crop": 32, "box_batch": 4}  # as each box goes through the whole network
CROPS = {"crop": 16, "context": 1, "box_batch": 32}
SHALLOW = ("sliding_window", "rcnn")  # for crops of 16 pixels
# What makes it, its keys for small networks, those beside with which it learns in 80 steps, and its losses.
DETECTORS = {
    "retinanet": (
        RetinaNet,
        {"pyramid_channels": 16},
        {"pyramid_channels": 32, "levels": [4, 8, 16]},
        ONE_STAGE,
    ),
    "faster_rcnn": (
        FasterRCNN,
        {"pyramid_channels": 16, "box_channels": 32},
        {"pyramid_channels": 32, "levels": [4, 8, 16], "anchor_scale": 4.0, "box_channels": 64},
        TWO_STAGES,
    ),
    "mask_rcnn": (
        MaskRCNN,
        {"pyramid_channels": 16, "box_channels": 32, "mask_channels": 8},
        {"pyramid_channels": 32, "levels": [4, 8, 16], "anchor_scale": 4.0, "box_channels": 64},
        TWO_STAGES | {"mask"},
    ),
    "fcos": (
        FCOS,
        {"pyramid_channels": 16},
        {"pyramid_channels": 32, "levels": [4, 8, 16]},
        ONE_STAGE | {"centerness"},
    ),
    "sliding_window": (
        SlidingWindow,
        {**FEW, "window_smallest": 40.0, "windows_per_octave": 1, "window_step": 1.0},
        {
            **CROPS,
            "window_smallest": 12.0,
            "windows_per_octave": 2,
            "window_step": 0.45,
            "window_ratios": [0.7, 1.4],
        },
        {"classification"},
    ),
    "rcnn": (RCNN, {**FEW, "num_proposals": 8}, {**CROPS, "num_proposals": 1000}, ONE_STAGE),
    "fast_rcnn": (
        FastRCNN,
        {"pyramid_channels": 16, "box_channels": 32},
        {"pyramid_channels": 32, "levels": [4], "box_channels": 64},
        ONE_STAGE,
    ),
    "yolo": (
        YOLO,
        {"pyramid_channels": 16, "head_layers": 2},
        {"pyramid_channels": 32, "levels": [4, 8, 16]},
        ONE_STAGE | {"objectness"},
    ),
    "yolo_2015": (
        YOLO2015,
        {"head_channels": 16, "hidden": 32},
        {"head_channels": 32, "level": 8, "grid": 8, "head": "convolutional"},
        ONE_STAGE | {"objectness"},
    ),
    "ssd": (SSD, {"extra_channels": [16, 16]}, {"levels": [4, 8, 16], "extra_channels": [32]}, ONE_STAGE),
}


def make(kind, backbone, **more):
    torch.manual_seed(0)
    made, small, _, _ = DETECTORS[kind]
    return made(backbone=BACKBONES[backbone](), num_classes=3, **{**small, **more})


def parameters(made):
    """Those of its base class too, where it hands them on."""
    return signature(f"{made.__module__}.{made.__qualname__}").parameters


def has_neck(made):
    return "neck" in parameters(made)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("kind", DETECTORS)
def test_losses_gradients_and_detections(kind, backbone):
    model = make(kind, backbone)
    images, targets = scenes(2, size=128)
    images = images[..., :100, :110]
    targets = [{**t, "masks": t["masks"][..., :100, :110]} for t in targets]
    losses = model(images, targets, given(model, images))
    assert set(losses) == DETECTORS[kind][3]
    sum(losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    with torch.no_grad():
        found = model.eval()(images, None, given(model, images))
    assert len(found) == 2
    for f in found:
        assert {"boxes", "scores", "labels"} <= set(f)
        assert f["boxes"].shape == (len(f["scores"]), 4)
        assert f["labels"].dtype == torch.int64
        assert f["scores"].tolist() == sorted(f["scores"].tolist(), reverse=True)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "convnet"])
@pytest.mark.parametrize("kind", [kind for kind, (made, *_) in DETECTORS.items() if has_neck(made)])
def test_with_or_without_a_neck_every_parameter_learns(kind, backbone):
    for keys in (
        {"neck": "none"},
        {"neck": "fpn"},
        {"neck": "none", "levels": [16]},
        {"neck": "fpn", "levels": [8, 16]},
    ):
        if not set(keys.get("levels", [])) <= set(BACKBONES[backbone]().strides):
            continue
        model = make(kind, backbone, **keys)
        images, targets = scenes(2)
        sum(model(images, targets, given(model, images)).values()).backward()
        assert not [
            name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
        ]
        with torch.no_grad():
            assert len(model.eval()(images, None, given(model, images))) == 2


@pytest.mark.parametrize("kind", DETECTORS)
def test_numbers_of_nothing_are_refused(kind):
    known = parameters(DETECTORS[kind][0])
    keys = {
        "detections_per_img",
        "candidates",
        "pyramid_channels",
        "box_channels",
        "mask_channels",
        "num_proposals",
    }
    keys = {key for key in keys & set(known) if known[key].annotation == "int"}
    assert keys
    for key in keys:
        with pytest.raises(ValueError, match=rf"model\.{key}=0: 1 or more"):
            make(kind, "convnet", **{key: 0})


@pytest.mark.parametrize("kind", DETECTORS)
def test_images_without_boxes(kind):
    model = make(kind, "convnet")
    images, targets = scenes(2)
    for batch in ([EMPTY, EMPTY], [targets[0], EMPTY]):
        model.zero_grad()
        losses = model(images, batch, given(model, images))
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        assert not [name for name, grad in grads.items() if grad is None or not grad.isfinite().all()]


@pytest.mark.parametrize("kind", DETECTORS)
def test_judged_gives_each_images_losses_and_what_evaluation_finds(kind):
    model = make(kind, "test_resnet", score_thresh=0.001).eval()
    images, targets = scenes(3)
    targets[1] = EMPTY
    proposals = given(model, images)
    before = torch.get_rng_state()
    with torch.no_grad():
        found, losses = model.judged(images, targets, proposals)
        plain = model(images, None, proposals)
        alone = [
            model.judged(images[i : i + 1], targets[i : i + 1], proposals and proposals[i : i + 1])[1][0]
            for i in range(3)
        ]
    assert torch.equal(torch.get_rng_state(), before)
    assert [set(one) for one in losses] == [DETECTORS[kind][3]] * 3
    for one, same in zip(losses, alone, strict=True):
        for name, loss in one.items():
            assert loss.isfinite()
            assert torch.allclose(loss, same[name], rtol=1e-4, atol=1e-6), name
    for a, b in zip(found, plain, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in b)


def learner(kind):
    torch.manual_seed(0)
    made, small, more, _ = DETECTORS[kind]
    backbone = ConvNet(channels=[16, 32, 32, 32][: 3 if kind in SHALLOW else 4], norm="group")
    return made(backbone=backbone, num_classes=3, **{**small, **more})


@pytest.mark.parametrize("kind", [kind for kind in DETECTORS if kind != "mask_rcnn"])  # in its own file
def test_it_learns_from_scratch(kind):
    model = learner(kind)
    images, targets = scenes(32)
    assert average_precision_50(model, images, targets) < 0.02
    for _ in range(4):
        learned(model, 20)
        if average_precision_50(model, images, targets) > 0.2:
            break
    assert average_precision_50(model, images, targets) > 0.2
    with torch.no_grad():
        found = model(images, None, given(model, images))
    assert {int(label) for f in found for label in f["labels"]} <= {0, 1, 2}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DETECTORS)
def test_it_learns_eight_images_by_heart(kind):
    model = learner(kind)
    images, targets = scenes(8)
    for _ in range(6):
        learned(model, 50, batch=lambda: (images, targets))
        if average_precision_50(model, images, targets) > 0.95:
            break
    assert average_precision_50(model, images, targets) > 0.95


@pytest.mark.parametrize("kind", DETECTORS)
def test_boxes_stay_in_an_image_whose_size_is_padded_inside(kind):
    model = make(kind, "test_resnet", score_thresh=0.0).eval()
    images = scenes(2)[0][..., :49, :61]
    with torch.no_grad():
        for found in model(images, None, given(model, images)):
            assert len(found["boxes"]) > 0
            assert found["boxes"].min() >= 0
            assert found["boxes"][:, 0::2].max() <= 61
            assert found["boxes"][:, 1::2].max() <= 49
            assert (found["boxes"][:, 2:] > found["boxes"][:, :2]).all()


@pytest.mark.parametrize("kind", DETECTORS)
def test_boxes_are_float32_under_autocast(kind):
    model = make(kind, "convnet", score_thresh=0.0)
    images, targets = scenes(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images, targets, given(model, images))
        found = model.eval()(images, None, given(model, images))
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(f["boxes"].dtype == torch.float32 for f in found)
