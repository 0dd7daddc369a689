import json

import numpy as np
import pytest
from PIL import Image

from command_line import script, succeeded
from paribus.data.detection import CocoDetection, VocDetection
from paribus.data.samples import DataError
from paribus.results import Run, curves
from small_data import coco, picture, save, scene, voc, voc_xml

SIZE = (48, 64)


@pytest.mark.parametrize(("write", "reader"), [(voc, VocDetection), (coco, CocoDetection)])
def test_reads_images_and_boxes(tmp_path, write, reader):
    reader = reader(root=str(write(tmp_path)))
    assert (reader.target, reader.classes) == ("boxes", ("ball", "cube"))
    split = reader.split("val")
    assert split.problems() == []
    assert len(split) == 6
    for i, sample in enumerate(split):
        _, boxes = scene(i + 10, reader.classes, SIZE)
        target = sample.target
        assert (target["boxes"].dtype, target["labels"].dtype) == (np.float32, np.int64)
        assert target["boxes"].shape == (len(boxes), 4)
        assert target["boxes"].tolist() == [list(map(float, box)) for _, box in boxes]
        assert [reader.classes[label] for label in target["labels"]] == [name for name, _ in boxes]
        for x1, y1, x2, y2 in target["boxes"].astype(int):  # the coloured block is where the box is
            assert np.abs(sample.image[y1:y2, x1:x2].astype(int) - 115).max(2).min() > 30
    assert all(path.is_file() for path in split.files())


def test_empty_images_are_kept_or_left_out(tmp_path):
    voc(tmp_path / "voc")
    coco(tmp_path / "coco")
    for reader, root in ((VocDetection, "voc"), (CocoDetection, "coco")):
        assert len(reader(root=str(tmp_path / root)).split("train")) == 6
        split = reader(root=str(tmp_path / root), keep_empty=False).split("train")
        assert len(split) == 4
        assert min(len(s.target["labels"]) for s in split) == 1


def test_voc_counts_pixels_from_one(tmp_path):
    voc(tmp_path, splits=("train",), each=2)
    voc_xml(tmp_path / "Annotations" / "train_000.xml", [("ball", (0, 0, 64, 48))], SIZE)
    assert "<xmin>1</xmin>" in (tmp_path / "Annotations" / "train_000.xml").read_text()
    split = VocDetection(root=str(tmp_path)).split("train")
    assert split[0].target["boxes"].tolist() == [[0, 0, 64, 48]]
    split = VocDetection(root=str(tmp_path), first_pixel=0).split("train")
    assert split[0].target["boxes"].tolist() == [[1, 1, 64, 48]]


def test_voc_difficult_objects(tmp_path):
    voc(tmp_path, splits=("train",), each=2)
    voc_xml(tmp_path / "Annotations" / "train_001.xml", [("ball", (1, 1, 9, 9))], SIZE, difficult=1)
    lengths = [
        len(VocDetection(root=str(tmp_path), classes=["ball"], difficult=d).split("train")[1].target["boxes"])
        for d in ("keep", "drop")
    ]
    assert lengths == [1, 0]


def test_voc_without_lists_is_split_by_seed(tmp_path):
    voc(tmp_path, splits=("train",), each=10)
    reader = VocDetection(root=str(tmp_path), lists=None, split={"val": 0.2, "test": 0.1})
    ids = [{s.id for s in reader.split(name)} for name in ("train", "val", "test")]
    assert [len(part) for part in ids] == [7, 2, 1]
    assert len(set.union(*ids)) == 10
    with pytest.raises(DataError, match="no 'val' split"):
        VocDetection(root=str(tmp_path), lists=None).split("val")


def test_voc_finds_any_image_format_and_class_lists(tmp_path):
    voc(tmp_path, splits=("train",), each=2)
    (tmp_path / "JPEGImages" / "train_001.jpg").unlink()
    save(tmp_path / "JPEGImages" / "train_001.png", picture(0, SIZE))
    (tmp_path / "ImageSets" / "Main" / "ball_train.txt").write_text("train_000 -1\ntrain_001  1\n")
    reader = VocDetection(root=str(tmp_path), lists="ImageSets/Main/ball_{split}.txt")
    assert [s.id for s in reader.split("train")] == ["JPEGImages/train_000.jpg", "JPEGImages/train_001.png"]


