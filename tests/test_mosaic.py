"""Four samples in one: objects stay where their pixels are, and which four is a function of seed, epoch and index."""

import pickle

import numpy as np
import pytest
import torch

from command_line import SMALL
from composing import composed
from paribus.data.batches import Samples
from paribus.data.digit_scenes import DigitScenes
from paribus.data.module import DataModule
from paribus.data.mosaic import mosaic
from paribus.data.samples import Sample
from paribus.data.transforms import Transform
from paribus.results import Run, curves
from paribus.tasks.base import Task
from paribus.train import run
from test_train import TASKS

SIZE = (40, 60)
CORNERS = [(10, 20, 50, 30), (0, 0, 20, 16), (30, 4, 60, 40), (6, 6, 16, 16)]


class Window:
    """In the place of a generator: the window's sides relative to the image's, and its place."""

    def __init__(self, wider, top=0, left=0):
        self.wider, self.places = wider, [top, left]

    def uniform(self, least, most):
        return self.wider

    def integers(self, most, endpoint):
        place = self.places.pop(0)
        assert 0 <= place <= most
        return place


def one(i: int, corners=None) -> Sample:
    """A dark image with a rectangle of gray 100 + i."""
    x1, y1, x2, y2 = CORNERS[i]
    boxes = np.array(CORNERS[i : i + 1] if corners is None else corners, np.float32).reshape(-1, 4)
    image, masks = np.full((*SIZE, 3), i, np.uint8), np.zeros((len(boxes), *SIZE), np.uint8)
    if len(boxes):
        image[y1:y2, x1:x2] = 100 + i
        masks[0, y1:y2, x1:x2] = 1
    target = {
        "boxes": boxes,
        "labels": np.full(len(boxes), i, np.int64),
        "masks": masks,
        "iscrowd": np.full(len(boxes), i % 2, np.int64),
        "area": masks.sum((1, 2)).astype(np.float32) / 2,  # as of a shape that fills half of its box
    }
    return Sample(image, target, f"image {i}")


FOUR = [one(i) for i in range(4)]


def test_a_window_of_one_image_s_size_moves_everything_and_changes_nothing():
    out = mosaic(FOUR, SIZE, Window(1.0, top=15, left=20))
    canvas = np.concatenate(
        [np.concatenate([FOUR[a].image, FOUR[b].image], axis=1) for a, b in ((0, 1), (2, 3))], axis=0
    )
    np.testing.assert_array_equal(out.image, canvas[15:55, 20:80])
    assert out.id == "image 0"
    # The second's rectangle is cut at the right border, and all but a row of the second's is above the window.
    assert out.target["labels"].tolist() == [0, 2, 3]
    assert out.target["boxes"].tolist() == [[0, 5, 30, 15], [10, 29, 40, 40], [46, 31, 56, 40]]
    assert out.target["iscrowd"].tolist() == [0, 0, 1]
    assert out.target["area"].tolist() == [150, 165, 45]
    for mask, label in zip(out.target["masks"], out.target["labels"], strict=True):
        np.testing.assert_array_equal(mask == 1, out.image[..., 0] == 100 + label)


def test_the_widest_window_shows_all_four_at_half_their_size():
    out = mosaic(FOUR, SIZE, Window(2.0))
    assert out.image.shape == (*SIZE, 3)
    assert out.target["labels"].tolist() == [0, 1, 2, 3]
    shift = [(0, 0), (60, 0), (0, 40), (60, 40)]
    expected = [
        [(x1 + x) / 2, (y1 + y) / 2, (x2 + x) / 2, (y2 + y) / 2]
        for (x1, y1, x2, y2), (x, y) in zip(CORNERS, shift, strict=True)
    ]
    assert out.target["boxes"].tolist() == expected
    assert out.target["area"].tolist() == [f.target["area"][0] / 4 for f in FOUR]
    for mask, label in zip(out.target["masks"], out.target["labels"], strict=True):
        np.testing.assert_array_equal(mask == 1, out.image[..., 0] == 100 + label)


