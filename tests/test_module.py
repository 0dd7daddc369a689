"""The data module: order, shares, batches, what is wrong with a set."""

import numpy as np
import pytest
import torch

from paribus.data.batches import Loader, Order, Samples, collate
from paribus.data.classification import ClassFolders
from paribus.data.digit_scenes import DigitScenes
from paribus.data.module import DataModule
from paribus.data.samples import DataError, Sample
from paribus.data.transforms import Transform
from small_data import class_folders


def order(n=10, batch=2, rank=0, world=1, seed=0, place=(0, 0)) -> Order:
    return Order(np.arange(n), seed=seed, progress=lambda: place, batch_size=batch, rank=rank, world=world)


def test_every_epoch_has_its_own_order_of_all():
    loader = order()
    first = list(loader)
    loader.set_epoch(1)
    second = list(loader)
    assert {i for i, _ in first} == {i for i, _ in second} == set(range(10))
    assert [i for i, _ in first] != [i for i, _ in second]
    assert {epoch for _, epoch in second} == {1}
    assert first == list(order())
    assert first != list(order(seed=1))


def test_processes_share_the_batches_of_one():
    whole = [i for i, _ in order(n=13, batch=4)]
    shares = [[i for i, _ in order(n=13, batch=2, rank=rank, world=2)] for rank in (0, 1)]
    for step in range(3):
        together = shares[0][2 * step : 2 * step + 2] + shares[1][2 * step : 2 * step + 2]
        assert sorted(together) == sorted(whole[4 * step : 4 * step + 4])


def test_a_resumed_epoch_goes_on_where_it_was():
    loader = order(place=(3, 2))
    resumed = list(loader)
    whole = order(place=(3, 0))
    assert resumed == list(whole)[4:]
    loader.set_epoch(4)
    assert len(list(loader)) == 10


