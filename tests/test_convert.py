"""A set in another format is the same set; what cannot be written is said, and nothing half is left."""

import json
import logging
import os
import shlex

import numpy as np
import pytest
from PIL import Image

from command_line import script, succeeded
from composing import composed
from paribus import convert
from paribus.build import make
from paribus.checks import check, check_convert
from paribus.config import ConfigError
from paribus.data.detection import CocoDetection, VocDetection
from paribus.data.digit_scenes import DigitScenes
from paribus.data.samples import DataError
from paribus.data.writing import IMAGES
from paribus.data.yolo_text import YoloText
from small_data import coco, picture, save, voc, voc_xml, yolo

SIZE = (48, 64)
VOC = ["data=voc_detection", "data.reader.classes=null"]


def converted(*overrides: str):
    return convert.run(check_convert(composed(*overrides, root="convert", fill=False)))


def trained_on(log: str):
    """The reader that the command which is printed at the end makes."""
    command = shlex.split(log.strip().splitlines()[-1])
    assert command[:2] == ["python", "scripts/train.py"]
    return make(check(composed(*command[2:])).data["reader"])


def same(first, second, name: str, ids: bool = True) -> None:
    a, b = first.split(name), second.split(name)
    assert len(a) == len(b) > 0
    assert b.problems() == []
    for x, y in zip(a, b, strict=True):
        assert not ids or os.path.basename(x.id) == os.path.basename(y.id)
        np.testing.assert_array_equal(x.image, y.image)
        for key in ("boxes", "labels"):
            assert x.target[key].dtype == y.target[key].dtype
            np.testing.assert_array_equal(x.target[key], y.target[key])


def test_around_all_formats_and_back(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    voc(tmp_path / "source", classes=("cube", "ball"))
    place = "data.reader.root=source"
    classes = ["data.reader.classes=[cube, ball]", "data.reader.splits.test=test"]
    source = VocDetection(root="source", classes=["cube", "ball"])
    converted("data=voc_detection", place, *classes, "to=coco", "output=a/coco")
    first = trained_on(caplog.text)
    converted(
        "data=coco",
        "data.reader.root=a/coco",
        "data.reader.classes=null",
        classes[1],
        "to=yolo",
        "output=yolo",
    )
    second = trained_on(caplog.text)
    converted("data=yolo_text", "data.reader.root=yolo", classes[1], "to=voc", "output=voc")
    third = trained_on(caplog.text)
    for reader in (first, second, third):
        assert reader.classes == ("cube", "ball")
        for name in ("train", "val", "test"):
            same(source, reader, name)
    assert "has no:" not in caplog.text
    assert "train: 6 images, 6 objects" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"source", "a", "yolo", "voc"}


@pytest.mark.parametrize("to", ["voc", "coco", "yolo"])
def test_generated_scenes_become_files(tmp_path, to, caplog):
    caplog.set_level(logging.INFO)
    made = ["data.size=[48, 64]", "data.reader.lengths={train: 5, val: 3, test: 2}"]
    converted("data=digit_scenes", *made, f"to={to}", f"output={tmp_path / 'out'}")
    scenes = DigitScenes(target="boxes", size=(48, 64), lengths={"train": 5, "val": 3, "test": 2})
    reader = trained_on(caplog.text)
    assert reader.classes == scenes.classes
    for name in ("train", "val", "test"):
        same(scenes, reader, name, ids=False)
    found = reader.split("val")[0].id
    assert found == f"{IMAGES[to].replace('{split}', 'val')}/{'val_' if to == 'voc' else ''}000000.png"
    assert ("masks (" in caplog.text) == (to != "coco")


def test_masks_crowds_and_areas_stay_where_the_format_has_them(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = CocoDetection(root=str(crowded(tmp_path / "source")), masks=True)
    place = ["data=coco", f"data.reader.root={tmp_path / 'source'}", "data.reader.classes=null"]
    place += ["data.reader.masks=true", "data.reader.clip_boxes=false"]
    converted(*place, "to=coco", f"output={tmp_path / 'coco'}")
    assert "has no" not in caplog.text
    again = CocoDetection(root=str(tmp_path / "coco"), masks=True)
    same(source, again, "train")
    for a, b in zip(source.split("train"), again.split("train"), strict=True):
        for key in ("iscrowd", "area", "masks"):
            assert a.target[key].dtype == b.target[key].dtype
            np.testing.assert_array_equal(a.target[key], b.target[key])
    converted(*place, "to=yolo", f"output={tmp_path / 'yolo'}")
    expected = "yolo has no: crowds, which are left out (1); areas but those of the boxes (2); masks (11)"
    assert expected in caplog.text
    labels = [s.target["labels"] for s in YoloText(root=str(tmp_path / "yolo")).split("train")]
    crowds = [s.target["iscrowd"] for s in source.split("train")]
    assert [len(found) for found in labels] == [int((c == 0).sum()) for c in crowds]
    caplog.clear()
    converted(*place, "to=voc", f"output={tmp_path / 'voc'}")
    assert "voc has no: boxes of one pixel or less, which are left out (1)" in caplog.text
    assert "crowds, which are written as difficult (1)" in caplog.text
    assert "fractions of a pixel, which are written as decimals and cut off by some tools (1)" in caplog.text
    targets = [
        s.target for s in VocDetection(root=str(tmp_path / "voc"), classes=["ball", "cube"]).split("train")
    ]
    assert [t["difficult"].tolist() for t in targets] == [[], [1], [0], [], [0], [0, 0]]
    assert targets[2]["boxes"].tolist() == [[np.float32(2.2), 5, 23, 29]]


def crowded(root):
    """A COCO set with a crowd, an area that is not the box's, a box of one pixel, and one with fractions."""
    coco(root, splits=("train", "val"))
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0].update(iscrowd=1, area=17.3)
    content["annotations"][1].update(bbox=[2.2, 5, 20.8, 24], area=100.5)
    content["annotations"][2].update(bbox=[3, 4, 1, 5], area=5)
    content["annotations"][4]["area"] = 3.25
    path.write_text(json.dumps(content))
    return root


