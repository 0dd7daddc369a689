"""Whichever tier the samples come from and whoever reads them: the same batches, bit for bit."""

import multiprocessing
import os
from collections import namedtuple
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch

from paribus.data import packed as room
from paribus.data.classification import ClassFolders
from paribus.data.detection import CocoDetection
from paribus.data.digit_scenes import DigitScenes
from paribus.data.module import DataModule
from paribus.data.packed import Packed, pack
from paribus.data.samples import DataError, Sample
from paribus.data.segmentation import MaskFolders
from paribus.data.threads import AHEAD, HELD
from paribus.data.transforms import Transform
from small_data import class_folders, coco, mask_folders, picture, save

KINDS = ("label", "mask", "native mask", "boxes", "scenes", "any size")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "paribus" / "packed"


def reader(kind: str, root: Path):
    if kind in ("label", "any size"):
        if not root.exists():
            class_folders(root)
            for i in range(3):  # of other sizes
                save(root / "train" / "cat" / f"z{i}.png", picture(0, (20 + 7 * i, 40), seed=i))
        return ClassFolders(root=str(root))
    if kind in ("mask", "native mask"):
        if not root.exists():
            mask_folders(root, splits=("train", "val"))
            mask_folders(root, splits=("val",), each=2, size=(30, 20))
        return MaskFolders(
            root=str(root),
            images="{split}/*.png",
            masks="{split}annot/*.png",
            classes=["a", "b", "c"],
            splits={"train": "train", "val": "val"},
        )
    if kind == "boxes":
        return CocoDetection(
            root=str(root if root.exists() else coco(root, splits=("train", "val"))), masks=True
        )
    return DigitScenes(target="boxes", size=[32, 32], lengths={"train": 12, "val": 5, "test": 3})


def module(kind: str, root: Path, **keys) -> DataModule:
    keys = {"size": None if kind == "any size" else (16, 24), "batch_size": 4, "num_workers": 0} | keys
    if kind == "native mask":
        keys["judge_at"] = "native"
    augmentation = keys.pop("augmentation", None)
    if augmentation is None:
        augmentation = {"after_resize": [A.HorizontalFlip(p=0.5), A.RandomBrightnessContrast(p=0.7)]}
    return DataModule(
        reader=reader(kind, root), mean=[0.5] * 3, std=[0.2] * 3, seed=3, augmentation=augmentation, **keys
    )


def batches(data: DataModule, epochs: int = 2) -> list:
    data.open("train", "val")
    train = data.train_dataloader()
    found = []
    for epoch in range(epochs):
        train.sampler.set_epoch(epoch)
        found += [copied(batch) for batch in train]
    return found + [copied(batch) for batch in data.val_dataloader()]


def copied(batch):
    images, targets, ids = batch
    return images.clone(), targets, ids


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a == b


@pytest.mark.parametrize("kind", KINDS)
def test_every_tier_gives_the_same_batches(tmp_path, kind):
    wanted = batches(module(kind, tmp_path / "set"))
    for keys in (
        {"cache": "ram"},
        {"cache": "disk"},
        {"cache": "disk", "num_workers": 2, "workers": "threads"},
        {"num_workers": 3, "workers": "threads"},
        {"resident": False},
    ):
        assert equal(batches(module(kind, tmp_path / "set", **keys)), wanted), keys


def test_processes_read_what_threads_read(tmp_path):
    wanted = batches(module("label", tmp_path / "set"))
    for keys in ({"cache": "disk"}, {"cache": "ram"}):
        assert equal(
            batches(module("label", tmp_path / "set", num_workers=2, workers="processes", **keys)), wanted
        )


def test_what_comes_before_the_resize_sees_shrunk_images(tmp_path):
    crop = {"before_resize": [A.RandomCrop(10, 12, p=1.0)]}
    data = module("label", tmp_path / "set", augmentation=crop, cache="disk")
    data.open("train")
    with pytest.raises(ValueError, match=r"data.cache_side=256"):
        data.train_dataloader()
    data = module("label", tmp_path / "set", augmentation=crop, cache="disk", cache_side=14)
    data.open("train")
    first = next(iter(data.train_dataloader()))
    [images] = data.tiers.packed.values()
    originals = data.splits["train"]
    for i in range(len(originals)):
        height, width = originals[i].image.shape[:2]
        assert images[i].image.shape[:2] == (14, round(14 * width / height))  # all are larger
    wanted = Transform(target="label", size=(14, 19))(originals[0], None).image
    assert np.array_equal(images[0].image, wanted)
    assert first[0].shape == (4, 3, 16, 24)


