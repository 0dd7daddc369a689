import logging
import re

import numpy as np
import pytest
from PIL import Image

from composing import composed
from paribus.build import make
from paribus.checks import check
from paribus.data.module import DataModule
from paribus.data.samples import DataError
from paribus.data.yolo_text import YoloText
from small_data import picture, save, scene, yolo, yolo_line

SIZE = (48, 64)


def same(split, first: int, classes) -> None:
    """The split holds small_data's scenes from the first on."""
    assert split.problems() == []
    assert len(split) == 6
    for i, sample in enumerate(split):
        _, boxes = scene(i + first, classes, SIZE)
        target = sample.target
        assert (target["boxes"].dtype, target["labels"].dtype) == (np.float32, np.int64)
        assert target["boxes"].shape == (len(boxes), 4)
        np.testing.assert_allclose(target["boxes"], np.reshape([box for _, box in boxes], (-1, 4)), atol=1e-5)
        assert [classes[label] for label in target["labels"]] == [name for name, _ in boxes]


def test_reads_images_and_boxes(tmp_path):
    reader = YoloText(root=str(yolo(tmp_path)))
    assert (reader.target, reader.classes) == ("boxes", ("ball", "cube"))
    split = reader.split("val")
    same(split, 10, reader.classes)
    assert split[1].id == "images/val/001.jpg"
    assert {str(p.relative_to(tmp_path)) for p in split.files()} >= {
        "images/val/001.jpg",
        "labels/val/001.txt",
    }


def test_the_option_reads_it(tmp_path):
    yolo(tmp_path, splits=("train", "val"))
    cfg = check(
        composed("data=yolo_text", f"data.reader.root={tmp_path}", "task=detection", "model=retinanet")
    )
    data = make(cfg.data)
    assert isinstance(data, DataModule)
    same(data.reader.split("test"), 10, data.classes)


def test_other_folders_and_names_of_splits(tmp_path):
    yolo(tmp_path, splits=("train", "valid"))
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        for kind in ("images", "labels"):
            (tmp_path / kind / split).rename(tmp_path / split / kind)
    reader = YoloText(
        root=str(tmp_path),
        images="{split}/images",
        labels="{split}/labels",
        splits={"train": "train", "val": "valid"},
    )
    same(reader.split("val"), 10, reader.classes)


@pytest.mark.parametrize("beside", [True, False])
def test_lists_name_the_images_as_darknet_does(tmp_path, beside):
    yolo(tmp_path, splits=("train",))
    names = [f"./images/train/{i:03d}.jpg" for i in range(6)]
    if beside:
        for path in (tmp_path / "labels" / "train").iterdir():
            path.rename(tmp_path / "images" / "train" / path.name)
        (tmp_path / "images").rename(tmp_path / "obj")
        names = [str(tmp_path / "obj" / "train" / f"{i:03d}.jpg") for i in range(6)]
    (tmp_path / "train.txt").write_text("\n".join([*names, ""]))
    split = YoloText(root=str(tmp_path), lists="{split}.txt").split("train")
    same(split, 0, ("ball", "cube"))
    assert tmp_path / "train.txt" in split.files()
    (tmp_path / "train.txt").write_text(f"{names[1]}\nimages/nowhere.jpg\n")
    (problem,) = YoloText(root=str(tmp_path), lists="{split}.txt").split("train").problems()
    assert (problem.file, problem.what) == ("images/nowhere.jpg", "file is missing")


def test_folders_below_are_read_too(tmp_path):
    yolo(tmp_path, splits=("train/a", "train/b"))
    split = YoloText(root=str(tmp_path)).split("train")
    assert split.problems() == []
    assert [s.id for s in split] == [f"images/train/{part}/{i:03d}.jpg" for part in "ab" for i in range(6)]
    assert len(split[7].target["boxes"]) == len(scene(11, ("ball", "cube"), SIZE)[1])


def test_one_folder_is_split_by_seed(tmp_path):
    yolo(tmp_path, splits=("all",), each=10)
    reader = YoloText(root=str(tmp_path), images="images/all", labels="labels/all", split={"val": 0.3})
    assert [len(reader.split(name)) for name in ("train", "val")] == [7, 3]
    assert not {s.id for s in reader.split("train")} & {s.id for s in reader.split("val")}