def test_boxes_lie_around_their_pixels_whatever_the_window():
    seen = set()
    for seed in range(60):
        out = mosaic(FOUR, SIZE, np.random.default_rng(seed))
        boxes, labels = out.target["boxes"], out.target["labels"]
        assert (boxes >= 0).all()
        assert (boxes <= [60, 40, 60, 40]).all()
        assert {len(value) for value in out.target.values()} == {len(boxes)}
        seen |= {int(label) for label in labels}
        for box, label, mask in zip(boxes, labels, out.target["masks"], strict=True):
            rows, columns = np.nonzero(mask)
            tight = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            np.testing.assert_allclose(box, tight, atol=1.0)  # masks take whole pixels
            x1, y1, x2, y2 = np.rint(box).astype(int)
            inner = out.image[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1, 0]
            assert np.abs(inner.astype(int) - (100 + label)).max(initial=0) <= 1
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize(("top", "left", "left_over"), [(36, 0, 1), (36, 1, 0), (37, 0, 0)])
def test_of_an_object_cut_to_less_than_a_tenth_nothing_is_left(top, left, left_over):
    whole = one(0, [(0, 0, 60, 40)])  # 4 rows of 60 are a tenth
    whole.target["masks"][:] = 1
    out = mosaic([whole, *(one(i, []) for i in (1, 2, 3))], SIZE, Window(1.0, top, left))
    assert out.target["boxes"].tolist() == [[0, 0, 60, 4]] * left_over
    assert {len(value) for value in out.target.values()} == {left_over}


def test_four_images_without_objects_make_one():
    out = mosaic([one(i, []) for i in range(4)], SIZE, np.random.default_rng(0))
    assert out.target["boxes"].shape == (0, 4)
    assert out.target["masks"].shape == (0, *SIZE)
    assert out.target["labels"].dtype == np.int64


