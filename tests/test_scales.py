"""Multi-scale training: a size for each step, images and targets resized together."""

import numpy as np
import pytest
import torch

from command_line import SMALL
from composing import composed
from paribus.data.digit_scenes import DigitScenes
from paribus.data.geometry import resize_nearest
from paribus.data.module import DataModule
from paribus.data.scales import drawn_size, resize_batch
from paribus.train import run
from test_train import TASKS


def test_sizes_are_multiples_of_32_within_the_scales_and_drawn_for_each_step():
    sizes = [drawn_size((480, 640), (0.8, 1.25), 0, step) for step in range(400)]
    assert sizes == [drawn_size((480, 640), (0.8, 1.25), 0, step) for step in range(400)]
    assert sizes != [drawn_size((480, 640), (0.8, 1.25), 1, step) for step in range(400)]
    assert {h for h, _ in sizes} == set(range(384, 601, 32)) | {608}
    assert {w for _, w in sizes} == set(range(512, 801, 32))
    assert all(abs(h / 480 - w / 640) <= 32 / 480 for h, w in sizes)  # one factor for both sides
    assert drawn_size((40, 64), (0.1, 0.1), 0, 0) == (32, 32)


@pytest.mark.parametrize("size", [(64, 96), (32, 160)])
def test_boxes_masks_and_areas_grow_with_the_image(size):
    images = torch.zeros(2, 3, 48, 80)
    images[0, :, 12:24, 20:40] = 1
    masks = (images[:1, 0] > 0).to(torch.uint8)
    target = {
        "boxes": torch.tensor([[20.0, 12, 40, 24]]),
        "labels": torch.tensor([3]),
        "masks": masks,
        "iscrowd": torch.tensor([0]),
        "area": torch.tensor([240.0]),
        "proposals": torch.tensor([[0.0, 0, 80, 48], [20, 12, 40, 24]]),
    }
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0).long(),
        "masks": torch.zeros(0, 48, 80).byte(),
    }
    resized, (found, nothing) = resize_batch(images, [target, empty], size)
    assert resized.shape == (2, 3, *size)
    y, x = size[0] / 48, size[1] / 80
    torch.testing.assert_close(found["boxes"], torch.tensor([[20 * x, 12 * y, 40 * x, 24 * y]]))
    torch.testing.assert_close(found["proposals"][0], torch.tensor([0.0, 0, size[1], size[0]]))
    torch.testing.assert_close(found["area"], torch.tensor([240 * x * y]))
    assert found["labels"].tolist() == [3]
    x1, y1, x2, y2 = found["boxes"][0].round().int().tolist()
    assert resized[0, :, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() > 0.9
    assert resized[0].sum() == pytest.approx(3 * 240 * x * y, rel=0.1)
    assert found["masks"].dtype == torch.uint8
    assert ((resized[0, 0] > 0.5) == (found["masks"][0] == 1)).float().mean() > 0.97
    assert nothing["boxes"].shape == (0, 4)
    assert nothing["masks"].shape == (0, *size)
    assert target["boxes"].tolist() == [[20, 12, 40, 24]]  # the batch as it came is left alone


def test_masks_take_the_pixel_their_centre_falls_into_and_labels_stay():
    masks = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 48, 80)))
    _, resized = resize_batch(torch.zeros(2, 3, 48, 80), masks, (64, 96))
    assert resized.dtype == torch.int64
    np.testing.assert_array_equal(resized.numpy(), resize_nearest(masks.numpy(), (64, 96)))
    labels = torch.tensor([1, 2])
    images, same = resize_batch(torch.zeros(2, 3, 48, 80), labels, (64, 96))
    assert images.shape[-2:] == (64, 96)
    assert same is labels
    images = torch.zeros(2, 3, 64, 96)
    assert resize_batch(images, labels, (64, 96))[0] is images


@pytest.mark.parametrize("kind", TASKS)
def test_training_sees_many_sizes_and_judging_one(tmp_path, monkeypatch, kind):
    seen: dict[bool, set[tuple[int, int]]] = {True: set(), False: set()}
    transferred = DataModule.on_after_batch_transfer

    def noted(data, batch, index):
        images, targets, ids = transferred(data, batch, index)
        seen[data.trainer.training].add(tuple(images.shape[-2:]))
        if kind == "mask":
            assert targets.shape[-2:] == images.shape[-2:]
        return images, targets, ids

    monkeypatch.setattr(DataModule, "on_after_batch_transfer", noted)
    little = ["data.reader.lengths={train: 40, val: 4, test: 4}", "data.batch_size=4", "trainer.max_epochs=1"]
    scaled = ["data.size=[64, 64]", "data.scales=[0.5, 1.5]"]
    run(composed(*SMALL, *TASKS[kind], *little, *scaled), tmp_path / "run", in_sweep=True)
    assert seen[True] == {(32, 32), (64, 64), (96, 96)}
    assert seen[False] == {(64, 64)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"scales": (1.25, 0.8)},
            r"`data\.scales=\[1\.25, 0\.8\]`: \[least, largest\] factor on the size, above 0",
        ),
        ({"scales": (0.0, 1.0)}, r"`data\.scales=\[0\.0, 1\.0\]`: \[least, largest\]"),
        ({"scales": (0.9, 1.1)}, r"images of 96 x 96 \(data\.size\) would always be 96 x 96: larger images"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    reader = DigitScenes(target="boxes")
    with pytest.raises(ValueError, match=message):
        DataModule(reader=reader, batch_size=4, mean=[0.5] * 3, std=[0.25] * 3, size=(96, 96), **settings)