# --- the copy on disk ------------------------------------------------------------------------------


def folders(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def reading(monkeypatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    read = []
    before = room._build
    monkeypatch.setattr(room, "_build", lambda *a: read.append("packed") or before(*a))
    return read


def test_it_is_made_once_and_found_by_whoever_asks_for_the_same(tmp_path, cache, monkeypatch):
    made = reading(monkeypatch)
    for _ in range(2):
        batches(module("label", tmp_path / "set", cache="disk"))
    assert made == ["packed", "packed"]  # train and val
    assert len(folders(cache)) == 2
    batches(module("label", tmp_path / "set", cache="disk", size=(8, 8)))
    assert len(made) == 4
    batches(module("label", tmp_path / "set", cache="disk", cache_folder=str(tmp_path / "elsewhere")))
    assert len(made) == 6
    assert len(folders(tmp_path / "elsewhere")) == 2


def test_another_file_is_another_copy(tmp_path, cache, monkeypatch):
    made = reading(monkeypatch)
    batches(module("label", tmp_path / "set", cache="disk"))
    save(tmp_path / "set" / "train" / "dog" / "003.jpg", picture(4, (24, 32), seed=77))
    found = batches(module("label", tmp_path / "set", cache="disk"))
    assert made == ["packed"] * 3  # train anew
    assert equal(found, batches(module("label", tmp_path / "set")))


@pytest.mark.parametrize("harm", ["cut", "changed", "index", "gone"])
def test_a_torn_copy_is_made_anew(tmp_path, cache, harm, monkeypatch):
    wanted = batches(module("label", tmp_path / "set", cache="disk"))
    made = reading(monkeypatch)
    for folder in folders(cache):
        file = folder / ("index.json" if harm in ("index", "gone") else "image.bin")
        content = file.read_bytes()
        if harm == "gone":
            file.unlink()
        else:
            file.write_bytes(content[: len(content) // 2] if harm != "changed" else content[:-1] + b"?")
    assert equal(batches(module("label", tmp_path / "set", cache="disk")), wanted)
    assert made == ["packed", "packed"]


def packing(root: str, start, done) -> None:
    start.wait()
    made = []
    before = room._build
    room._build = lambda *a: made.append(1) or before(*a)
    batches(module("label", Path(root), cache="disk"))
    done.put(len(made))


def test_two_at_once_pack_once(tmp_path):
    reader("label", tmp_path / "set")
    context = multiprocessing.get_context("fork")
    start, done = context.Event(), context.Queue()
    both = [context.Process(target=packing, args=(str(tmp_path / "set"), start, done)) for _ in range(2)]
    for process in both:
        process.start()
    start.set()
    made = [done.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    assert sum(made) == 2  # train and val, each by one of the two


def test_nothing_is_left_of_one_that_fails(tmp_path, cache):
    data = module("label", tmp_path / "set", cache="disk")
    data.open("train")
    (tmp_path / "set" / "train" / "emu" / "005.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"005.jpg"):
        data.train_dataloader()
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_no_room_is_said_before_anything_is_read(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage(0, 0, room.MARGIN))
    data = module("label", tmp_path / "set", cache="disk")
    data.open("train")
    with pytest.raises(DataError, match=r"data.cache_folder to another disk"):
        data.train_dataloader()
    monkeypatch.setattr(os, "sysconf", lambda name: 1)
    data = module("label", tmp_path / "set", cache="ram")
    data.open("train")
    with pytest.raises(DataError, match=r"memory has 0.0 GB left"):
        data.train_dataloader()


def test_arrays_of_another_kind_are_refused():
    class Mixed:
        def __len__(self):
            return 40

        def __getitem__(self, index):
            depth = np.uint8 if index != 20 else np.int32
            return Sample(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), depth), f"{index}.png")

    fitted = Transform(target="mask", size=None)
    with pytest.raises(DataError, match=r"20.png is of other arrays .*int32.*data.cache=none"):
        pack(object(), Mixed(), fitted, where="ram", indices=np.arange(40))


# --- threads ---------------------------------------------------------------------------------------


def test_a_batch_lasts_until_two_more_have_been_asked_for(tmp_path):
    data = module("label", tmp_path / "set", batch_size=2, num_workers=2, augmentation={}, resident=False)
    data.open("train")
    loader = data.train_dataloader()
    seen: list = []
    addresses = set()
    for images, _, _ in loader:
        addresses.add(images.data_ptr())
        seen.append((images, images.clone()))
        for kept, copy in seen[-1 - HELD :]:
            assert torch.equal(kept, copy)
    assert len(seen) > len(addresses)  # memory is used again
    assert len(addresses) <= AHEAD + 1 + HELD + 1


def test_what_a_thread_cannot_read_is_named(tmp_path):
    data = module("label", tmp_path / "set", num_workers=2, batch_size=1, augmentation={}, verify=False)
    data.open("train")
    (tmp_path / "set" / "train" / "emu" / "005.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"005.jpg"):
        list(data.train_dataloader())


@pytest.mark.parametrize(
    ("keys", "threads"),
    [
        ({"num_workers": 2, "augmentation": {}}, True),
        ({"num_workers": 2}, False),  # augmentations keep Python busy
        ({"num_workers": 2, "workers": "threads"}, True),
        ({"num_workers": 2, "augmentation": {}, "workers": "processes"}, False),
        ({"num_workers": 0, "augmentation": {}}, False),
    ],
)
def test_who_reads(tmp_path, keys, threads):
    data = module("label", tmp_path / "set", resident=False, **keys)
    data.open("train")
    assert (type(data.train_dataloader()).__name__ == "ThreadLoader") is threads


# --- what stays on the device ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["label", "mask"])
@pytest.mark.parametrize("keys", [{}, {"num_workers": 2}, {"cache": "disk"}, {"train_fraction": 0.7}])
def test_what_stays_is_what_would_be_read(tmp_path, kind, keys):
    keys = keys | {"augmentation": {}}
    wanted = batches(module(kind, tmp_path / "set", resident=False, **keys), epochs=4)
    data = module(kind, tmp_path / "set", resident=True, **keys)
    assert equal(batches(data, epochs=4), wanted)


def test_a_sample_is_read_once(tmp_path, monkeypatch):
    data = module("label", tmp_path / "set", augmentation={})
    data.open("train")
    loader = data.train_dataloader()
    read = []
    before = type(data.splits["train"]).__getitem__
    monkeypatch.setattr(
        type(data.splits["train"]), "__getitem__", lambda s, i: read.append(i) or before(s, i)
    )
    for epoch in range(6):
        loader.sampler.set_epoch(epoch)
        list(loader)
    assert len(read) == len(set(read)) <= len(data.splits["train"])


def test_what_cannot_stay_is_refused_or_read(tmp_path):
    for keys in ({}, {"kind": "any size", "augmentation": {}}):
        data = module(keys.pop("kind", "label"), tmp_path / str(len(keys)), resident=True, **keys)
        data.open("train")
        with pytest.raises(ValueError, match=r"data.resident=true"):
            data.train_dataloader()
    data = module("label", tmp_path / "0", augmentation={})
    data.open("train")
    monkey = pytest.MonkeyPatch()
    monkey.setattr("paribus.data.resident.MOST_OF_HOST", 16 * 24 * 3 * len(data.splits["train"]) - 1)
    assert type(data.train_dataloader()).__name__ == "Loader"
    monkey.undo()
    assert type(data.train_dataloader()).__name__ == "ResidentLoader"


@pytest.mark.parametrize("kind", ["label", "mask"])
def test_a_packed_copy_is_there_at_once_and_read_by_nobody(tmp_path, kind, monkeypatch):
    keys = {"cache": "disk", "augmentation": {}, "train_fraction": 0.7}
    wanted = batches(module(kind, tmp_path / "set", resident=False, **keys))
    monkeypatch.setattr(Packed, "__getitem__", lambda *_: pytest.fail("it was read"))
    data = module(kind, tmp_path / "set", **keys)
    assert equal(batches(data), wanted)
    images = data.train_dataloader().images
    packed = data.tiers.packed["train", (16, 24)].columns["image"].values
    assert images.data_ptr() == packed.ctypes.data  # where it is mapped, which other runs share
