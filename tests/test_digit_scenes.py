import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from sklearn.datasets import load_digits, load_sample_images

from paribus.data import digit_scenes
from paribus.data.digit_scenes import SPLITS, DigitScenes

LENGTHS = {"train": 40, "val": 12, "test": 12}


def scenes(target, **changes):
    return DigitScenes(**({"target": target, "size": 64, "lengths": LENGTHS} | changes))


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
    return np.array_equal(a, b)


def test_digits_and_photographs_are_those_of_scikit_learn():
    digits, labels = load_digits(return_X_y=True)
    ink, ours = digit_scenes._digits()
    assert np.array_equal(ours, labels)
    # Magnified four times with an edge put on it, a digit's ink still lies where the original's does.
    margin = digit_scenes.MARGIN
    small = ink[:, margin:-margin, margin:-margin].reshape(-1, 8, 4, 8, 4).mean((2, 4))
    assert np.corrcoef(small.ravel(), digits.ravel())[0, 1] > 0.93
    for number, photograph in enumerate(load_sample_images().images):
        bands = np.array_split(photograph, digit_scenes.ROWS)
        tiles = [tile for band in bands for tile in np.array_split(band, digit_scenes.COLUMNS, axis=1)]
        mine = [
            t
            for split in SPLITS
            for t in digit_scenes._tiles_of(split)[number * (12 if split == "train" else 4) :]
        ]
        # Two JPEG decoders may differ by a little.
        for tile in tiles:
            near = [t for t in mine if t.shape == tile.shape and np.abs(t.astype(int) - tile).max() <= 8]
            assert near


def test_splits_share_no_digit_and_no_part_of_a_photograph():
    members = [digit_scenes._digits_of(split) for split in SPLITS]
    assert sorted(np.concatenate(members)) == list(range(1797))
    labels = digit_scenes._digits()[1]
    for share, part in zip(digit_scenes.SHARES, members, strict=True):
        counts = np.bincount(labels[part]) / np.bincount(labels)
        assert np.abs(counts - share).max() < 0.005  # stratified
    pixels = [
        sum(tile.shape[0] * tile.shape[1] for tile in digit_scenes._tiles_of(split)) for split in SPLITS
    ]
    assert sum(pixels) == 2 * 427 * 640  # every pixel once
    assert min(pixels) > 0.19 * sum(pixels)
    contents = [{tile.tobytes() for tile in digit_scenes._tiles_of(split)} for split in SPLITS]
    assert [len(c) for c in contents] == [24, 8, 8]
    assert len(set.union(*contents)) == 40


@pytest.mark.parametrize("target", ["label", "labels", "mask", "boxes"])
def test_a_scene_depends_on_seed_split_and_index_only(target):
    forwards = [scenes(target).split("val")[i] for i in range(6)]
    np.random.seed(5)
    later = scenes(target, lengths=LENGTHS | {"val": 100}).split("val")
    for i in reversed(range(6)):
        assert np.array_equal(later[i].image, forwards[i].image)
        assert equal(later[i].target, forwards[i].target)
        assert later[i].id == forwards[i].id == f"val/{i:06d}"
    for other in (scenes(target, seed=1).split("val")[0], scenes(target).split("test")[0], forwards[1]):
        assert not np.array_equal(other.image, forwards[0].image)


def test_another_process_makes_the_same_scene():
    code = (
        "import sys, zlib; from paribus.data.digit_scenes import DigitScenes;"
        "s = DigitScenes(target='mask', size=(48, 64)).split('test')[7];"
        "print(zlib.crc32(s.image.tobytes()), zlib.crc32(s.target.tobytes()), 'sklearn' in sys.modules)"
    )
    sample = DigitScenes(target="mask", size=(48, 64)).split("test")[7]
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert out == [str(zlib.crc32(sample.image.tobytes())), str(zlib.crc32(sample.target.tobytes())), "False"]


def test_shapes_and_types_for_every_target():
    for target in ("label", "labels", "mask", "boxes"):
        sample = scenes(target, size=[48, 64]).split("train")[0]
        assert sample.image.shape == (48, 64, 3)
        assert sample.image.dtype == np.uint8
    assert scenes("mask").classes == ("background", *"0123456789")
    assert len(scenes("mask").palette) == 11 == len(set(scenes("mask").palette))
    assert (
        scenes("label").classes == scenes("labels").classes == scenes("boxes").classes == tuple("0123456789")
    )
    labels = [s.target for s in (scenes("label").split("train")[i] for i in range(40))]
    assert all(type(label) is int for label in labels)
    assert set(labels) == set(range(10))


def test_the_targets_describe_the_same_scene():
    for index in range(12):
        mask = scenes("mask").split("test")[index]
        boxes = scenes("boxes").split("test")[index]
        labels = scenes("labels").split("test")[index]
        assert np.array_equal(mask.image, boxes.image)
        assert np.array_equal(mask.image, labels.image)
        painted = np.zeros((64, 64), np.uint8)
        for label, instance in zip(boxes.target["labels"], boxes.target["masks"], strict=True):
            assert not painted[instance > 0].any()  # a pixel is one digit's
            painted[instance > 0] = label + 1
        assert np.array_equal(painted, mask.target)
        assert set(np.flatnonzero(labels.target)) == set(boxes.target["labels"])
        assert labels.target.dtype == np.float32


