"""What is written is read back by the readers, bit for bit; and by pycocotools."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from paribus.data.detection import CocoDetection, VocDetection
from paribus.data.writing import IMAGES, Annotated, write_coco, write_voc, write_yolo
from paribus.data.yolo_text import YoloText
from small_data import save

CLASSES = ("ball", "a cube <&> café", "10")
FORMATS = {
    "voc": (write_voc, lambda root: VocDetection(root=root, classes=list(CLASSES))),
    "coco": (write_coco, lambda root: CocoDetection(root=root)),
    "yolo": (write_yolo, lambda root: YoloText(root=root)),
}


def boxes(kind: str, size: tuple[int, int], seed: int) -> np.ndarray:
    """float32 [40, 4], wider and higher than a pixel; the last is the whole image."""
    rng = np.random.default_rng(seed)
    limit = np.array([size[1], size[0]] * 2, np.float64)
    low = rng.uniform(0, 0.6, (40, 2)) * limit[:2]
    high = low + 2.5 + rng.uniform(0, 0.3, (40, 2)) * limit[:2]
    found = np.concatenate([low, high], axis=1)
    if kind == "whole":
        found = np.rint(found)
    if kind == "tenths":
        found = np.rint(found * 10) / 10
    found = np.clip(found, 0, limit).astype(np.float32)
    found[0, :2], found[1, 2:], found[2] = 0, limit[2:], [0, 0, *limit[2:]]
    found[3, 0] = 1e-4
    return found


@pytest.mark.parametrize("kind", ["whole", "tenths", "random"])
@pytest.mark.parametrize("to", FORMATS)
def test_boxes_come_back_bit_for_bit(tmp_path, to, kind):
    write, read = FORMATS[to]
    images = []
    for number, size in enumerate([(48, 64), (333, 500), (41, 37), (60, 60)]):
        file = f"{number}.png"
        save(tmp_path / IMAGES[to].replace("{split}", "train") / file, np.zeros((*size, 3), np.uint8))
        found = boxes(kind, size, number) if number < 3 else np.zeros((0, 4), np.float32)
        target = {"boxes": found, "labels": np.arange(len(found)) % 3}
        images.append(Annotated(file, size, target))
    write(tmp_path, {"train": images}, CLASSES)
    reader = read(str(tmp_path))
    assert reader.classes == CLASSES
    split = reader.split("train")
    assert split.problems() == []
    assert len(split) == 4
    for image, sample in zip(images, split, strict=True):
        assert sample.target["boxes"].dtype == np.float32
        np.testing.assert_array_equal(sample.target["boxes"], image.target["boxes"])
        np.testing.assert_array_equal(sample.target["labels"], image.target["labels"])


def one(**more) -> dict[str, list[Annotated]]:
    target = {
        "boxes": np.array([[2, 3, 10, 9.5], [0, 0, 4, 4]], np.float32),
        "labels": np.array([1, 0]),
        **more,
    }
    return {"val": [Annotated("x.png", (48, 64), target)]}


def test_numbers_have_no_more_digits_than_they_need(tmp_path):
    write_voc(tmp_path, one(difficult=np.array([0, 1]), iscrowd=np.array([0, 0])), CLASSES)
    root = ElementTree.parse(tmp_path / "Annotations" / "x.xml").getroot()
    assert [e.text for e in root.iter("bndbox") for e in e] == ["3", "4", "10", "9.5", "1", "1", "4", "4"]
    assert [e.text for e in root.iter("difficult")] == ["0", "1"]
    assert [root.findtext(f"size/{key}") for key in ("width", "height", "depth")] == ["64", "48", "3"]
    assert (tmp_path / "ImageSets" / "Main" / "val.txt").read_text() == "x\n"
    write_yolo(tmp_path, one(), CLASSES)
    text = (tmp_path / "labels" / "val" / "x.txt").read_text()
    assert (
        text == "1 0.0937500 0.130208335 0.125000 0.13541667\n0 0.0312500 0.0416666665 0.062500 0.083333333\n"
    )
    write_coco(tmp_path, one(area=np.array([17.3, 16], np.float32)), CLASSES)
    content = json.loads((tmp_path / "annotations" / "instances_val2017.json").read_text())
    assert content["annotations"][0] == {
        "id": 1,
        "image_id": 1,
        "category_id": 2,
        "bbox": [2, 3, 8, 6.5],
        "area": 17.3,
        "iscrowd": 0,
    }
    assert content["images"] == [{"id": 1, "file_name": "x.png", "height": 48, "width": 64}]


def test_coco_without_areas_has_those_of_the_boxes_and_pycocotools_reads_it(tmp_path):
    from pycocotools.coco import COCO

    write_coco(tmp_path, one(iscrowd=np.array([1, 0])), CLASSES)
    coco = COCO(tmp_path / "annotations" / "instances_val2017.json")
    assert [a["area"] for a in coco.loadAnns(coco.getAnnIds())] == [52, 16]
    assert coco.getAnnIds(iscrowd=True) == [1]
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)


def test_a_crowd_is_difficult_to_voc(tmp_path):
    write_voc(tmp_path, one(iscrowd=np.array([1, 0])), CLASSES)
    root = ElementTree.parse(tmp_path / "Annotations" / "x.xml").getroot()
    assert [e.text for e in root.iter("difficult")] == ["1", "0"]
