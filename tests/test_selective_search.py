"""Selective search: its grouping equals the paper's algorithm done naively, and its boxes are boxes."""

import itertools

import cv2
import numpy as np
import pytest
from skimage.segmentation import felzenszwalb

from paribus.data import selective_search as module
from paribus.data.selective_search import STRATEGIES, selective_search
from small_data import scene


def noise(height=72, width=96, seed=0):
    """Blurred noise: many segments, no two alike."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.GaussianBlur(image, (0, 0), 1.5)


def ious(a, b):
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = (high - low).clip(0).prod(2)
    areas = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    return inside / (areas[0][:, None] + areas[1][None] - inside)


# --- grouping --------------------------------------------------------------------------------------


def histogram(bins, inside, size):
    """Of the pixels `inside` of each channel, in a row, of sum 1."""
    counts = [np.bincount(bins[..., c][inside], minlength=size) for c in range(bins.shape[-1])]
    return np.concatenate(counts) / np.concatenate(counts).sum()


def box(inside):
    rows, columns = np.nonzero(inside)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def touch(a, b):
    return bool((cv2.dilate(a.astype(np.uint8), np.ones((3, 3), np.uint8)) & b).any())


def grouped_naively(segments, colour, texture, measure):
    """Equations 2 to 6 and algorithm 1, on masks of pixels, everything anew for every pair."""
    area = segments.size

    def similarity(a, b):
        both, found = a | b, 0.0
        if "C" in measure:
            found += np.minimum(histogram(colour, a, 25), histogram(colour, b, 25)).sum()
        if "T" in measure:
            found += np.minimum(histogram(texture, a, 10), histogram(texture, b, 10)).sum()
        if "S" in measure:
            found += 1 - (a.sum() + b.sum()) / area
        if "F" in measure:
            x1, y1, x2, y2 = box(both)
            found += 1 - ((x2 - x1) * (y2 - y1) - a.sum() - b.sum()) / area
        return found

    regions = [segments == i for i in range(segments.max() + 1)]
    boxes = [box(r) for r in regions]
    known = {
        (i, j): similarity(regions[i], regions[j])
        for i, j in itertools.combinations(range(len(regions)), 2)
        if touch(regions[i], regions[j])
    }
    while known:
        i, j = min(known, key=lambda pair: (-known[pair], pair))
        regions.append(regions[i] | regions[j])
        boxes.append(box(regions[-1]))
        new = len(regions) - 1
        around = {k for pair in known if {i, j} & set(pair) for k in pair} - {i, j}
        known = {pair: s for pair, s in known.items() if not {i, j} & set(pair)}
        known |= {(k, new): similarity(regions[k], regions[new]) for k in around}
    return boxes


@pytest.mark.parametrize("measure", ["CTSF", "TSF", "F", "S"])
def test_grouping_equals_the_algorithm_done_naively(measure):
    image = noise(40, 56)
    colours = module.SPACES["lab"](image)
    bins = module._colour_bins(colours), module._texture_bins(colours)
    segments = felzenszwalb(colours, scale=10, sigma=0.3, min_size=20, channel_axis=-1)
    found = module._grouped(module._regions(segments, *bins), measure)
    count = segments.max() + 1
    assert count > 20
    assert len(found) == 2 * count - 1
    assert found.tolist() == grouped_naively(segments, *bins, measure)


def test_histograms_count_pixels():
    segments = np.array([[0, 0, 1], [0, 1, 1]])
    colours = np.array([[[0], [0], [255]], [[130], [255], [10]]], np.uint8)
    table = module._histograms(segments, module._colour_bins(colours), 25, 2)
    assert table.shape == (2, 25)
    assert table[0, [0, 12]].tolist() == pytest.approx([2 / 3, 1 / 3])  # 130 * 25 / 256 is 12.7
    assert table[1, [0, 24]].tolist() == pytest.approx([1 / 3, 2 / 3])


def test_texture_tells_directions():
    """Of an edge from dark to bright, from the left to the right, the derivative is largest that way."""
    ramp = np.repeat(np.linspace(0, 250, 32)[None], 32, axis=0).astype(np.uint8)[..., None]
    bins = module._texture_bins(ramp)[16, 16]
    assert bins.shape == (8,)
    assert bins[0] == 9
    assert bins[1] == bins[7] == 7  # cos 45 degrees of ten bins
    assert bins[[2, 3, 4, 5, 6]].tolist() == [0] * 5


def test_strategies_are_those_of_the_paper():
    counts = {name: len(s.spaces) * len(s.measures) * len(s.scales) for name, s in STRATEGIES.items()}
    assert counts == {"single": 1, "fast": 8, "quality": 80}


def test_every_colour_space_fills_a_byte():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for name, space in module.SPACES.items():
        colours = space(image)
        assert colours.dtype == np.uint8, name
        assert colours.shape[:2] == (64, 64)
        assert (colours.reshape(-1, colours.shape[-1]).max(0) > 180).all(), name


def test_normalized_red_and_green():
    assert module.SPACES["rgi"](np.array([[[200, 100, 50]]], np.uint8)).tolist() == [[[146, 73, 117]]]


# --- boxes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["single", "fast", "quality"])
def test_boxes_lie_in_the_image_and_none_comes_twice(strategy):
    found = selective_search(noise(), strategy=strategy, least=5)
    assert found.dtype == np.float32
    assert found.shape[1] == 4
    assert len(np.unique(found, axis=0)) == len(found) > 5
    assert (found[:, 2:] - found[:, :2] >= 5).all()
    assert (found >= 0).all()
    assert (found[:, [0, 2]] <= 96).all()
    assert (found[:, [1, 3]] <= 72).all()
    assert [0, 0, 96, 72] in found.tolist()


def test_what_is_there_is_found():
    for i in range(1, 6, 3):
        image, objects = scene(i, ("a", "b", "c"), (96, 128))
        found = selective_search(image)
        assert (ious(found, np.array([b for _, b in objects], float)).max(0) > 0.85).all()


def test_the_seed_orders_and_does_not_choose():
    image = noise()
    first, again, other = (selective_search(image, seed=seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
    assert sorted(first.tolist()) == sorted(other.tolist())


def test_fewer_are_the_first():
    assert selective_search(noise(), most=7).tolist() == selective_search(noise())[:7].tolist()


def test_large_regions_come_first_on_the_whole():
    """A place in the hierarchy times a random number: the top tends to the front (section 4)."""
    found = selective_search(noise(120, 160))
    areas = (found[:, 2:] - found[:, :2]).prod(1)
    third = len(found) // 3
    assert areas[:third].mean() > 2 * areas[-third:].mean()


def test_a_large_image_is_searched_as_a_smaller_one():
    small = noise(48, 64)
    large = np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)
    found = selective_search(large, side=64)
    assert found.tolist() == (4 * selective_search(small, side=64)).tolist()
    assert found.tolist() != selective_search(large, side=None).tolist()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (33, 1), (2, 3), (32, 32)])
def test_an_image_of_one_colour_is_one_box(shape):
    image = np.full((*shape, 3), 90, np.uint8)
    assert selective_search(image, strategy="quality").tolist() == [[0, 0, shape[1], shape[0]]]


def test_fine_segments_give_more_boxes():
    assert len(selective_search(noise(), smallest=5)) > len(selective_search(noise(), smallest=200))
