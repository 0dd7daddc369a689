import importlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset

from paribus.data.digit_scenes import DigitScenes
from paribus.data.samples import Sample
from paribus.data.transforms import Transform

# isort: split
import albumentations as A  # after paribus, which keeps it from asking for updates

AUGMENTATION = Path(__file__).parents[1] / "conf" / "augmentation"
TARGETS = ["label", "labels", "mask", "boxes"]


def built(name, size=(32, 32)):
    """The two lists of a YAML file, built without Hydra."""
    config = OmegaConf.create(
        {"data": {"size": list(size)}, "augmentation": OmegaConf.load(AUGMENTATION / f"{name}.yaml")}
    )
    lists = OmegaConf.to_container(config.augmentation, resolve=True)
    assert list(lists) == ["before_resize", "after_resize"]

    def build(node):
        node = dict(node)
        module, _, kind = node.pop("_target_").rpartition(".")
        return getattr(importlib.import_module(module), kind)(**node)

    return {key: [build(node) for node in nodes] for key, nodes in lists.items()}


def scene(target, index=0, size=32):
    return DigitScenes(target=target, size=size, scale=(0.5, 0.5) if target != "label" else None).split(
        "train"
    )[index]


def rectangles(corners, height=40, width=60):
    """An image in which rectangle i has the gray value 50 + i, its boxes and its masks."""
    image = np.zeros((height, width, 3), np.uint8)
    masks = np.zeros((len(corners), height, width), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(corners):
        image[y1:y2, x1:x2] = 50 + i
        masks[i, y1:y2, x1:x2] = 1
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    target = {
        "boxes": boxes,
        "labels": np.arange(len(corners), dtype=np.int64),
        "masks": masks,
        "iscrowd": np.arange(len(corners), dtype=np.int64) % 2,
        "area": area.astype(np.float32),
    }
    return Sample(image, target, "rectangles")


def tight(masks):
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return np.array(boxes, np.float32).reshape(-1, 4)


def same(a, b):
    if isinstance(a.target, dict):
        equal = a.target.keys() == b.target.keys() and all(
            np.array_equal(a.target[k], b.target[k]) for k in a.target
        )
    else:
        equal = np.array_equal(a.target, b.target)
    return equal and np.array_equal(a.image, b.image) and a.id == b.id


# --- the fit


@pytest.mark.parametrize("target", TARGETS)
def test_a_sample_of_the_right_size_is_not_touched(target):
    sample = scene(target)
    for fit in ("stretch", "crop", "pad"):
        assert Transform(target=target, size=(32, 32), fit=fit)(sample, 0) is sample
    assert Transform(target=target, size=None)(sample, 0) is sample


@pytest.mark.parametrize(
    ("fit", "box", "area"),
    [
        ("stretch", (5, 10, 25, 15), 100),  # 60 x 40 -> 30 x 20, x and y halved
        ("pad", (5, 10, 25, 15), 100),
        ("crop", (5, 10, 25, 15), 100),
    ],
)
def test_halving_halves_boxes_and_quarters_areas(fit, box, area):
    fitted = Transform(target="boxes", size=(20, 30), fit=fit)(rectangles([(10, 20, 50, 30)]), None)
    assert fitted.image.shape == (20, 30, 3)
    assert fitted.target["boxes"].tolist() == [list(box)]
    assert fitted.target["area"].tolist() == [area]
    assert np.array_equal(tight(fitted.target["masks"]), fitted.target["boxes"])
    assert np.array_equal(fitted.image[..., 0] == 50, fitted.target["masks"][0] == 1)


def test_stretch_changes_the_aspect():
    fitted = Transform(target="boxes", size=(80, 30))(rectangles([(10, 20, 50, 30)]), None)
    assert fitted.target["boxes"].tolist() == [[5, 40, 25, 60]]
    assert fitted.target["area"].tolist() == [400]


def test_pad_fills_the_right_and_the_bottom():
    sample = rectangles([(10, 20, 50, 30)])
    mask = np.full((40, 60), 3, np.int64)
    fitted = Transform(target="mask", size=(60, 60), fit="pad")(Sample(sample.image + 1, mask, ""), None)
    assert (fitted.target[:40] == 3).all()
    assert (fitted.target[40:] == 255).all()
    assert fitted.target.dtype == np.int64
    assert (fitted.image[40:] == 0).all()
    assert (fitted.image[:40] > 0).all()
    boxes = Transform(target="boxes", size=(60, 60), fit="pad")(sample, None).target
    assert boxes["boxes"].tolist() == [[10, 20, 50, 30]]
    assert boxes["masks"].shape == (1, 60, 60)
    assert boxes["masks"][0].sum() == 400


def test_crop_takes_the_centre_and_drops_what_is_outside():
    # 40 x 60 covers 40 x 40 as it is; ten columns go at each side.
    sample = rectangles([(0, 0, 9, 9), (5, 10, 25, 30), (20, 20, 30, 30)])
    fitted = Transform(target="boxes", size=(40, 40), fit="crop")(sample, None)
    assert np.array_equal(fitted.image, sample.image[:, 10:50])
    assert fitted.target["boxes"].tolist() == [[0, 10, 15, 30], [10, 20, 20, 30]]
    assert fitted.target["labels"].tolist() == [1, 2]
    assert fitted.target["iscrowd"].tolist() == [1, 0]
    assert fitted.target["area"].tolist() == [300, 100]
    assert np.array_equal(fitted.target["masks"], sample.target["masks"][1:, :, 10:50])


def test_a_tiny_box_stays_to_be_found_and_judged_when_the_image_shrinks():
    fitted = Transform(target="boxes", size=(10, 15))(rectangles([(9, 9, 11, 11)]), None)
    assert fitted.target["boxes"].tolist() == [[2.25, 2.25, 2.75, 2.75]]
    assert fitted.target["area"].tolist() == [0.25]


def test_masks_take_the_nearest_pixel_s_class():
    mask = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6)
    sample = Sample(np.zeros((4, 6, 3), np.uint8), mask, "")
    larger = Transform(target="mask", size=(12, 18))(sample, None).target
    assert np.array_equal(larger, mask.repeat(3, 0).repeat(3, 1))
    odd = np.zeros((12, 18, 3), np.uint8)
    assert np.array_equal(Transform(target="mask", size=(4, 6))(Sample(odd, larger, ""), None).target, mask)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_no_boxes_stay_no_boxes(fit):
    lists = built("geometric")
    for seed in (None, 3):
        fitted = Transform(target="boxes", size=(32, 32), fit=fit, **lists)(rectangles([]), seed)
        assert fitted.target["boxes"].shape == (0, 4)
        assert fitted.target["masks"].shape == (0, 32, 32)
        assert fitted.target["labels"].shape == (0,)
        assert fitted.target["labels"].dtype == np.int64
        assert fitted.target["area"].dtype == np.float32