def test_images_without_objects(tmp_path):
    yolo(tmp_path, splits=("train",))  # 0 has no text file, the text of 3 is empty
    (tmp_path / "labels" / "train" / "001.txt").write_text("\n  \n")
    counts = [len(s.target["boxes"]) for s in YoloText(root=str(tmp_path)).split("train")]
    assert counts == [0, 0, 2, 0, 1, 2]
    kept = YoloText(root=str(tmp_path), keep_empty=False).split("train")
    assert [s.id[-7:-4] for s in kept] == ["002", "004", "005"]
    (problem,) = YoloText(root=str(tmp_path), missing="stop").split("train").problems()
    assert (problem.file, problem.what) == ("labels/train/000.txt", "file is missing")
    assert "data.reader.missing=empty" in problem.fix


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.yaml", "nc: 2\nnames: [ball, cube]\n"),
        ("data.yml", "names: {0: ball, 1: cube}\n"),
        ("classes.txt", "ball\ncube\n"),
        ("obj.names", "ball\ncube\n"),
    ],
)
def test_classes_come_from_where_they_are_listed(tmp_path, name, text):
    yolo(tmp_path, splits=("train",))
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"none of data\.yaml, .*set `data\.reader\.classes=\[\.\.\.\]`"):
        YoloText(root=str(tmp_path))
    (tmp_path / name).write_text(text)
    assert YoloText(root=str(tmp_path)).classes == ("ball", "cube")
    assert YoloText(root=str(tmp_path), classes=["a", "b", "c"]).classes == ("a", "b", "c")


@pytest.mark.parametrize("text", ["nc: 2\n", "names: {1: ball}\n", "names: [", "- ball\n", "names: 3\n"])
def test_a_file_that_does_not_list_the_classes(tmp_path, text):
    yolo(tmp_path, splits=("train",))
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(
        DataError, match=r"data\.yaml does not list the classes as `names: \[\.\.\.\]`.*data\.reader\.classes"
    ):
        YoloText(root=str(tmp_path))


def test_a_class_has_one_name(tmp_path):
    yolo(tmp_path, splits=("train",))
    with pytest.raises(DataError, match=r"data\.reader\.classes names \['a'\] twice"):
        YoloText(root=str(tmp_path), classes=["a", "b", "a"])


