import cv2
import numpy as np
import pytest
from PIL import Image

from paribus.data.samples import DataError
from paribus.data.segmentation import MaskFolders
from small_data import mask_folders, picture, save

CAMVID = {"images": "{split}/*.png", "masks": "{split}annot/*.png", "classes": ["a", "b", "c"]}


def test_camvid_layout(tmp_path):
    reader = MaskFolders(root=str(mask_folders(tmp_path)), **CAMVID)
    assert (reader.target, reader.classes, reader.palette) == ("mask", ("a", "b", "c"), None)
    split = reader.split("val")
    assert split.problems() == []
    sample = split[4]
    assert sample.id == "val/004.png"
    assert (sample.target.dtype, sample.target.shape) == (np.uint8, (24, 32))
    assert (sample.target[0] == 255).all()
    assert (sample.target[1:, :16] == 1).all()
    assert (sample.target[1:, 16:] == 2).all()
    assert {path.name for path in split.files()} == {f"{i:03d}.png" for i in range(6)}
    assert len(split.files()) == 12


def test_cityscapes_layout(tmp_path):
    raw = np.array([[7, 8, 0, 33]], np.uint8)
    for name in ("aachen/aachen_000000_000019", "ulm/ulm_1"):
        save(tmp_path / "leftImg8bit" / "train" / f"{name}_leftImg8bit.png", np.zeros((1, 4, 3), np.uint8))
        save(tmp_path / "gtFine" / "train" / f"{name}_gtFine_labelIds.png", raw)
        save(tmp_path / "gtFine" / "train" / f"{name}_gtFine_color.png", raw)
    reader = MaskFolders(
        root=str(tmp_path),
        images="leftImg8bit/{split}/*/*_leftImg8bit.png",
        masks="gtFine/{split}/*/*_gtFine_labelIds.png",
        classes=["road", "sidewalk", "bicycle"],
        label_map={7: 0, 8: 1, 33: 2},
        ignore=[0],
    )
    split = reader.split("train")
    assert [s.id for s in split] == [
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png",
    ]
    assert split[0].target.tolist() == [[0, 1, 255, 2]]


def test_voc_layout_with_palette_and_lists(tmp_path):
    for name, value in (("2007_1", 0), ("2007_2", 1), ("2007_3", 2)):
        save(tmp_path / "JPEGImages" / f"{name}.jpg", picture(0))
        mask = np.full((24, 32), value, np.uint8)
        mask[0] = 255
        image = Image.frombytes("P", (32, 24), mask.tobytes())
        image.putpalette(list(range(256)) * 3)
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        image.save(tmp_path / "SegmentationClass" / f"{name}.png")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_3\n2007_1\n\n")
    reader = MaskFolders(
        root=str(tmp_path),
        images="JPEGImages/*.jpg",
        masks="SegmentationClass/*.png",
        lists="ImageSets/Segmentation/{split}.txt",
        classes=["a", "b", "c"],
        palette=[(0, 0, 0), (1, 1, 1), (2, 2, 2)],
    )
    split = reader.split("train")
    assert [s.id for s in split] == ["JPEGImages/2007_3.jpg", "JPEGImages/2007_1.jpg"]
    assert np.unique(split[0].target).tolist() == [2, 255]
    assert lists / "train.txt" in split.files()
    with pytest.raises(
        DataError, match=r"val.txt does not exist: .*`data.reader.lists`.*`data.reader.splits`"
    ):
        reader.split("val")


def test_the_first_mask_that_is_there(tmp_path):
    mask_folders(tmp_path, splits=("train",), each=3)
    for name, value in (("001", 1), ("002", 2), ("009", 0)):
        save(tmp_path / "fine" / f"{name}.png", np.full((24, 32), value, np.uint8))
    masks = ["fine/*.png", "{split}annot/*.png"]
    split = MaskFolders(root=str(tmp_path), **{**CAMVID, "masks": masks}).split("train")
    assert [np.unique(s.target).tolist() for s in split] == [[0, 1, 255], [1], [2]]
    (tmp_path / "trainannot" / "000.png").unlink()
    split = MaskFolders(root=str(tmp_path), **{**CAMVID, "masks": masks}).split("train")
    assert [problem.file for problem in split.problems()] == ["fine/000.png"]