# --- back to the original image


@pytest.mark.parametrize(
    ("fit", "size"), [("stretch", (20, 15)), ("pad", (100, 90)), ("pad", (30, 90)), (None, None)]
)
def test_predictions_return_to_the_original_image(fit, size):
    sample = rectangles([(10, 20, 50, 30), (0, 0, 10, 20)], height=40, width=60)
    transform = Transform(target="boxes", size=size, fit=fit or "stretch")
    fitted = transform(sample, None)
    back = transform.restore_boxes(fitted.target["boxes"], (40, 60))
    assert np.allclose(back, sample.target["boxes"], atol=1e-4)
    mask = np.kron(np.arange(8).reshape(2, 4), np.ones((20, 15))).astype(np.uint8)
    transform = Transform(target="mask", size=size, fit=fit or "stretch")
    fitted = transform(Sample(sample.image, mask, ""), None)
    restored = transform.restore_logits(logits(fitted.target), (40, 60))
    assert restored.shape == (1, 8, 40, 60)
    assert (restored.argmax(1)[0].numpy() == mask).mean() > 0.9
    if size in (None, (100, 90)):
        assert np.array_equal(restored.argmax(1)[0], mask)
    assert not transform.unseen((40, 60)).any()


def logits(mask):
    """Of a network that is sure: ``[1, 8, H, W]``; where the mask is 255, of none."""
    return torch.from_numpy(np.stack([mask == i for i in range(8)])).float()[None]


