"""Changes of whole batches: each sample by its own draw, whatever batch it is in."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as TF

from command_line import SMALL
from composing import composed
from paribus.build import build
from paribus.checks import check
from paribus.config import ConfigError
from paribus.data.batched import Color, Cutout, Flip, Shift, _flipped, keys, uniform
from test_train import TASKS, train

CPU = torch.device("cpu")
IDS = [f"set/{i}.png" for i in range(12)]


def images(number: int = 12, size: tuple[int, int] = (16, 24)) -> torch.Tensor:
    return torch.randint(
        0, 256, (number, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def masks(number: int = 12, size: tuple[int, int] = (16, 24)) -> torch.Tensor:
    return torch.randint(0, 5, (number, *size), generator=torch.Generator().manual_seed(1))


def test_draws_are_splitmix_of_the_key():
    def reference(key: int, place: int) -> float:
        mask = 2**64 - 1
        x = (key + place * 0x9E3779B97F4A7C15) & mask
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
        return ((x ^ x >> 31) >> 40) / 2**24

    found = keys(3, 7, IDS, CPU)
    assert len(set(found.tolist())) == len(IDS)
    drawn = uniform(found, 2, 3)
    for k in range(3):
        assert drawn[k].tolist() == [reference(int(key), 33 + k) for key in found]


def test_draws_are_uniform_and_independent():
    drawn = uniform(keys(0, 0, [str(i) for i in range(20000)], CPU), 0, 4).double()
    assert drawn.mean(1).sub(0.5).abs().max() < 0.01
    assert drawn.std(1).sub(12**-0.5).abs().max() < 0.005
    apart = torch.corrcoef(drawn) - torch.eye(4)
    assert apart.abs().max() < 0.03
    other = uniform(keys(0, 1, [str(i) for i in range(20000)], CPU), 0, 1).double()
    assert abs(torch.corrcoef(torch.cat([drawn[:1], other]))[0, 1]) < 0.03


@pytest.mark.parametrize(
    "change", [Flip(), Shift(), Cutout(), Color(brightness=0.3, contrast=0.3, saturation=0.3)]
)
def test_a_sample_is_changed_alike_in_any_batch(change):
    x, y, k = images(), masks(), keys(0, 0, IDS, CPU)
    whole, labels = change(x, y, uniform(k, 0, change.draws))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    for part in (order[:5], order[5:]):
        some, marks = change(x[part], y[part], uniform(k[part], 0, change.draws))
        assert torch.equal(some, whole[part])
        assert torch.equal(marks, labels[part])
    assert not torch.equal(whole, x.to(whole.dtype))


def test_a_gpus_way_to_flip_is_the_processors():
    x, chosen = images(), torch.arange(12) % 3 == 0
    assert torch.equal(_flipped(x, chosen), torch.where(chosen.view(-1, 1, 1, 1), x.flip(-1), x))


def test_flips_are_of_half_with_all_that_lies_in_them():
    x, y = images(), masks()
    draw = torch.tensor([[0.1, 0.9] * 6])
    boxes = [
        {
            "boxes": torch.tensor([[1.0, 2, 5, 8]]),
            "proposals": torch.tensor([[0.0, 0, 2, 2]] * 3),
            "masks": y[i : i + 1],
            "labels": torch.tensor([1]),
        }
        for i in range(12)
    ]
    flipped, marks = Flip(p=0.5)(x, y, draw)
    _, moved = Flip(p=0.5)(x, boxes, draw)
    for i in range(12):
        wanted = x[i].flip(-1) if i % 2 == 0 else x[i]
        assert torch.equal(flipped[i], wanted)
        assert torch.equal(marks[i], y[i].flip(-1) if i % 2 == 0 else y[i])
        assert moved[i]["boxes"].tolist() == [[19, 2, 23, 8] if i % 2 == 0 else [1, 2, 5, 8]]
        assert torch.equal(moved[i]["masks"][0], marks[i])
        assert moved[i]["proposals"].tolist() == [[22, 0, 24, 2] if i % 2 == 0 else [0, 0, 2, 2]] * 3
        assert moved[i]["labels"].tolist() == [1]


@pytest.mark.parametrize("large", [0, 64 * 64])
def test_shifts_go_to_the_pixel_and_as_far_as_said(large, monkeypatch):
    monkeypatch.setattr("paribus.data.batched.LARGE", large)
    x, y = images(), masks()
    k = keys(0, 0, IDS, CPU)
    draw = uniform(k, 0, 2)
    moved, marks = Shift(share=0.125)(x, y, draw)
    for i in range(12):
        down, right = int(draw[0, i] * 5) - 2, int(draw[1, i] * 7) - 3  # an eighth of 16 and of 24
        padded = torch.nn.functional.pad(x[i], (3, 3, 2, 2))
        assert torch.equal(moved[i], padded[:, 2 + down : 18 + down, 3 + right : 27 + right])
        around = torch.nn.functional.pad(y[i], (3, 3, 2, 2), value=255)
        assert torch.equal(marks[i], around[2 + down : 18 + down, 3 + right : 27 + right])
    many = uniform(keys(0, 0, [str(i) for i in range(3000)], CPU), 0, 2)
    assert {int(d * 5) for d in many[0]} == set(range(5))


def test_a_square_is_cut_out_where_its_centre_is_in_the_image():
    x = images()
    cut, _ = Cutout(share=0.5)(x, None, torch.tensor([[0.0] * 6 + [0.5] * 6, [0.0] * 6 + [0.5] * 6]))
    for i in range(12):
        gone = (cut[i] == 128).all(0)
        expected = torch.zeros(16, 24, dtype=torch.bool)
        expected[slice(0, 4) if i < 6 else slice(4, 12), slice(0, 4) if i < 6 else slice(8, 16)] = True
        assert gone[expected].all()
        assert torch.equal(cut[i][:, ~expected], x[i][:, ~expected])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colours_are_torchvisions(name):
    x = images()
    draw = uniform(keys(0, 0, IDS, CPU), 0, 3)
    found, _ = Color(**{name: 0.4})(x, None, draw)
    place = ["brightness", "contrast", "saturation"].index(name)
    for i in range(12):
        factor = float(1 + 0.4 * (2 * draw[place, i] - 1))
        wanted = getattr(TF, f"adjust_{name}")(x[i].float() / 255, factor) * 255
        assert torch.allclose(found[i], wanted, atol=0.05), i


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flip(p=2), "p=2"),
        (lambda: Shift(share=-1), "share=-1"),
        (lambda: Color(contrast=3), "contrast=3"),
    ],
)
def test_shares_are_shares(make, message):
    with pytest.raises(ValueError, match=f"{message}: from 0 to 1"):
        make()


def test_a_run_with_augmentation_on_the_device_repeats_itself(tmp_path):
    keys = [*TASKS["label"], "augmentation=on_device", "trainer.max_epochs=3"]
    one = train(tmp_path / "one", *keys)
    again = train(tmp_path / "two", *keys, "data.resident=false", "data.cache=ram")
    assert one.metrics == again.metrics
    plain = train(tmp_path / "plain", *TASKS["label"], "trainer.max_epochs=3")
    assert plain.metrics != one.metrics


def test_what_is_no_change_of_batches_is_refused():
    wrong = [
        "augmentation.on_device=[{_target_: albumentations.HorizontalFlip}]",
        "+augmentation.on_device=null",
    ]
    with pytest.raises((ConfigError, ValueError), match=r"paribus.data.batched"):
        build(check(composed(wrong[0])))
    boxes = ["task=detection", "model=fcos", "data.size=[64,64]", "augmentation=on_device"]
    with pytest.raises(ValueError, match="Shift moves images and masks, and here are boxes"):
        build(check(composed(*boxes)))
    with pytest.raises(ValueError, match="images of one size"):
        build(check(composed("augmentation=on_device", "data.size=null", "data.reader.size=32")))


def test_validation_sees_what_the_files_hold(tmp_path):
    data = build(check(composed(*SMALL, "augmentation=on_device"))).data
    data.open("val")
    batch = next(iter(data.val_dataloader()))
    images = data.on_after_batch_transfer(batch, 0)[0]
    assert np.array_equal(images.numpy(), data.normalize(batch[0]).numpy())