def problem_of(root, boxes=None, xml=None, size=SIZE, **options):
    """The one problem of a VOC set whose second annotation is replaced."""
    voc(root, splits=("train",), each=3)
    path = root / "Annotations" / "train_001.xml"
    if boxes is not None:
        voc_xml(path, boxes, size)
    if xml is not None:
        path.write_text(xml)
    (problem,) = VocDetection(root=str(root), classes=["ball", "cube"], **options).split("train").problems()
    assert (problem.index, problem.file) == (1, "Annotations/train_001.xml")
    return problem


def test_box_outside_the_image(tmp_path):
    problem = problem_of(tmp_path, [("ball", (10, 10, 20, 20)), ("cube", (50, 20, 80, 30))])
    assert problem.what == "object 2 (cube) x 51 to 80, y 21 to 30 lies outside the image (64 x 48)"
    assert "data.reader.clip_boxes=true" in problem.fix


@pytest.mark.parametrize("box", [(30, 10, 20, 20), (10, 20, 20, 20), (10, 10, 11, 30), (10, 10, 10, 10)])
def test_inverted_or_degenerate_box(tmp_path, box):
    assert "has no area or is inverted" in problem_of(tmp_path, [("ball", box)]).what


def test_clip_boxes(tmp_path):
    voc(tmp_path, splits=("train",), each=2)
    boxes = [
        ("cube", (50, 20, 80, 30)),
        ("ball", (9, 9, 9, 20)),
        ("ball", (70, 0, 90, 9)),
        ("ball", (1, 2, 3, 4)),
    ]
    voc_xml(tmp_path / "Annotations" / "train_001.xml", boxes, SIZE)
    split = VocDetection(root=str(tmp_path), clip_boxes=True, classes=["ball", "cube"]).split("train")
    assert split.problems() == []
    assert split[1].target["boxes"].tolist() == [[50, 20, 64, 30], [1, 2, 3, 4]]
    assert split[1].target["labels"].tolist() == [1, 0]


def test_one_pixel_outside_is_rounding(tmp_path):
    voc(tmp_path, splits=("train",), each=2)
    voc_xml(tmp_path / "Annotations" / "train_001.xml", [("ball", (-1, -0.5, 65, 48.4))], SIZE)
    split = VocDetection(root=str(tmp_path), classes=["ball"]).split("train")
    assert split.problems() == []
    assert split[1].target["boxes"].tolist() == [[0, 0, 64, 48]]


def test_unknown_class(tmp_path):
    problem = problem_of(tmp_path, [("balll", (1, 1, 9, 9)), ("ball", (1, 1, 9, 9))])
    assert "objects of the unknown class(es) ['balll']" in problem.what
    assert "data.reader.unknown=drop" in problem.fix
    reader = VocDetection(root=str(tmp_path), classes=["ball", "cube"], unknown="drop")
    assert reader.split("train")[1].target["labels"].tolist() == [0]


def test_malformed_xml(tmp_path):
    assert "is no valid XML annotation" in problem_of(tmp_path, xml="<annotation><object>").what


def test_xml_without_coordinates(tmp_path):
    xml = "<annotation><object><name>ball</name><bndbox><xmin>3</xmin></bndbox></object></annotation>"
    assert "lacks a coordinate" in problem_of(tmp_path, xml=xml).what


def test_annotation_of_another_size(tmp_path):
    what = problem_of(tmp_path, [("ball", (1, 1, 9, 9))], size=(100, 200)).what
    assert what == "is made for 200 x 100, its image JPEGImages/train_001.jpg is 64 x 48 (width x height)"


def test_size_of_zero_is_no_claim(tmp_path):
    voc(tmp_path, splits=("train",), each=2)
    voc_xml(tmp_path / "Annotations" / "train_001.xml", [("ball", (1, 1, 9, 9))], (0, 0))
    assert VocDetection(root=str(tmp_path), classes=["ball"]).split("train").problems() == []


def test_missing_image_and_missing_annotation(tmp_path):
    voc(tmp_path, splits=("train",), each=3)
    (tmp_path / "JPEGImages" / "train_000.jpg").unlink()
    (tmp_path / "Annotations" / "train_002.xml").unlink()
    problems = VocDetection(root=str(tmp_path), keep_empty=False).split("train").problems()
    assert [p.file for p in problems] == ["Annotations/train_002.xml"]  # the first has no object
    problems = VocDetection(root=str(tmp_path)).split("train").problems()
    assert [(p.index, p.file, p.what) for p in problems] == [
        (0, "JPEGImages/train_000.jpg", "file is missing"),
        (2, "Annotations/train_002.xml", "file is missing"),
    ]