def test_logits_are_enlarged_as_they_are_and_decided_later():
    """A border between two pixels lies where their logits meet, not where a pixel ends."""
    transform = Transform(target="mask", size=(1, 2))
    restored = transform.restore_logits(torch.tensor([[[[1.0, -3.0]], [[0.0, 0.0]]]]), (2, 8))
    by_hand = F.interpolate(torch.tensor([[[[1.0, -3.0]]]]), (2, 8), mode="bilinear")
    torch.testing.assert_close(restored[:, :1], by_hand)
    assert restored.argmax(1).tolist() == [[[0, 0, 0, 1, 1, 1, 1, 1]] * 2]  # steps of a pixel: at 4


def test_what_fills_a_padded_image_is_not_enlarged():
    transform = Transform(target="mask", size=(60, 60), fit="pad")
    seen = torch.full((1, 1, 60, 60), 9.0)
    seen[..., :40, :] = 1.0
    torch.testing.assert_close(transform.restore_logits(seen, (80, 120)), torch.ones(1, 1, 80, 120))


def test_a_native_mask_is_left_alone_and_its_image_comes_back():
    sample = rectangles([(10, 20, 50, 30)])
    mask = np.arange(40 * 60, dtype=np.int64).reshape(40, 60) % 11
    for fit in ("stretch", "pad"):
        transform = Transform(target="mask", size=(80, 150), fit=fit, native=True)
        fitted = transform(Sample(sample.image, mask, "a"), None)
        assert fitted.image.shape == (80, 150, 3)
        assert fitted.target is mask
        restored = transform.restore_image(fitted.image, (40, 60))
        assert restored.shape == (40, 60, 3)
        assert np.abs(restored.astype(int) - sample.image).mean() < 2
    assert np.array_equal(
        Transform(target="mask", size=None, native=True).restore_image(fitted.image, (7, 8)),
        fitted.image[:7, :8],
    )


def test_what_the_crop_cut_off_is_not_predicted():
    transform = Transform(target="mask", size=(20, 20), fit="crop")
    unseen = transform.unseen((40, 60))
    assert unseen[:, :10].all()
    assert unseen[:, 50:].all()
    assert not unseen[:, 10:50].any()
    ramp = torch.arange(20.0).expand(1, 1, 20, 20)
    restored = transform.restore_logits(ramp, (40, 60))
    by_hand = F.interpolate(ramp, (40, 40), mode="bilinear")
    torch.testing.assert_close(restored[..., 10:50], by_hand)
    boxes = transform.restore_boxes(np.array([[0, 0, 20, 20]]), (40, 60))
    assert boxes.tolist() == [[10, 0, 50, 40]]
    assert transform.restore_boxes(np.zeros((0, 4)), (40, 60)).shape == (0, 4)


def test_boxes_beyond_the_image_are_cut_at_its_border():
    transform = Transform(target="boxes", size=(60, 60), fit="pad")
    assert transform.restore_boxes(np.array([[-3, 10, 70, 60]]), (40, 60)).tolist() == [[0, 10, 60, 40]]


# --- targets follow the image


