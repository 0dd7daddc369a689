"""A crop at a random scale equals the same crop of the whole image resized; masks and boxes go with it."""

import albumentations as A
import cv2
import numpy as np
import pytest

from command_line import SMALL, script, succeeded
from paribus.data.samples import IGNORE, Sample
from paribus.data.scaled_crop import ScaledCrop
from paribus.data.transforms import Transform

SIZE = (48, 64)


def picture(height: int = 96, width: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image and a mask of four quarters."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * y // height, 255 * x // width, 255 * (y + x) // (height + width)], -1).astype(
        np.uint8
    )
    return image, (2 * (y >= height // 2) + (x >= width // 2)).astype(np.uint8)


def windows(scale: tuple[float, float], image: np.ndarray, number: int = 50) -> list:
    crop = ScaledCrop(size=SIZE, scale=scale)
    crop.set_random_seed(0)
    return [crop.get_params_dependent_on_data({"shape": image.shape}, {})["window"] for _ in range(number)]


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7, 3.0])
def test_a_crop_is_that_of_the_whole_image_resized(scale):
    image, mask = picture()
    factor = scale * min(SIZE[0] / 96, SIZE[1] / 160)
    whole = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    for window in windows((scale, scale), image):
        crop = ScaledCrop(size=SIZE, scale=(scale, scale))
        out, labels = crop.apply(image, window), crop.apply_to_mask(mask, window)
        assert out.shape == (*SIZE, 3)
        assert labels.shape == SIZE
        (y0, _, top, bottom), (x0, _, left, right) = window
        y, x = round(y0 * factor), round(x0 * factor)
        same = whole[y : y + bottom - top, x : x + right - left].astype(int)
        found = out[top : top + same.shape[0], left : left + same.shape[1]].astype(int)
        assert (
            abs(found - same).mean() < 4
        )  # of 255; where a crop begins is rounded in the image's own pixels
        outside = np.ones(SIZE, bool)
        outside[top:bottom, left:right] = False
        assert not out[outside].any()
        assert (labels[outside] == IGNORE).all()
        assert (labels[~outside] < 4).all()


def test_scales_and_places_are_drawn_over_their_whole_range():
    image, _ = picture()
    drawn = windows((0.5, 2.0), image, 400)
    seen = np.array([[end - start, last - first] for _, (start, end, first, last) in drawn])
    factors = seen[:, 1] / seen[:, 0] / min(SIZE[0] / 96, SIZE[1] / 160)
    assert 0.5 <= factors.min() < 0.55
    assert 1.9 < factors.max() <= 2.05
    large = [y for y, _ in drawn if y[2:] == (0, SIZE[0]) and y[1] - y[0] < 70]
    assert min(start for start, *_ in large) <= 1
    assert max(end for _, end, *_ in large) >= 95


def test_a_box_goes_where_its_pixels_go():
    image = np.zeros((96, 160, 3), np.uint8)
    image[30:50, 40:90] = 255
    target = {"boxes": np.array([[40, 30, 90, 50]], np.float32), "labels": np.array([3])}
    change = Transform(target="boxes", size=SIZE, before_resize=[ScaledCrop(size=SIZE)])
    seen = 0
    for seed in range(60):
        out = change(Sample(image, target, "a"), seed)
        y, x = np.nonzero(out.image[..., 0] > 127)
        if not len(out.target["boxes"]):
            continue
        seen += 1
        pixels = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        assert abs(out.target["boxes"][0] - pixels).max() <= 1.5
        assert out.target["labels"] == [3]
    assert seen > 30


def test_one_seed_is_one_crop_and_others_are_others():
    image, mask = picture()
    change = Transform(
        target="mask",
        size=SIZE,
        before_resize=[ScaledCrop(size=SIZE)],
        after_resize=[A.HorizontalFlip(p=0.5)],
    )
    once, again, other = (change(Sample(image, mask, "a"), seed) for seed in (1, 1, 2))
    assert np.array_equal(once.image, again.image)
    assert np.array_equal(once.target, again.target)
    assert not np.array_equal(once.image, other.image)


def test_scales_the_wrong_way_round_are_refused():
    with pytest.raises(
        ValueError, match=r"ScaledCrop: scale=\[2.0, 1.0\]: the least and the largest, above 0"
    ):
        ScaledCrop(size=SIZE, scale=(2, 1))


@pytest.mark.slow
def test_a_segmenter_trains_on_crops(tmp_path):
    scenes = [
        "experiment=digit_scenes_unet",
        "augmentation=scaled_crop",
        "trainer.max_epochs=1",
        "test=false",
    ]
    small = [*SMALL[:2], "data.reader.size=[48,48]", "data.size=[32,32]", "trainer.progress=false", "name=s"]
    done = succeeded(script("train", *scenes, *small, cwd=tmp_path))
    assert "runs" in done.stdout