def test_extra_images_are_each_there_once_and_never_judged(tmp_path):
    for name in "abcdefg":
        save(tmp_path / "images" / f"{name}.png", picture(0))
        save(tmp_path / "masks" / f"{name}.png", np.zeros((24, 32), np.uint8))
    for name, text in (("train", "b a"), ("val", "c"), ("test", "d"), ("more", "a c e"), ("rest", "e d f")):
        (tmp_path / f"{name}.txt").write_text(text.replace(" ", "\n"))
    options = {"images": "images/*.png", "masks": "masks/*.png", "lists": "{split}.txt", "classes": ["x"]}
    reader = MaskFolders(root=str(tmp_path), extra=["more.txt", "rest.txt"], **options)
    ids = {name: [item.image[7] for item in reader.split(name).items] for name in ("train", "val", "test")}
    assert ids == {"train": ["b", "a", "e", "f"], "val": ["c"], "test": ["d"]}
    assert [path.name for path in reader.split("train").files()[:3]] == ["train.txt", "more.txt", "rest.txt"]
    assert [path.name for path in reader.split("val").files()[:2]] == ["val.txt", "c.png"]
    # A part of train that is val's is not train's, whichever list it came from.
    drawn = MaskFolders(
        root=str(tmp_path), extra=["more.txt"], splits={"train": "train"}, split={"val": 0.5}, **options
    )
    parts = [{item.image[7] for item in drawn.split(name).items} for name in ("train", "val")]
    assert (parts[0] & parts[1], parts[0] | parts[1]) == (set(), {"a", "b", "c", "e"})


def test_labels_counted_from_another_number(tmp_path):
    mask_folders(tmp_path, splits=("train",), each=1)
    save(
        tmp_path / "trainannot" / "000.png",
        np.repeat([[0] * 8 + [1] * 8 + [2] * 16], 24, axis=0).astype("u1"),
    )
    options = {**CAMVID, "classes": ["a", "b"]}
    reader = MaskFolders(root=str(tmp_path), first_label=1, ignore=[0], **options)
    assert reader.split("train")[0].target[0].tolist() == [255] * 8 + [0] * 8 + [1] * 16
    (problem,) = problems_of(tmp_path, classes=["a", "b"], first_label=1)
    assert problem.what == "holds the value(s) 0, which are no label of the 2 classes"
    save(tmp_path / "trainannot" / "000.png", np.repeat([[2] * 16 + [255] * 16], 24, axis=0).astype("u1"))
    assert reader.split("train").problems() == []  # 255 is what is ignored, and 1 just does not occur


@pytest.mark.parametrize(
    "line",
    [
        "000",
        "000.png",
        "train/000.png",
        "./train/000.png",
        "/SegNet/train/000.png /SegNet/trainannot/000.png",
    ],
)
def test_lists_as_people_write_them(tmp_path, line):
    mask_folders(tmp_path)
    (tmp_path / "train.txt").write_text(f"\ufeff{line}\r\n", encoding="utf-8")
    reader = MaskFolders(root=str(tmp_path), lists="{split}.txt", **CAMVID)
    assert [s.id for s in reader.split("train")] == ["train/000.png"]


def test_list_that_fits_no_pattern(tmp_path):
    mask_folders(tmp_path)
    (tmp_path / "train.txt").write_text("000\na/b/c/000.jpg\n")
    reader = MaskFolders(root=str(tmp_path), lists="{split}.txt", **CAMVID)
    with pytest.raises(DataError, match=r"1 line\(s\) do not name an image.*first is 'a/b/c/000.jpg'"):
        reader.split("train")