def test_a_flip_mirrors_image_mask_and_boxes_exactly():
    sample = rectangles([(10, 20, 50, 30), (0, 0, 7, 9)])
    flip = {"after_resize": [A.HorizontalFlip(p=1.0)]}
    boxes = Transform(target="boxes", size=None, **flip)(sample, 0)
    assert np.allclose(boxes.target["boxes"], [[10, 20, 50, 30], [53, 0, 60, 9]], atol=1e-4)
    assert np.array_equal(boxes.image, sample.image[:, ::-1])
    assert np.array_equal(boxes.target["masks"], sample.target["masks"][:, :, ::-1])
    assert boxes.target["area"].tolist() == pytest.approx([400, 63], rel=1e-5)
    mask = sample.image[..., 0]
    flipped = Transform(target="mask", size=None, **flip)(Sample(sample.image, mask, ""), 0)
    assert np.array_equal(flipped.target, mask[:, ::-1])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_a_mask_follows_the_image_through_any_geometry(dtype):
    # The image's gray value is the class, so each pixel can be checked, but for those at the edges.
    gray = np.kron(np.random.default_rng(0).integers(1, 20, (4, 6)), np.ones((16, 16))).astype(np.uint8)
    sample = Sample(np.stack([gray * 10] * 3, -1), gray.astype(dtype), "")
    lists = {
        "before_resize": [A.RandomCrop(48, 80)],
        "after_resize": [A.Affine(rotate=(-40, 40), scale=(0.6, 0.9), p=1.0)],
    }
    transform = Transform(target="mask", size=(64, 64), **lists)
    for seed in range(5):
        out = transform(sample, seed)
        assert out.target.dtype == dtype
        filled = out.target == 255
        right = np.where(filled, out.image[..., 0] < 10, np.abs(out.image[..., 0] - 10.0 * out.target) < 5)
        assert right.mean() > 0.85
        assert filled.any()
        assert set(np.unique(out.target)) <= {*range(1, 20), 255}


@pytest.mark.parametrize(
    "change",
    [
        A.Affine(rotate=(30, 30), p=1.0),
        A.Rotate((30, 30), border_mode=0, p=1.0),
        A.SafeRotate((30, 30), border_mode=0, p=1.0),
        A.Perspective(scale=(0.3, 0.3), fit_output=True, p=1.0),
        A.PadIfNeeded(100, 100, border_mode=0, p=1.0),
        A.Pad(8, p=1.0),
        A.CropAndPad(percent=0.2, p=1.0),
        A.RandomCrop(100, 100, pad_if_needed=True, p=1.0),
        A.OneOf([A.Sequential([A.Pad(8, p=1.0)], p=1.0)], p=1.0),
    ],
    ids=lambda change: type(change).__name__,
)
def test_what_comes_from_outside_is_ignored_in_masks_and_no_instance(change):
    sample = rectangles([(0, 0, 60, 40)])
    mask = Transform(target="mask", size=None, after_resize=[change])(
        Sample(sample.image, np.full((40, 60), 2, np.uint8), ""), 1
    )
    assert set(np.unique(mask.target)) == {2, 255}
    assert (mask.image[mask.target == 255] < 50).mean() > 0.95
    boxes = Transform(target="boxes", size=None, after_resize=[change])(sample, 1)
    assert set(np.unique(boxes.target["masks"])) == {0, 1}
    assert np.array_equal(boxes.target["masks"][0] == 1, mask.target == 2)


@pytest.mark.parametrize(
    "change",
    [
        A.RandomCrop(30, 40),
        A.Transpose(p=1.0),
        A.RandomRotate90(p=1.0),
        A.CropAndPad(percent=0.1, keep_size=False, p=1.0),
        A.Affine(translate_px={"x": (-15, 15), "y": (-15, 15)}, p=1.0),
    ],
    ids=lambda change: type(change).__name__,
)
def test_boxes_enclose_their_masks_exactly_where_axes_stay_axes(change):
    transform = Transform(target="boxes", size=None, after_resize=[change])
    for seed in range(20):
        out = transform(rectangles([(3, 4, 15, 12), (30, 20, 44, 36), (50, 0, 58, 9)]), seed)
        assert np.allclose(tight(out.target["masks"]), out.target["boxes"], atol=1e-3)
        for mask, label in zip(out.target["masks"], out.target["labels"], strict=True):
            assert np.array_equal(mask == 1, out.image[..., 0] == 50 + label)