def test_what_is_judged_comes_in_batches_of_its_own():
    lengths = {"train": 8, "val": 7, "test": 5}
    keys = {
        "reader": DigitScenes(target="label", size=16, lengths=lengths),
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    found = {}
    for judged in (None, 3, 64):
        data = DataModule(batch_size=2, judged_batch_size=judged, **keys)
        data.open("train", "val")
        assert len(data.train_dataloader()) == 4
        batches = [*data.val_dataloader()]
        found[judged] = [len(ids) for *_, ids in batches], [id for *_, ids in batches for id in ids]
    assert [sizes for sizes, _ in found.values()] == [[2, 2, 2, 1], [3, 3, 1], [7]]
    assert found[None][1] == found[3][1] == found[64][1]
    with pytest.raises(ValueError, match=r"`data.judged_batch_size=0`: 1 or more"):
        DataModule(batch_size=2, judged_batch_size=0, **keys)


def test_objects_that_stand_for_many_are_not_trained_on():
    boxes = np.array([[0, 0, 4, 4], [2, 2, 9, 9], [1, 1, 3, 5]], np.float32)
    target = {"boxes": boxes, "labels": np.array([4, 5, 6]), "iscrowd": np.array([0, 1, 0])}
    split = [Sample(np.zeros((16, 16, 3), np.uint8), target, "a")]
    trained = Samples(split, Transform(target="boxes", size=None), 0)[0, 3].target
    judged = Samples(split, Transform(target="boxes", size=None), None)[0].target
    assert trained.keys() == {"boxes", "labels"}  # the device is not asked which of them count
    assert trained["labels"].tolist() == [4, 6]
    assert trained["boxes"].tolist() == boxes[[0, 2]].tolist()
    assert judged["iscrowd"].tolist() == [0, 1, 0]


class Echo(torch.utils.data.Dataset):
    def __getitem__(self, key):
        return key


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_begin_with_the_first_batch_and_not_before_a_checkpoint_is_restored(workers):
    place = [(0, 0)]
    sampler = order()
    sampler.progress = lambda: place[0]
    loader = Loader(
        Echo(), batch_size=2, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
    )
    batches = iter(loader)  # as Lightning makes it
    place[0] = (3, 2)
    restored = [
        (int(i), int(epoch)) for indices, epochs in batches for i, epoch in zip(indices, epochs, strict=True)
    ]
    assert restored == list(order(place=(3, 2)))
    sampler.set_epoch(4)
    assert [int(epochs[0]) for _, epochs in loader] == [4] * 5


def sample(height: int, width: int, target) -> Sample:
    return Sample(np.full((height, width, 3), 7, np.uint8), target, f"{height}x{width}")


def test_unequal_images_are_padded():
    masks = [np.ones((4, 6), np.uint8), np.zeros((5, 3), np.uint8)]
    images, targets, ids = collate([sample(4, 6, masks[0]), sample(5, 3, masks[1])])
    assert images.shape == (2, 3, 5, 6)
    assert images.dtype == torch.uint8
    assert images[0, 0, 4].eq(0).all()
    assert targets.dtype == torch.int64
    assert targets[0, 4].eq(255).all()
    assert targets[1, :, 3:].eq(255).all()
    assert targets[1, :, :3].eq(0).all()
    assert ids == ["4x6", "5x3"]


def test_native_masks_keep_their_sizes():
    masks = [np.full((4, 6), 255, np.uint8), np.zeros((5, 3), np.int64)]
    images, targets, _ = collate([sample(2, 2, masks[0]), sample(2, 2, masks[1])], native=True)
    assert images.shape == (2, 3, 2, 2)
    assert [target.shape for target in targets] == [(4, 6), (5, 3)]
    assert {target.dtype for target in targets} == {torch.int64}
    assert targets[0].eq(255).all()


def test_boxes_are_copies():
    kept = {
        "boxes": np.ones((1, 4), np.float32),
        "labels": np.zeros(1, np.int64),
        "masks": np.ones((1, 4, 4), np.uint8),
    }
    _, targets, _ = collate([sample(4, 4, kept), sample(6, 5, kept)])
    targets[0]["boxes"] += 1
    assert kept["boxes"].max() == 1
    assert targets[0]["masks"].shape == (1, 6, 5)
    assert targets[0]["masks"].sum() == 16


def module(reader, **settings) -> DataModule:
    return DataModule(**{"reader": reader, "batch_size": 4, "mean": [0.5] * 3, "std": [0.25] * 3, **settings})


def test_normalization():
    data = module(DigitScenes(target="label"), mean=[0.5, 0.25, 0.0], std=[0.5, 0.25, 1.0])
    pixels = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    torch.testing.assert_close(data.normalize(pixels).flatten(), torch.tensor([1.0, -1.0, 0.2]))
    gray = module(DigitScenes(target="label"), channels=1, mean=[0.0], std=[1.0])
    assert gray.normalize(pixels).shape == (1, 1, 1, 1)
    torch.testing.assert_close(gray.normalize(pixels).item(), 102 / 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("images", [(4, 3, 12, 20), (1, 3, 1, 1), (0, 3, 5, 7)])
def test_normalization_is_the_same_in_both_layouts(channels, images):
    drawn = torch.randint(256, images, dtype=torch.uint8)
    keys = {"channels": channels, "mean": [0.5, 0.25, 0.1][:channels], "std": [0.5, 0.25, 1.0][:channels]}
    plain = module(DigitScenes(target="label"), **keys).normalize(drawn)
    larger = torch.nn.functional.pad(drawn, (1, 2, 3, 4)).to(memory_format=torch.channels_last)
    part = larger[:, :, 3 : larger.shape[2] - 4, 1 : larger.shape[3] - 2]
    for given in (drawn, drawn.to(memory_format=torch.channels_last), part):
        assert torch.equal(module(DigitScenes(target="label"), **keys).normalize(given), plain)
        last = module(DigitScenes(target="label"), channels_last=True, **keys).normalize(given)
        assert torch.equal(last, plain)
        assert last.is_contiguous(memory_format=torch.channels_last)


def test_what_is_wrong_is_found_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    class_folders(tmp_path / "set")
    broken = next((tmp_path / "set" / "train").rglob("*.*"))
    broken.write_bytes(b"no image")
    for _ in range(2):  # the second time from memory
        with pytest.raises(DataError, match=rf"{broken.name}(.|\n)*data\.on_error=skip"):
            module(ClassFolders(root=str(tmp_path / "set"))).open("train")
    whole = len(ClassFolders(root=str(tmp_path / "set")).split("train"))
    skipping = module(ClassFolders(root=str(tmp_path / "set")), on_error="skip")
    skipping.open("train")
    assert len(skipping.splits["train"]) == whole - 1
    broken.write_bytes(sorted((tmp_path / "set" / "train").rglob("*.*"))[-1].read_bytes())
    mended = module(ClassFolders(root=str(tmp_path / "set")))
    mended.open("train")  # the file has changed, so what was remembered no longer counts
    assert len(mended.splits["train"]) == whole


def test_too_few_samples_for_a_batch():
    data = module(DigitScenes(target="label", lengths={"train": 3, "val": 1, "test": 1}))
    data.open("train")
    with pytest.raises(DataError, match=r"3 training samples do not fill one batch of 4: data\.batch_size=3"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": [0.5]}, r"`data\.mean` and `data\.std` need 3 numbers"),
        ({"train_fraction": 0.0}, r"`data\.train_fraction=0\.0`"),
        ({"batch_size": 0}, r"`data\.batch_size=0`"),
        ({"judge_at": "native"}, r"`data\.judge_at=native` is for masks, and `label` is judged"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        module(DigitScenes(target="label"), **settings)


def test_a_crop_is_not_judged_at_the_native_size():
    reader = DigitScenes(target="mask")
    with pytest.raises(ValueError, match=r"`data\.judge_at=native` .* data\.fit=crop cuts some off unseen"):
        module(reader, judge_at="native", fit="crop", size=(16, 16))
    module(reader, judge_at="native", fit="crop", size=None)  # nothing is cut