def test_mixed_suffixes_and_one_set_split_by_seed(tmp_path):
    for i in range(10):
        save(tmp_path / "images" / f"a.{i}.{'jpg' if i % 2 else 'png'}", picture(i))
        save(tmp_path / "masks" / f"a.{i}.png", np.zeros((24, 32), np.uint8))
    (tmp_path / "images" / "read.me").touch()
    options = {"images": "images/*.*", "masks": "masks/*.png", "classes": ["a"]}
    reader = MaskFolders(root=str(tmp_path), split={"val": 0.2, "test": 0.2}, **options)
    ids = [{s.id for s in reader.split(name)} for name in ("train", "val", "test")]
    assert [len(part) for part in ids] == [6, 2, 2]
    assert len(set.union(*ids)) == 10
    assert reader.split("train").problems() == []
    # Without fractions the one set is train alone; val must not be the same images.
    with pytest.raises(DataError, match="no 'val' split"):
        MaskFolders(root=str(tmp_path), **options).split("val")


def test_sixteen_bit_masks_and_maps(tmp_path):
    save(tmp_path / "train" / "a.png", np.zeros((1, 4, 3), np.uint8))
    (tmp_path / "trainannot").mkdir()
    cv2.imwrite(str(tmp_path / "trainannot" / "a.png"), np.array([[1000, 2000, 255, 40000]], np.uint16))
    reader = MaskFolders(root=str(tmp_path), label_map={1000: 0, 2000: 2}, ignore=[40000], **CAMVID)
    target = reader.split("train")[0].target
    assert target.dtype == np.uint8
    assert target.tolist() == [[0, 2, 255, 255]]


def test_colour_masks(tmp_path):
    save(tmp_path / "train" / "a.png", np.zeros((1, 2, 3), np.uint8))
    save(tmp_path / "trainannot" / "a.png", np.array([[[128, 0, 0], [0, 0, 7]]], np.uint8))
    palette = [(0, 0, 0), (0, 0, 7), (128, 0, 0)]
    split = MaskFolders(root=str(tmp_path), palette=palette, **CAMVID).split("train")
    assert split[0].target.tolist() == [[2, 1]]
    (problem,) = MaskFolders(root=str(tmp_path), **CAMVID).split("train").problems()
    assert problem.what == "holds colours, not class numbers"
    palette[1] = (9, 9, 9)
    (problem,) = MaskFolders(root=str(tmp_path), palette=palette, **CAMVID).split("train").problems()
    assert problem.what == "holds the colour(s) [0, 0, 7] of no class"
    assert "data.reader.palette" in problem.fix