def test_a_turned_box_encloses_the_turned_mask():
    transform = Transform(target="boxes", size=None, after_resize=[A.Affine(rotate=(-30, 30), p=1.0)])
    for seed in range(20):
        out = transform(rectangles([(15, 12, 27, 20), (30, 20, 40, 28)]), seed)
        ours, masks = out.target["boxes"], tight(out.target["masks"])
        assert (ours[:, :2] <= masks[:, :2] + 1).all()
        assert (ours[:, 2:] >= masks[:, 2:] - 1).all()
        assert np.abs(ours - masks).max() < 3


def test_what_a_crop_leaves_outside_goes_with_all_that_belongs_to_it():
    sample = rectangles([(0, 0, 5, 5), (30, 20, 40, 30), (50, 30, 60, 40)])
    transform = Transform(target="boxes", size=None, before_resize=[A.Crop(4.0, 10, 60, 32, p=1.0)])
    out = transform(sample, 0)
    assert out.target["labels"].tolist() == [1, 2]
    assert out.target["iscrowd"].tolist() == [1, 0]
    assert out.target["boxes"].tolist() == [[26, 10, 36, 20], [46, 20, 56, 22]]
    assert out.target["area"].tolist() == pytest.approx([100, 20])
    assert out.target["masks"].shape == (2, 22, 56)
    assert {key: value.dtype.name for key, value in out.target.items()} == {
        "boxes": "float32",
        "labels": "int64",
        "masks": "uint8",
        "iscrowd": "int64",
        "area": "float32",
    }
    nothing = Transform(target="boxes", size=None, before_resize=[A.Crop(8, 32, 28, 40, p=1.0)])(sample, 0)
    assert nothing.target["boxes"].shape == (0, 4)
    assert nothing.target["masks"].shape == (0, 8, 20)


def test_an_instance_of_which_the_box_shows_but_no_pixel_goes():
    sample = rectangles([(10, 10, 30, 30)])
    sample.target["masks"][0, :, 20:] = 0
    transform = Transform(target="boxes", size=None, before_resize=[A.Crop(20, 0, 60, 40, p=1.0)])
    assert transform(sample, 0).target["masks"].shape == (0, 40, 40)
    del sample.target["masks"]
    assert transform(sample, 0).target["boxes"].tolist() == [[0, 10, 10, 30]]


# --- chance


class Epoch(Dataset):
    """What the data module does: a seed for each sample, made from (seed, epoch, index)."""

    def __init__(self, transform, seed, epoch):
        self.split = DigitScenes(target="mask", size=32, lengths={"train": 8, "val": 1, "test": 1}).split(
            "train"
        )
        self.transform, self.seed, self.epoch = transform, seed, epoch

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        return self.transform(self.split[index], hash((self.seed, self.epoch, index)) % 2**32)


def loaded(transform, seed=0, epoch=0, workers=0):
    return list(
        DataLoader(Epoch(transform, seed, epoch), batch_size=None, num_workers=workers, collate_fn=tuple)
    )


def images(samples):
    return np.stack([np.asarray(image) for image, *_ in samples])


def test_the_seed_decides_whatever_the_workers():
    lists = built("geometric")
    lists["after_resize"] += built("color")["after_resize"]
    transform = Transform(target="mask", size=(32, 32), **lists)
    plain = images(loaded(transform))
    assert np.array_equal(plain, images(loaded(transform)))
    assert np.array_equal(plain, images(loaded(Transform(target="mask", size=(32, 32), **lists), workers=2)))
    for other in (images(loaded(transform, epoch=1)), images(loaded(transform, seed=1))):
        assert all(not np.array_equal(a, b) for a, b in zip(plain, other, strict=True))


def test_transforms_of_one_sample_draw_independently():
    # With a generator each, all of the same seed, flips left and up would always come together.
    flips = {"before_resize": [A.HorizontalFlip(p=0.5)], "after_resize": [A.VerticalFlip(p=0.5)]}
    transform = Transform(target="label", size=None, **flips)
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1).repeat(3, 2)
    first = [int(transform(Sample(image, 0, ""), seed).image[0, 0, 0]) for seed in range(400)]
    assert all(70 <= n <= 130 for n in np.bincount(first, minlength=4))