def test_voc_messages_at_once(tmp_path):
    with pytest.raises(
        DataError, match=r"JPEGImages does not exist: `data.reader.root` is the folder that holds"
    ):
        VocDetection(root=str(tmp_path))
    reader = VocDetection(root=str(voc(tmp_path, splits=("train", "val"))))
    with pytest.raises(DataError, match=r"test.txt does not exist"):
        reader.split("test")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("\n")
    with pytest.raises(DataError, match="'val' is empty"):
        reader.split("val")


@pytest.mark.parametrize(("annotated", "shape"), [(SIZE, SIZE), ((64, 48), (64, 48))])
def test_orientation_follows_the_annotated_size(tmp_path, annotated, shape):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored as 48 x 64 (H x W), upright as 64 x 48
    voc(tmp_path, splits=("train",), each=2)
    save(tmp_path / "JPEGImages" / "train_001.jpg", picture(0, SIZE), exif=exif)
    voc_xml(tmp_path / "Annotations" / "train_001.xml", [("ball", (1, 1, 40, 40))], annotated)
    split = VocDetection(root=str(tmp_path), classes=["ball"]).split("train")
    assert split.problems() == []
    assert split[1].image.shape[:2] == shape


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_coco_ids_crowds_and_areas(tmp_path):
    coco(tmp_path, splits=("train",))

    def edit(content):
        content["categories"].reverse()  # the order in the file does not matter, the ids do
        content["annotations"][0].update(iscrowd=1, area=17.5)
        del content["annotations"][1]["area"], content["annotations"][1]["iscrowd"]

    change(tmp_path / "annotations" / "instances_train2017.json", edit)
    reader = CocoDetection(root=str(tmp_path))
    assert reader.classes == ("ball", "cube")
    first, second = reader.split("train")[1].target, reader.split("train")[2].target
    assert (first["iscrowd"].tolist(), first["area"].tolist()) == ([1], [17.5])
    assert second["iscrowd"].tolist() == [0, 0]
    assert second["area"].tolist() == [21 * 24] * 2
    assert reader.split("train")[0].target["area"].shape == (0,)
    given = CocoDetection(root=str(tmp_path), classes=["cube", "ball"])
    assert (given.split("train")[1].target["labels"] == 1 - first["labels"]).all()


def test_coco_masks_equal_pycocotools(tmp_path):
    from pycocotools import mask as reference

    coco(tmp_path, splits=("train",))
    blob = np.zeros(SIZE, np.uint8, order="F")
    blob[5:20, 7:30] = 1
    blob[9:12, 9:20] = 0
    counts = []  # uncompressed: runs of 0 and 1 in turn, column by column
    flat = blob.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    compressed = reference.encode(blob)
    compressed["counts"] = compressed["counts"].decode()
    polygon = [[3.2, 4.1, 30.7, 9.9, 22.3, 40.5], [40, 40, 50, 40, 50, 47]]
    segments = [polygon, {"size": list(SIZE), "counts": counts}, compressed]

    def edit(content):
        content["annotations"] = [
            {"id": i, "image_id": 1000, "category_id": 10, "bbox": [1, 1, 40, 40], "segmentation": s}
            for i, s in enumerate(segments)
        ]

    path = tmp_path / "annotations" / "instances_train2017.json"
    change(path, edit)
    split = CocoDetection(root=str(tmp_path), masks=True).split("train")
    masks = split[0].target["masks"]
    assert (masks.dtype, masks.shape) == (np.uint8, (3, *SIZE))
    merged = reference.merge(reference.frPyObjects(polygon, *SIZE))
    np.testing.assert_array_equal(masks[0], reference.decode(merged))
    np.testing.assert_array_equal(masks[1], blob)
    np.testing.assert_array_equal(masks[2], blob)
    assert split[1].target["masks"].shape == (0, *SIZE)
    assert "masks" not in CocoDetection(root=str(tmp_path)).split("train")[0].target

    change(path, lambda content: content["annotations"][1].pop("segmentation"))
    (problem,) = CocoDetection(root=str(tmp_path), masks=True).split("train").problems()
    assert problem.what == "the objects [1] of 000000.jpg have no mask"