def test_orientation_follows_the_mask(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 24 x 32, upright 32 x 24
    save(tmp_path / "train" / "stored.jpg", picture(0), exif=exif)
    save(tmp_path / "train" / "upright.jpg", picture(0), exif=exif)
    save(tmp_path / "trainannot" / "stored.png", np.zeros((24, 32), np.uint8))
    save(tmp_path / "trainannot" / "upright.png", np.zeros((32, 24), np.uint8))
    reader = MaskFolders(
        root=str(tmp_path), images="{split}/*.jpg", masks="{split}annot/*.png", classes=["a"]
    )
    assert [s.image.shape[:2] for s in reader.split("train")] == [(24, 32), (32, 24)]


def problems_of(root, **changes):
    return MaskFolders(root=str(root), **{**CAMVID, **changes}).split("train").problems()


def test_missing_mask_and_missing_image(tmp_path):
    mask_folders(tmp_path, splits=("train",))
    (tmp_path / "trainannot" / "002.png").unlink()
    (problem,) = problems_of(tmp_path)
    assert (problem.index, problem.file, problem.what) == (2, "trainannot/002.png", "file is missing")
    (tmp_path / "train.txt").write_text("000\n077\n")
    save(tmp_path / "trainannot" / "077.png", np.zeros((24, 32), np.uint8))
    (problem,) = problems_of(tmp_path, lists="{split}.txt")
    assert (problem.index, problem.file, problem.what) == (1, "train/077.png", "file is missing")


def test_size_mismatch(tmp_path):
    mask_folders(tmp_path, splits=("train",))
    save(tmp_path / "trainannot" / "001.png", np.zeros((24, 30), np.uint8))
    (problem,) = problems_of(tmp_path)
    assert problem.file == "trainannot/001.png"
    assert problem.what == "mask is 30 x 24, its image train/001.png 32 x 24 (width x height)"


def test_label_out_of_range_lists_the_values(tmp_path):
    mask_folders(tmp_path, splits=("train",))
    mask = np.zeros((24, 32), np.uint8)
    mask[3, :5] = [3, 11, 12, 254, 255]
    save(tmp_path / "trainannot" / "001.png", mask)
    (problem,) = problems_of(tmp_path)
    assert problem.what == "holds the value(s) 3, 11, 12, 254, which are no label of the 3 classes"
    assert "data.reader.ignore" in problem.fix
    assert problems_of(tmp_path, ignore=[3, 11, 12, 254]) == []


def test_black_and_white_masks_are_not_half_ignored(tmp_path):
    mask_folders(tmp_path, splits=("train",), each=1)
    save(tmp_path / "trainannot" / "000.png", np.repeat([[0] * 16 + [255] * 16], 24, axis=0).astype(np.uint8))
    (problem,) = problems_of(tmp_path, classes=["background", "cell"])
    assert "holds 0 and 255 and no 1" in problem.what
    assert "label_map={0: 0, 255: 1}" in problem.fix
    reader = MaskFolders(root=str(tmp_path), **{**CAMVID, "classes": ["b", "c"]}, label_map={0: 0, 255: 1})
    assert reader.split("train")[0].target[0].tolist() == [0] * 16 + [1] * 16
    assert problems_of(tmp_path, classes=["background", "cell"], ignore=[255]) == []


def test_truncated_mask(tmp_path):
    mask_folders(tmp_path, splits=("train",))
    path = tmp_path / "trainannot" / "001.png"
    path.write_bytes(path.read_bytes()[:60])
    (problem,) = problems_of(tmp_path)
    assert problem.file == "trainannot/001.png"
    assert "cannot be decoded" in problem.what


def test_messages_of_wrong_settings(tmp_path):
    mask_folders(tmp_path)
    for changes, message in (
        ({"masks": "{split}/*/*.png"}, "must have no more `[*]`"),
        ({"classes": []}, "has 0 names; 1 to 254"),
        ({"classes": [str(i) for i in range(255)]}, "has 255 names"),
        ({"palette": [(0, 0, 0)]}, "1 colours for 3 classes"),
        ({"label_map": {4: 3}}, "4 -> 3, but the labels of 3 classes are 0 to 2"),
        ({"ignore": [-1]}, "a mask cannot hold -1"),
        ({"masks": ["{split}annot/*.png", "{split}/*/*.png"]}, "must have no more `[*]`"),
        (
            {"label_map": {1: 0}, "first_label": 1},
            "first_label=1: `label_map` numbers the classes; remove one",
        ),
        ({"download": True, "source": "Ask."}, "download=true: no `archives` say what to fetch. Ask."),
    ):
        with pytest.raises(ValueError, match=message):
            MaskFolders(root=str(tmp_path), **{**CAMVID, **changes})
    with pytest.raises(DataError, match=r"trian does not exist: make it, correct `data.reader.images`"):
        MaskFolders(root=str(tmp_path), **CAMVID, splits={"train": "trian"}).split("train")
    with pytest.raises(DataError, match=r"more.txt does not exist"):
        MaskFolders(root=str(tmp_path), **CAMVID, extra=["more.txt"]).split("train")
    with pytest.raises(DataError, match="'train' is empty"):
        MaskFolders(root=str(tmp_path), **{**CAMVID, "images": "{split}/*.jpg"}).split("train")
