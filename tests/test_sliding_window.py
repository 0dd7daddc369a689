"""A sliding window: what is found are windows, and all of them were asked."""

import inspect

import torch

from boxes import scenes
from paribus.models.backbones.convnet import ConvNet
from paribus.models.detection.proposer import windows
from paribus.models.detection.rcnn import RCNN
from paribus.models.detection.sliding_window import SlidingWindow

GRID = {"smallest": 16.0, "per_octave": 1, "ratios": (1.0,), "step": 0.5}


def sliding(**more):
    torch.manual_seed(0)
    keys = {"window_smallest": 16.0, "windows_per_octave": 1, "window_ratios": [1.0], "window_step": 0.5}
    backbone = ConvNet(channels=[8, 8], norm="group")
    return SlidingWindow(backbone=backbone, num_classes=3, crop=16, context=1, **keys, **more)


def test_every_window_is_asked_and_what_is_found_is_one():
    model = sliding(score_thresh=0.0, nms_thresh=1.0, detections_per_img=10_000).eval()
    every = windows((64, 64), **GRID)
    with torch.no_grad():
        (found,) = model(scenes(1)[0])
    assert len(found["boxes"]) == 3 * len(every) == 3 * (49 + 9 + 1)
    assert all((every - box).abs().amax(1).min() < 1e-4 for box in found["boxes"])


def test_overlapping_answers_are_suppressed():
    from torchvision.ops import box_iou

    model = sliding(score_thresh=0.0).eval()
    with torch.no_grad():
        (found,) = model(scenes(1)[0])
    overlap = box_iou(found["boxes"], found["boxes"]).fill_diagonal_(0)
    same = found["labels"][:, None] == found["labels"]
    assert (overlap * same).max() <= 0.3 + 1e-6


def test_it_learns_to_classify_and_nothing_else():
    model = sliding()
    images, targets = scenes(2)
    losses = model(images, targets)
    assert set(losses) == {"classification"}
    assert not any("bbox" in name for name, _ in model.named_parameters())
    assert model.search is None


def test_backgrounds_are_drawn_anew_in_each_step():
    model = sliding(box_batch=16)
    images, targets = scenes(1)
    torch.manual_seed(0)
    proposals = model.see(images).proposals
    first, second = (model.box_head.sample(proposals, targets) for _ in range(2))
    assert len(first.boxes[0]) == 16
    assert not torch.equal(first.boxes[0], second.boxes[0])
    torch.manual_seed(0)
    model.see(images)
    assert torch.equal(model.box_head.sample(proposals, targets).boxes[0], first.boxes[0])


def test_its_keys_are_those_of_rcnn_without_the_search():
    own, other = (set(inspect.signature(made).parameters) for made in (SlidingWindow, RCNN))
    gone = {"proposals", "num_proposals", "box_regression"} | {k for k in other if k.startswith("search_")}
    assert other - own == gone
    assert own <= other
