"""Windows on a grid, and proposals that came with the data."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from paribus.models.detection.proposer import Proposer, windows

IMAGES = torch.zeros(2, 3, 40, 60)


def test_windows_of_one_size():
    found = windows((32, 48), smallest=32, per_octave=1, ratios=(1.0,), step=0.25)
    assert found.tolist() == [[0, 0, 32, 32], [8, 0, 40, 32], [16, 0, 48, 32]]


def test_windows_reach_both_borders_in_steps_that_fit():
    found = windows((32, 50), smallest=32, per_octave=1, ratios=(1.0,), step=0.25)
    assert found[:, 0].tolist() == [0, 6, 12, 18]  # 18 pixels to go, of at most 8 each


def test_sizes_double_and_large_ones_come_first():
    found = windows((64, 64), smallest=16, per_octave=2, ratios=(1.0,), step=0.5)
    sides = found[:, 2] - found[:, 0]
    assert sorted({round(s, 3) for s in sides.tolist()}) == [
        round(16 * 2 ** (k / 2), 3) for k in range(5)
    ]  # up to the image itself
    assert found[0].tolist() == [0, 0, 64, 64]
    assert (sides.diff() < 1e-3).all()
    assert (sides < 16.1).sum() == 7 * 7  # every 8 pixels


def test_ratios_keep_the_area():
    found = windows((64, 64), smallest=16, per_octave=1, ratios=(0.5, 2.0), step=0.5)
    height, width = found[:, 3] - found[:, 1], found[:, 2] - found[:, 0]
    assert {round(a) for a in (height * width).tolist()} == {256, 1024}  # of 64 none fits in
    assert {round(r, 2) for r in (height / width).tolist()} == {0.5, 2.0}


def test_usual_windows_overlap_every_box_by_half():
    found = windows((64, 96))
    generator = torch.Generator().manual_seed(0)
    sides = torch.exp(torch.empty(500, 1).uniform_(math.log(16), math.log(48), generator=generator))
    ratio = torch.exp(torch.empty(500, 1).uniform_(math.log(0.5), math.log(2), generator=generator)).sqrt()
    size = torch.cat([sides / ratio, sides * ratio], dim=1).clamp(max=60)
    corner = torch.rand(500, 2, generator=generator) * (torch.tensor([96.0, 64.0]) - size)
    best = box_iou(torch.cat([corner, corner + size], dim=1), found).amax(1)
    assert (best > 0.5).float().mean() > 0.99


@pytest.mark.parametrize(
    "keys",
    [
        {"smallest": 0.5},
        {"per_octave": 0},
        {"ratios": ()},
        {"ratios": (1.0, -1.0)},
        {"step": 0},
        {"step": 1.5},
    ],
)
def test_what_is_no_grid_is_refused(keys):
    with pytest.raises(ValueError, match=r"model\.window_smallest=.*window_step=.*a step above 0"):
        Proposer(proposals="grid", most=None, window=keys)


def test_a_grid_is_the_same_for_every_image_and_each_time():
    proposer = Proposer(proposals="grid", most=50, window={"smallest": 8.0})
    first, second = proposer(None, (40, 60), IMAGES)
    assert first is second
    assert len(first) == 50
    every = windows((40, 60), smallest=8.0)
    assert all((every == box).all(1).any() for box in first)
    assert len(torch.unique(first, dim=0)) == 50
    again = Proposer(proposals="grid", most=50, window={"smallest": 8.0})(None, (40, 60), IMAGES)
    assert torch.equal(first, again[0])
    assert proposer.search is None


def test_all_windows_of_a_grid_without_a_limit():
    proposer = Proposer(proposals="grid", most=None, window={"smallest": 8.0})
    assert torch.equal(proposer(None, (40, 60), IMAGES)[0], windows((40, 60), smallest=8.0))


def test_an_image_too_small_for_a_window_is_one_itself():
    proposer = Proposer(proposals="grid", most=10, window={"smallest": 16.0})
    assert proposer(None, (9, 12), IMAGES)[1].tolist() == [[0, 0, 12, 9]]


def test_given_ones_are_cut_and_the_first_taken():
    proposer = Proposer(proposals="selective_search", most=2)
    given = [
        torch.tensor([[5, 5, 90, 30], [-3, 0, 10, 10], [1, 1, 2, 2]], dtype=torch.float64),
        torch.zeros(0, 4),
    ]
    first, second = proposer(given, (40, 60), IMAGES)
    assert first.tolist() == [[5, 5, 60, 30], [0, 0, 10, 10]]
    assert first.dtype == torch.float32
    assert second.tolist() == [[0, 0, 60, 40]]


def test_the_data_is_told_how_to_search():
    proposer = Proposer(
        proposals="selective_search", most=9, strategy="quality", side=100, smallest=None, least=3.0
    )
    assert proposer.search == {"strategy": "quality", "side": 100, "smallest": None, "least": 3.0}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"proposals": "edges"}, r"model\.proposals=edges: grid or selective_search"),
        ({"most": 0}, r"model\.num_proposals=0: 1 or more"),
        ({"strategy": "best"}, r"model\.search_strategy=best: single, fast or quality"),
        ({"side": 0}, r"model\.search_side=0: pixels, 1 or more, or null"),
        ({"smallest": -1}, r"model\.search_smallest=-1: pixels"),
    ],
)
def test_refusals_name_the_key(keys, message):
    with pytest.raises(ValueError, match=message):
        Proposer(**{"proposals": "selective_search", "most": 10, **keys})


def test_proposals_that_did_not_come_are_missed():
    with pytest.raises(ValueError, match=r"the images come without: model\.proposals=grid"):
        Proposer(proposals="selective_search", most=10)(None, (40, 60), IMAGES)