def test_boxes_are_tight_around_what_one_sees():
    reader = scenes("boxes", digits=(0, 6))
    for index in range(40):
        target = reader.split("train")[index].target
        assert target["boxes"].dtype == np.float32
        assert target["labels"].dtype == np.int64
        assert target["boxes"].shape == (len(target["labels"]), 4)
        assert target["masks"].shape == (len(target["labels"]), 64, 64)
        for (x1, y1, x2, y2), mask in zip(target["boxes"], target["masks"], strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert (x1, y1, x2, y2) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_a_scene_without_digits_has_empty_boxes_of_the_right_shape():
    target = scenes("boxes", digits=(0, 0)).split("train")[0].target
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 64, 64)
    assert scenes("mask", digits=(0, 0)).split("train")[0].target.max() == 0


@pytest.mark.parametrize("overlap", [0.0, 0.3])
def test_later_digits_hide_no_more_than_allowed(overlap):
    # The scene of n digits is the scene of n + 1 without the last, which nothing hides.
    kinds = [scenes("boxes", digits=(n, n), scale=(0.35, 0.6), overlap=overlap) for n in range(1, 7)]
    least, crowded = 1.0, 0
    for index in range(12):
        steps = [kind.split("train")[index].target["masks"] for kind in kinds]
        final = steps[-1]
        crowded += len(final) < 6  # what finds no place is left out
        for masks in steps:
            whole, seen = masks[-1].sum(), final[len(masks) - 1].sum()
            assert seen >= (1 - overlap) * whole
            least = min(least, seen / whole)
    assert crowded or overlap
    assert least == 1.0 if overlap == 0 else least < 0.9


@pytest.mark.parametrize("size", [32, 96])
def test_a_digit_differs_from_what_is_behind_it(size):
    least = 0.3
    reader = DigitScenes(target="mask", size=size, digits=(1, 1), contrast=(least, 0.5), clutter=0, noise=0.0)
    empty = DigitScenes(target="mask", size=size, digits=(0, 0), contrast=(least, 0.5), clutter=0, noise=0.0)
    enough = 0
    for index in range(40):
        # The same draws up to the digit: this is the same photograph without it.
        drawn, behind = reader.split("train")[index], empty.split("train")[index]
        inside = drawn.target > 0
        difference = np.abs(drawn.image.astype(float) - behind.image)[inside] @ digit_scenes.LUMA / 255
        enough += np.median(difference) > 0.75 * least
    assert enough >= 38


def test_scenes_are_kept_within_the_limit():
    split = scenes("label", size=32).split("train")
    assert split[3] is split[3]
    split = scenes("label", size=32, remember=1).split("train")
    first, second = split[0], split[1]
    assert split[0] is first
    assert split[1] is not second
    assert np.array_equal(split[1].image, second.image)


def test_the_smallest_digits_have_ink():
    split = scenes("boxes", size=16, scale=(0.375, 0.375), digits=(1, 1), rotation=45.0).split("train")
    assert all(split[i].target["masks"].any() for i in range(40))


def test_a_split_leaves_out_what_it_is_told_to():
    split = scenes("label").split("val")
    fewer = split.without({0, 2})
    assert len(fewer) == 10
    assert [sample.id for sample in (fewer[0], fewer[1])] == ["val/000001", "val/000003"]
    assert fewer.without({0})[0].id == "val/000003"
    assert split.problems() == []
    with pytest.raises(IndexError):
        split[12]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "label", "digits": (1, 2)}, "one digit"),
        ({"target": "keypoints"}, "label, labels, mask, boxes"),
        ({"target": "mask", "size": (8, 64)}, "16 pixels"),
        ({"target": "mask", "lengths": {"train": 10}}, "train, val and test"),
        ({"target": "mask", "lengths": {"train": 10, "val": 0, "test": 1}}, "one scene"),
        ({"target": "mask", "contrast": (0.6, 0.8)}, "contrast"),
        ({"target": "mask", "scale": (0.5, 1.2)}, "scale"),
        ({"target": "mask", "scale": (0.1, 0.5), "size": 40}, "6 pixels"),
        ({"target": "mask", "digits": (3, 2)}, "digits"),
        ({"target": "mask", "seed": -1}, "seed"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DigitScenes(**arguments)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="train, val, test"):
        scenes("label").split("validation")


def test_the_yaml_file_states_the_set_s_mean_and_std():
    config = OmegaConf.load(Path(__file__).parents[1] / "conf" / "data" / "digit_scenes.yaml")
    root = OmegaConf.create({"data": config, "task": {"target": "label"}})
    arguments = OmegaConf.to_container(root.data.reader, resolve=True)
    assert arguments.pop("_target_") == "paribus.data.digit_scenes.DigitScenes"
    split = DigitScenes(**arguments).split("train")
    images = np.stack([split[i].image for i in range(1500)]) / 255
    assert np.allclose(images.mean((0, 1, 2)), config.mean, atol=0.01)
    assert np.allclose(images.std((0, 1, 2)), config.std, atol=0.01)