def test_without_a_seed_nothing_is_random():
    sample = scene("label")
    assert Transform(target="label", size=(32, 32), **built("geometric"))(sample, None) is sample


def test_a_transform_travels_to_another_process():
    transform = Transform(target="boxes", size=(32, 32), **built("alexnet"))
    twin = pickle.loads(pickle.dumps(transform))
    assert same(transform(scene("boxes"), 5), twin(scene("boxes"), 5))


# --- the YAML files


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", sorted({path.stem for path in AUGMENTATION.glob("*.yaml")} - {"on_device"}))
def test_every_augmentation_works_for_every_target(name, target):
    if name == "boxes" and target != "boxes":
        with pytest.raises(
            ValueError, match=rf"BBoxSafeRandomCrop crops around boxes, and here is `{target}`"
        ):
            Transform(target=target, size=None, **built(name))
        return
    size = (32, 48)
    transform = Transform(target=target, size=size, **built(name, size))
    changed = 0
    for seed in range(12):
        sample = scene(target, seed, size=64)
        before = sample.image.copy(), pickle.dumps(sample.target)
        out = transform(sample, seed)
        assert out.image.shape == (*size, 3)
        assert out.image.dtype == np.uint8
        assert out.image.flags.c_contiguous
        assert out.id == sample.id
        if target == "mask":
            assert out.target.shape == size
            assert set(np.unique(out.target)) <= {*range(11), 255}
        elif target == "boxes":
            assert out.target["masks"].shape == (len(out.target["boxes"]), *size)
            assert (out.target["boxes"] <= [48, 32, 48, 32]).all()
        else:
            assert np.array_equal(out.target, sample.target)
        # The reader may keep its sample for the next epoch.
        assert np.array_equal(sample.image, before[0])
        assert pickle.dumps(sample.target) == before[1]
        changed += not np.array_equal(out.image, transform(sample, None).image)
    assert changed == 0 if name == "none" else changed >= 2


def test_a_crop_of_boxes_keeps_all_objects_whole():
    transform = Transform(target="boxes", size=None, before_resize=built("boxes")["before_resize"])
    sizes = set()
    for seed in range(40):
        sample = rectangles([(13, 14, 25, 22), (30, 20, 44, 36)])
        out = transform(sample, seed)
        sizes.add(out.image.shape[:2])
        assert out.target["labels"].tolist() == [0, 1]
        assert out.target["area"].tolist() == pytest.approx(sample.target["area"].tolist(), rel=1e-4)
        assert np.allclose(tight(out.target["masks"]), out.target["boxes"], atol=1e-3)
    assert len(sizes) > 10
    empty = transform(rectangles([]), 0)
    assert empty.target["boxes"].shape == (0, 4)


def test_alexnet_sees_seven_eighths_of_a_square_image():
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(256, 0).repeat(3, 2)
    crop = built("alexnet", (256, 256))["after_resize"][0]
    seen = Transform(target="label", size=(256, 256), after_resize=[crop])(Sample(ramp, 0, ""), 0).image
    assert int(seen.max()) - int(seen.min()) == pytest.approx(223, abs=1)


# --- what is refused


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: A.Affine(scael=2.0),
        lambda: A.OneOf([A.HorizontalFlip(prob=1.0)]),
        lambda: A.GaussNoise(sigma=1),
    ],
)
def test_a_parameter_that_albumentations_would_ignore_is_an_error(wrong):
    with pytest.warns(UserWarning, match="not valid"):
        transform = wrong()
    with pytest.raises(
        ValueError, match=r"`augmentation.after_resize`: .* has no parameter '(scael|prob|sigma)'"
    ):
        Transform(target="label", size=None, after_resize=[transform])


def test_what_is_no_transform_of_albumentations_is_an_error():
    with pytest.raises(ValueError, match="holds a function"):
        Transform(target="label", size=None, before_resize=[lambda image: image])


def test_an_unknown_fit_is_an_error():
    with pytest.raises(ValueError, match="stretch, crop, pad"):
        Transform(target="label", size=(32, 32), fit="squeeze")