def problem_of(root, text, **options):
    """The one problem of a set whose second text file is replaced."""
    yolo(root, splits=("train",), each=4)
    (root / "labels" / "train" / "001.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    (problem,) = YoloText(root=str(root), **options).split("train").problems()
    assert (problem.index, problem.file) == (1, "labels/train/001.txt")
    return problem


GOOD = "0 0.5 0.5 0.25 0.25\n"


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        (GOOD + "1 0.5 0.5 0.2", r"line 2 has 4 values, neither a box \(5\) nor a polygon: '1 0.5 0.5 0.2'", "write"),
        (GOOD + "\n1 0.5 half 0.2 0.2", r"line 3 holds what is no number: '1 0.5 half 0.2 0.2'", "`class cx cy w h`"),
        ("0 0.5 nan 0.2 0.2", r"line 1 holds what is no finite number", "write"),
        ("0 0.5 inf 0.2 0.2", r"line 1 holds what is no finite number", "write"),
        ("0 0.5 0.5 0.2 0.2 0.9", r"line 1 has 6 values: with a confidence it is a prediction", "write"),
        ("0 0.1 0.1 0.9 0.1 0.9 0.9 0.1", r"line 1 has 8 values", "write"),
        ("0.5 0.5 0.5 0.2 0.2", r"line 1: the class is 0.5, and no whole number", "write"),
        ("0 32 24 16 12", r"line 1 counts pixels: '0 32 24 16 12'", "shares of the image"),
        (b"\xff\xfe\x00\x80", r"can't decode|invalid start byte", "write"),
        ("2 0.5 0.5 0.2 0.2", r"images/train/001\.jpg has objects of the unknown class\(es\) \['class 2'\]", "unknown=drop"),
        ("-1 0.5 0.5 0.2 0.2", r"unknown class\(es\) \['class -1'\]", "data.reader.classes"),
        (
            GOOD + "1 0.9 0.5 0.4 0.25",
            r"object in line 2 \(cube\) x 44.8 to 70.4, y 18 to 30 lies outside the image \(64 x 48\)",
            "data.reader.clip_boxes=true",
        ),
        ("0 -0.5 0.5 0.4 0.25", r"object in line 1 \(ball\) x -44.8 to -19.2, .* lies outside the image", "clip_boxes"),
        ("0 0.5 0.5 0 0.25", r"object in line 1 \(ball\) .* has no area or is inverted", "clip_boxes"),
        ("0 0.5 0.5 -0.2 0.25", r"has no area or is inverted", "clip_boxes"),
        (GOOD + "1 0.1 0.1 0.5 0.1 0.3 0.6", r"line 2 is a polygon, of 1", "data.reader.polygons=boxes"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line_is_said(tmp_path, text, what, fix):
    problem = problem_of(tmp_path, text)
    assert re.search(what, problem.what), problem.what
    assert fix in problem.fix


def test_other_classes_can_be_dropped_and_boxes_clipped(tmp_path):
    yolo(tmp_path, splits=("train",))
    lines = [GOOD, "7 0.5 0.5 0.25 0.25\n", "1 0.9 0.5 0.4 0.25\n", "1 0.5 0.5 0.0 0.25\n"]
    (tmp_path / "labels" / "train" / "001.txt").write_text("".join(lines))
    split = YoloText(root=str(tmp_path), unknown="drop", clip_boxes=True).split("train")
    assert split.problems() == []
    np.testing.assert_allclose(split[1].target["boxes"], [[24, 18, 40, 30], [44.8, 18, 64, 30]], rtol=1e-6)
    assert split[1].target["labels"].tolist() == [0, 1]


def test_less_than_a_pixel_outside_is_rounding(tmp_path):
    yolo(tmp_path, splits=("train",))
    (tmp_path / "labels" / "train" / "001.txt").write_text("0 0.5 0.5 1.001 1.001\n")
    split = YoloText(root=str(tmp_path)).split("train")
    assert split.problems() == []
    assert split[1].target["boxes"].tolist() == [[0, 0, 64, 48]]


def test_polygons_are_read_as_boxes_and_counted(tmp_path, caplog):
    yolo(tmp_path, splits=("train",))
    (tmp_path / "labels" / "train" / "001.txt").write_text(GOOD + "1 0.125 0.25 0.5 0.5 0.25 0.75\n")
    with caplog.at_level(logging.INFO):
        split = YoloText(root=str(tmp_path), polygons="boxes").split("train")
    assert "train: 1 polygons are read as the boxes around them" in caplog.text
    assert split[1].target["boxes"].tolist() == [[24, 18, 40, 30], [8, 12, 32, 36]]
    assert split[1].target["labels"].tolist() == [0, 1]


def test_boxes_are_shares_of_the_upright_image(tmp_path):
    yolo(tmp_path, splits=("train",))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored as 48 x 64 (H x W), upright as 64 x 48
    save(tmp_path / "images" / "train" / "001.jpg", picture(0, SIZE), exif=exif)
    (tmp_path / "labels" / "train" / "001.txt").write_text(yolo_line(0, (12, 16, 24, 32), (64, 48)))
    sample = YoloText(root=str(tmp_path)).split("train")[1]
    assert sample.image.shape == (64, 48, 3)
    np.testing.assert_allclose(sample.target["boxes"], [[12, 16, 24, 32]], rtol=1e-6)


def test_messages_at_once(tmp_path):
    yolo(tmp_path, splits=("train", "val"))
    reader = YoloText(root=str(tmp_path))
    with pytest.raises(
        DataError, match=r"images/test does not exist: say with `data\.reader\.images`.*splits"
    ):
        reader.split("test")
    for path in (tmp_path / "labels" / "val").iterdir():
        path.unlink()
    with pytest.raises(
        DataError, match=r"None of the 6 images of val has a text file; .*val/000\.txt.*data\.reader\.labels"
    ):
        reader.split("val")
    (tmp_path / "labels" / "val").rmdir()
    with pytest.raises(
        DataError, match=r"labels/val does not exist: say with `data\.reader\.labels` where the text"
    ):
        reader.split("val")
    with pytest.raises(DataError, match=r"train\.txt does not exist"):
        YoloText(root=str(tmp_path), lists="{split}.txt").split("train")
    for path in (tmp_path / "images" / "train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="'train' is empty"):
        reader.split("train")
