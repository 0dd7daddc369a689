import numpy as np
import pytest

from paribus.data.classification import ClassFolders
from paribus.data.samples import DataError
from small_data import class_folders, picture, save


def test_reads_folders(tmp_path):
    reader = ClassFolders(root=str(class_folders(tmp_path)))
    assert reader.target == "label"
    assert reader.classes == ("cat", "dog", "emu")
    for name in ("train", "val", "test"):
        split = reader.split(name)
        assert [split[i].target for i in range(len(split))] == [0] * 8 + [1] * 8 + [2] * 8
        assert split.problems() == []
    sample = reader.split("val")[9]
    assert sample.id == "val/dog/001.jpg"
    assert sample.image.shape == (24, 32, 3)
    assert np.abs(sample.image.mean((0, 1)) - picture(1).mean((0, 1))).max() < 5


def test_one_set_is_split_by_seed(tmp_path):
    class_folders(tmp_path, splits=("",), each=10)
    reader = ClassFolders(root=str(tmp_path), split={"val": 0.2, "test": 0.1})
    ids = {name: {s.id for s in reader.split(name)} for name in ("train", "val", "test")}
    assert {name: len(found) for name, found in ids.items()} == {"train": 21, "val": 6, "test": 3}
    assert len(set.union(*ids.values())) == 30
    assert np.bincount([s.target for s in reader.split("val")]).tolist() == [2, 2, 2]
    again = ClassFolders(root=str(tmp_path), split={"val": 0.2, "test": 0.1}, split_seed=0)
    assert {s.id for s in again.split("val")} == ids["val"]
    other = ClassFolders(root=str(tmp_path), split={"val": 0.2, "test": 0.1}, split_seed=1)
    assert {s.id for s in other.split("val")} != ids["val"]


def test_a_missing_split_is_taken_from_train(tmp_path):
    class_folders(tmp_path, splits=("train", "test"), each=10)
    reader = ClassFolders(root=str(tmp_path), split={"val": 0.3})
    assert [len(reader.split(name)) for name in ("train", "val", "test")] == [21, 9, 30]
    assert all(s.id.startswith("train/") for s in reader.split("val"))


def test_splits_name_the_folders(tmp_path):
    class_folders(tmp_path, splits=("training", "validation"))
    names = {"train": "training", "val": "validation", "test": "validation"}
    reader = ClassFolders(root=str(tmp_path), splits=names)
    assert [s.id for s in reader.split("test")] == [s.id for s in reader.split("val")]
    assert reader.split("train")[0].id == "training/cat/000.jpg"


def test_given_classes_give_the_order(tmp_path):
    class_folders(tmp_path)
    reader = ClassFolders(root=str(tmp_path), classes=["emu", "cat", "dog"])
    assert reader.split("train")[0].id == "train/emu/000.jpg"


def test_any_format_at_any_depth_and_no_hidden_copies(tmp_path):
    for name in ("a/1.PNG", "a/deep/2.Jpeg", "b/3.tiff", "a/.ipynb_checkpoints/1.png", ".cache/4.png"):
        save(tmp_path / "train" / name, picture(0), format="PNG")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    split = ClassFolders(root=str(tmp_path)).split("train")
    assert [s.id for s in split] == ["train/a/1.PNG", "train/a/deep/2.Jpeg", "train/b/3.tiff"]


def test_messages_of_a_wrong_root(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist: set `data.reader.root`"):
        ClassFolders(root=str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is a file, not a folder"):
        ClassFolders(root=str(tmp_path / "file"))
    with pytest.raises(DataError, match="holds no class folders: put <class>/<image> into it"):
        ClassFolders(root=str(tmp_path))


def test_message_of_a_missing_split(tmp_path):
    class_folders(tmp_path, splits=("train", "val"))
    reader = ClassFolders(root=str(tmp_path))
    with pytest.raises(
        DataError, match=r"test does not exist: make it.*`data.reader.splits`.*`data.reader.split`"
    ):
        reader.split("test")


def test_message_of_class_names_that_disagree(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "dgo")
    reader = ClassFolders(root=str(tmp_path))
    reader.split("train")
    with pytest.raises(
        DataError, match=r"disagree.*folders \['dgo'\], which are no class and no folder for \['dog'\]"
    ):
        reader.split("val")
    with pytest.raises(DataError, match=r"disagree.*no folder for \['yak'\]"):
        ClassFolders(root=str(tmp_path), classes=["cat", "dog", "emu", "yak"]).split("train")


def test_messages_of_empty_classes_and_splits(tmp_path):
    class_folders(tmp_path)
    for path in (tmp_path / "train" / "emu").iterdir():
        path.unlink()
    reader = ClassFolders(root=str(tmp_path))
    with pytest.raises(DataError, match="train/emu holds no image"):
        reader.split("train")
    for path in (tmp_path / "val").glob("*/*"):
        path.unlink()
    with pytest.raises(DataError, match="'val' is empty"):
        reader.split("val")


def test_a_class_twice(tmp_path):
    with pytest.raises(ValueError, match="names a class twice"):
        ClassFolders(root=str(class_folders(tmp_path)), classes=["cat", "cat", "dog", "emu"])