def test_coco_problems(tmp_path):
    coco(tmp_path, splits=("train",))
    path = tmp_path / "annotations" / "instances_train2017.json"

    def edit(content):
        content["annotations"][0]["bbox"] = [60, 0, 30, 10]
        content["annotations"][1]["category_id"] = 77

    change(path, edit)
    (tmp_path / "train2017" / "000003.jpg").unlink()
    problems = CocoDetection(root=str(tmp_path)).split("train").problems()
    assert [p.index for p in problems] == [1, 2, 3]
    assert problems[0].file == "annotations/instances_train2017.json"
    assert "object 1 (cube) x 60 to 90, y 0 to 10 lies outside the image (64 x 48)" in problems[0].what
    assert "000002.jpg has objects of the unknown class(es) ['category id 77']" in problems[1].what
    assert (problems[2].file, problems[2].what) == ("train2017/000003.jpg", "file is missing")


def test_coco_one_file_is_split_by_seed(tmp_path):
    coco(tmp_path, splits=("all",), each=10)
    reader = CocoDetection(
        root=str(tmp_path),
        images="all2017",
        annotations="annotations/instances_all2017.json",
        split={"val": 0.3},
    )
    assert [len(reader.split(name)) for name in ("train", "val")] == [7, 3]
    assert not {s.id for s in reader.split("train")} & {s.id for s in reader.split("val")}


def test_coco_messages_at_once(tmp_path):
    with pytest.raises(
        DataError, match=r"instances_train2017.json does not exist: set `data.reader.annotations`"
    ):
        CocoDetection(root=str(tmp_path))
    coco(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    reader = CocoDetection(root=str(tmp_path))
    change(path, lambda content: content["categories"][0].update(name="bowl"))
    with pytest.raises(DataError, match=r"class names disagree: \['ball', 'bowl'\]"):
        reader.split("val")
    change(path, lambda content: content["annotations"][0].update(image_id=99))
    reader = CocoDetection(root=str(tmp_path))
    with pytest.raises(
        DataError, match=r"is no COCO file: it lacks, or an entry of it names, KeyError\(99\)"
    ):
        reader.split("val")
    reader = CocoDetection(root=str(tmp_path))
    path.write_text(path.read_text()[:200])
    with pytest.raises(DataError, match="is no valid JSON"):
        reader.split("val")
    path.write_text("[]")
    with pytest.raises(DataError, match="is no COCO file"):
        reader.split("val")


def test_coco_some_classes_only(tmp_path):
    coco(tmp_path, splits=("train",))
    reader = CocoDetection(root=str(tmp_path), classes=["cube"], unknown="drop", keep_empty=False)
    targets = [s.target for s in reader.split("train")]
    assert targets
    assert all(
        len(t["labels"]) and (t["labels"] == 0).all() and len(t["area"]) == len(t["boxes"]) for t in targets
    )
    with pytest.raises(DataError, match=r"class names disagree: \['ball'\]"):
        CocoDetection(root=str(tmp_path), classes=["cube"]).split("train")


@pytest.mark.slow
def test_a_set_of_mostly_empty_images_trains_and_is_judged(tmp_path):
    voc(tmp_path / "set", splits=("train", "val"), each=12)
    for path in (tmp_path / "set" / "Annotations").iterdir():
        if path.stem[-1] != "1":
            voc_xml(path, [], SIZE)
    arguments = [
        "data=voc_detection",
        "data.reader.root=set",
        "data.reader.classes=[ball, cube]",
        "data.size=[48, 64]",
    ]
    arguments += ["data.num_workers=0", "data.batch_size=4", "backbone.channels=[8, 16]", "task=detection"]
    arguments += [
        "model=retinanet",
        "model.pyramid_channels=16",
        "model.levels=[4, 8]",
        "test=false",
        "name=empty",
    ]
    arguments += ["trainer.max_epochs=1", "trainer.progress=false", "trainer.log_every=1"]
    succeeded(script("train", *arguments, cwd=tmp_path))
    (run,) = (Run.read(path) for path in tmp_path.glob("runs/empty/*"))
    assert run.status == "done"
    assert 0 <= run.metrics["val/ap"] <= 1
    losses = [value for _, _, value in curves(run)["train/loss"]]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