def test_proposals_move_along_and_the_best_of_each_image_come_first():
    proposed = [np.array([CORNERS[i], (0, 0, 60, 40)], np.float32) for i in range(4)]
    samples = [f._replace(target=f.target | {"proposals": p}) for f, p in zip(FOUR, proposed, strict=True)]
    out = mosaic(samples, SIZE, Window(2.0)).target
    assert out["proposals"][:4].tolist() == out["boxes"].tolist()
    assert out["proposals"][4:].tolist() == [
        [0, 0, 30, 20],
        [30, 0, 60, 20],
        [0, 20, 30, 40],
        [30, 20, 60, 40],
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_a_mask_follows_its_pixels(dtype):
    samples = [Sample(f.image, f.image[..., 0].astype(dtype), f.id) for f in FOUR]
    out = mosaic(samples, SIZE, Window(1.0, top=15, left=20))
    np.testing.assert_array_equal(out.target, out.image[..., 0])
    for seed in range(20):
        out = mosaic(samples, SIZE, np.random.default_rng(seed))
        assert out.target.dtype == dtype
        assert out.target.shape == SIZE
        assert (np.abs(out.image[..., 0].astype(int) - out.target) <= 1).mean() > 0.85  # not at edges


def test_what_is_smaller_than_the_size_is_black_and_ignored():
    small = [Sample(f.image[:30, :50], np.zeros((30, 50), np.uint8), f.id) for f in FOUR]
    out = mosaic(small, SIZE, Window(2.0))
    assert set(np.unique(out.target)) == {0, 255}
    assert (out.target == 0).sum() == 4 * 15 * 25


# --- which four


class Numbers:
    """Image i is of gray i."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return one(0)._replace(image=np.full((*SIZE, 3), index, np.uint8), id=str(index))


def grays(samples: Samples, index: int, epoch: int) -> set[int]:
    return set(np.unique(samples[index, epoch].image).tolist())


def test_the_others_are_a_function_of_seed_epoch_and_index_among_the_members():
    members = np.array([3, 4, 5, 6, 11])
    transform = Transform(target="boxes", size=SIZE)
    samples = Samples(Numbers(), transform, 0, 1.0, members)
    twin = pickle.loads(pickle.dumps(samples))  # as in a worker
    found = []
    for epoch in range(8):
        for index in members.tolist():
            out = samples[index, epoch]
            assert out.id == str(index)
            np.testing.assert_array_equal(out.image, twin[index, epoch].image)
            np.testing.assert_array_equal(out.target["boxes"], twin[index, epoch].target["boxes"])
            found.append(out.image.tobytes())
            assert grays(samples, index, epoch) <= set(range(3, 12))  # between two images grays are mixed
    assert len(set(found)) == len(found)
    assert samples[3].id == "3"
    assert set(np.unique(samples[3].image)) == {3}  # without an epoch nothing is drawn


def test_the_probability_is_that_of_a_mosaic():
    transform = Transform(target="boxes", size=SIZE)
    samples = Samples(Numbers(), transform, 0, 0.3, np.arange(20))
    joined = [grays(samples, index, epoch) != {index} for index in range(20) for epoch in range(20)]
    assert 0.22 < np.mean(joined) < 0.38


def loaded(workers: int, target="boxes", **settings):
    reader = DigitScenes(target=target, size=48, lengths={"train": 12, "val": 2, "test": 2})
    data = DataModule(
        reader=reader,
        batch_size=4,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        size=(48, 48),
        num_workers=workers,
        **{"mosaic": 0.7, **settings},
    )
    data.open("train")
    return list(data.train_dataloader())


@pytest.mark.parametrize("target", ["boxes", "mask"])
def test_workers_change_nothing(target):
    flat = [pickle.dumps(loaded(workers, target), protocol=4) for workers in (0, 2)]
    first, second = (pickle.loads(content) for content in flat)
    for (images, targets, ids), (others, theirs, names) in zip(first, second, strict=True):
        assert torch.equal(images, others)
        assert ids == names
        if target == "mask":
            assert torch.equal(targets, theirs)
            continue
        for mine, other in zip(targets, theirs, strict=True):
            assert mine.keys() == other.keys()
            assert all(torch.equal(mine[key], other[key]) for key in mine)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mosaic": 1.5}, r"`data\.mosaic=1\.5`: a probability, from 0 to 1"),
        ({"size": None}, r"`data\.mosaic=0\.5` joins images of one size: data\.size=\[height,width\]"),
        ({"target": "label"}, r"`data\.mosaic=0\.5` is for boxes and masks, and here is `label`"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    reader = DigitScenes(target=settings.pop("target", "boxes"))
    common = {"batch_size": 4, "mean": [0.5] * 3, "std": [0.25] * 3, "size": (32, 32), "mosaic": 0.5}
    with pytest.raises(ValueError, match=message):
        DataModule(reader=reader, **{**common, **settings})


# --- through training, with multi-scale training beside it

DRAWN = ["data.reader.lengths={train: 24, val: 4, test: 4}", "data.batch_size=4"]
DRAWN += ["data.mosaic=0.6", "data.scales=[0.6, 1.5]", "augmentation=color", "trainer.log_every=1"]
DRAWN += [
    "trainer.checkpoint_every=2",
    "data.size=[64, 64]",
    "test=false",
]  # the effect of both is seen above and in test_scales.py


def found(folder) -> str:
    """The loss of every step, and at the end that of the validation images, to the last digit; NaN equals itself."""
    rows = curves(Run.read(folder))
    assert [step for step, *_ in rows["train/loss"]] == list(range(1, 13))
    assert [step for step, *_ in rows["val/loss"]] == [6, 12]
    return str(sorted(rows.items()))


@pytest.mark.parametrize("kind", [pytest.param("boxes", marks=pytest.mark.slow), "mask"])
def test_a_run_repeats_and_resumes_in_the_middle_of_an_epoch_bit_for_bit(tmp_path, monkeypatch, kind):
    common = [*SMALL, *TASKS[kind], *DRAWN]
    run(composed(*common), tmp_path / "whole", in_sweep=True)
    step = Task.training_step

    def interrupted(task, batch, index):
        if task.trainer.global_step == 9:
            raise KeyboardInterrupt
        return step(task, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "training_step", interrupted)
        with pytest.raises(SystemExit):
            run(composed(*common, "data.num_workers=2"), tmp_path / "broken", in_sweep=True)
    assert Run.read(tmp_path / "broken").status == "interrupted"
    run(composed(*common, "data.num_workers=2"), tmp_path / "broken", in_sweep=True)
    assert found(tmp_path / "broken") == found(tmp_path / "whole")