def test_difficult_marks_stay_in_voc_and_are_counted_elsewhere(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    voc(tmp_path / "source", splits=("train", "val"))
    voc_xml(
        tmp_path / "source" / "Annotations" / "train_001.xml", [("ball", (1, 1, 9, 9))], SIZE, difficult=1
    )
    place = [*VOC, f"data.reader.root={tmp_path / 'source'}", "data.reader.difficult=keep"]
    converted(*place, "to=voc", f"output={tmp_path / 'voc'}")
    assert "has no" not in caplog.text
    split = VocDetection(root=str(tmp_path / "voc")).split("train")
    assert [s.target["difficult"].tolist() for s in split][:3] == [[], [1], [0, 0]]
    for to in ("coco", "yolo"):
        converted(*place, f"to={to}", f"output={tmp_path / to}")
        assert f"{to} has no: marks of difficult objects (1)" in caplog.text


@pytest.mark.parametrize("files", ["link", "copy"])
def test_images_are_linked_or_copied(tmp_path, files):
    voc(tmp_path / "source", splits=("train", "val"))
    converted(
        *VOC,
        f"data.reader.root={tmp_path / 'source'}",
        "to=coco",
        f"output={tmp_path / 'out'}",
        f"files={files}",
    )
    source = tmp_path / "source" / "JPEGImages" / "train_002.jpg"
    new = tmp_path / "out" / "train2017" / "train_002.jpg"
    assert new.read_bytes() == source.read_bytes()
    assert os.path.samefile(new, source) == (files == "link")
    assert not new.is_symlink()


def test_what_cannot_be_linked_is_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    voc(tmp_path / "source", splits=("train", "val"))
    converted(*VOC, f"data.reader.root={tmp_path / 'source'}", "to=yolo", f"output={tmp_path / 'out'}")
    assert YoloText(root=str(tmp_path / "out")).split("train").problems() == []


def test_splits_that_are_another_s_images_are_not_written_twice(tmp_path):
    voc(tmp_path / "source", splits=("train", "val"))  # the option says test: val
    place = [*VOC, f"data.reader.root={tmp_path / 'source'}", "to=coco"]
    out = converted(*place, f"output={tmp_path / 'out'}")
    assert {path.name for path in out.iterdir()} == {"train2017", "val2017", "annotations"}
    some = converted(*place, f"output={tmp_path / 'some'}", "splits=[val]")
    assert {path.name for path in some.iterdir()} == {"val2017", "annotations"}
    drawn = ["~data.reader.splits", "+data.reader.splits={train: train}", "data.reader.split={test: 0.5}"]
    out = converted(*place, *drawn, f"output={tmp_path / 'drawn'}")
    assert {path.name for path in out.iterdir()} == {"train2017", "test2017", "annotations"}
    with pytest.raises(ConfigError, match=r"splits=\['dev'\]: some of train, val, test, or null"):
        converted(*place, f"output={tmp_path / 'none'}", "splits=[dev]")
    with pytest.raises(ConfigError, match=r"splits=\[\]: some of train"):
        converted(*place, f"output={tmp_path / 'none'}", "splits=[]")


def test_images_of_one_name_are_told_apart_by_their_paths(tmp_path):
    yolo(tmp_path / "source", splits=("train", "val"))
    place = ["data=yolo_text", f"data.reader.root={tmp_path / 'source'}", "to=voc"]
    out = converted(*place, f"output={tmp_path / 'out'}")
    names = sorted(path.name for path in (out / "JPEGImages").iterdir())
    assert names[0] == "images_train_000.jpg"
    assert len(names) == 12
    same(YoloText(root=str(tmp_path / "source")), VocDetection(root=str(out)), "val", ids=False)
    save(tmp_path / "source" / "images" / "train" / "000.png", picture(0, SIZE))
    with pytest.raises(DataError, match=r"train/000\.jpg and images/train/000\.png would have one name"):
        converted(*place, f"output={tmp_path / 'again'}")


def test_names_with_spaces_and_classes_with_signs(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    classes = ("a ball", 'it\'s, {odd}: "très"')
    yolo(tmp_path / "source", classes=classes, splits=("train",))
    (tmp_path / "source" / "data.yaml").write_text(json.dumps({"names": classes}))
    for kind, suffix in (("images", "jpg"), ("labels", "txt")):
        folder = tmp_path / "source" / kind / "train"
        (folder / f"001.{suffix}").rename(folder / f"a b.{suffix}")
    for to in ("voc", "coco", "yolo"):
        place = ["data=yolo_text", f"data.reader.root={tmp_path / 'source'}", "splits=[train]"]
        converted(*place, f"to={to}", f"output={tmp_path / to}")
        reader = trained_on(caplog.text)
        assert reader.classes == classes
        same(YoloText(root=str(tmp_path / "source")), reader, "train", ids=False)


def test_an_image_annotated_unturned_is_written_as_it_was_annotated(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    voc(tmp_path / "source", splits=("train", "val"), each=3)
    save(
        tmp_path / "source" / "JPEGImages" / "train_001.jpg", picture(0, SIZE), exif=exif
    )  # and <size> unturned
    place = [*VOC, f"data.reader.root={tmp_path / 'source'}"]
    source = VocDetection(root=str(tmp_path / "source"))
    assert source.split("train")[1].image.shape[:2] == SIZE
    converted(*place, "to=coco", f"output={tmp_path / 'coco'}")
    same(source, CocoDetection(root=str(tmp_path / "coco")), "train")
    out = converted(*place, "to=yolo", f"output={tmp_path / 'yolo'}")
    same(source, YoloText(root=str(out)), "train", ids=False)
    assert (out / "images" / "train" / "train_001.png").is_file()


def test_nothing_is_written_of_a_set_with_faults(tmp_path, caplog):
    voc(tmp_path / "source", splits=("train", "val"))
    voc_xml(tmp_path / "source" / "Annotations" / "val_001.xml", [("ball", (50, 20, 80, 30))], SIZE)
    place = [*VOC, f"data.reader.root={tmp_path / 'source'}", "to=yolo", f"output={tmp_path / 'new' / 'out'}"]
    with pytest.raises(
        DataError, match=r"val_001\.xml: object 1 \(ball\) .* lies outside(.|\n)*data\.on_error=skip"
    ):
        converted(*place)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
    out = converted(*place, "data.on_error=skip")
    assert "val: 1 of 6 samples left out (data.on_error=skip)" in caplog.text
    assert len(YoloText(root=str(out)).split("val")) == 5


def test_nothing_half_written_remains(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(convert.WRITE, "yolo", stop)
    voc(tmp_path / "source", splits=("train", "val"))
    with pytest.raises(KeyboardInterrupt):
        converted(*VOC, f"data.reader.root={tmp_path / 'source'}", "to=yolo", f"output={tmp_path / 'out'}")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*VOC, "to=pascal"], r"to=pascal: one of voc, coco, yolo"),
        ([*VOC, "files=move"], r"files=move: one of link, copy"),
        ([*VOC, "output=here"], r"output=here: exists already; name another folder, or remove it"),
        (
            ["data=mask_folders", "data.reader.classes=[a]"],
            r"data\.reader answers with mask, and boxes are conv",
        ),
        ([*VOC, "+data.reader.clip=true"], r"VocDetection has no parameter 'clip', nearest: 'clip_boxes'"),
        (None, r"`data` names no `_target_`: choose an option, data="),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, overrides, message):
    monkeypatch.chdir(tmp_path)
    voc(tmp_path / "here", splits=("train", "val"))
    overrides = [] if overrides is None else [*overrides, "data.reader.root=here"]
    overrides += [
        f"{key}={value}"
        for key, value in (("to", "coco"), ("output", "there"))
        if not any(o.startswith(f"{key}=") for o in overrides)
    ]
    with pytest.raises(Exception, match=message):  # Hydra wraps what a dataclass refuses
        converted(*overrides)
    assert {path.name for path in tmp_path.iterdir()} == {"here"}


def test_the_script(tmp_path):
    coco(tmp_path / "source", splits=("train", "val"))
    place = ["data=coco", "data.reader.root=source", "data.reader.classes=null"]
    done = succeeded(script("convert", *place, "to=yolo", "output=out", cwd=tmp_path))
    assert "val: 6 images" in done.stdout
    assert "python scripts/train.py data=yolo_text data.reader.root=out task=detection" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"source", "out"}
    again = script("convert", *place, "to=yolo", "output=out", cwd=tmp_path)
    assert again.returncode == 1
    assert "error: output=out: exists already" in again.stderr
    shown = succeeded(script("convert", "--help", cwd=tmp_path)).stdout
    for key in ("to", "output", "splits", "files"):
        assert key in shown
    assert "yolo_text" in shown
