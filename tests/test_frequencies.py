"""How often classes occur: counted as numpy counts, and weighed as scikit-learn and the paper weigh."""

import numpy as np
import pytest
import torch

from paribus.data.digit_scenes import DigitScenes
from paribus.data.frequencies import Frequencies, count
from paribus.data.module import DataModule
from paribus.data.segmentation import MaskFolders
from small_data import mask_folders, picture, save

CAMVID = {"images": "{split}/*.png", "masks": "{split}annot/*.png"}


def reader(root, classes=4):
    return MaskFolders(root=str(root), classes=[f"class{i}" for i in range(classes)], **CAMVID)


def module(of, **settings) -> DataModule:
    return DataModule(reader=of, batch_size=2, mean=[0.5] * 3, std=[0.25] * 3, **settings)


def test_pixels_and_the_masks_around_them(tmp_path):
    masks = [[[0, 0, 1, 255]], [[1, 1, 1, 1]], [[255] * 4], [[0, 3, 3, 255]]]
    for i, mask in enumerate(masks):
        save(tmp_path / "train" / f"{i}.png", picture(0, (1, 4)))
        save(tmp_path / "trainannot" / f"{i}.png", np.array(mask, np.uint8))
    found = count(reader(tmp_path).split("train"), 4)
    assert found == Frequencies(pixels=[3, 5, 0, 2], around=[6, 7, 0, 3])


def test_generated_masks_are_counted_too():
    scenes = DigitScenes(target="mask", size=48, lengths={"train": 9, "val": 1, "test": 1})
    masks = np.stack([sample.target for sample in (scenes.split("train")[i] for i in range(9))])
    expected = np.bincount(masks.ravel(), minlength=11)
    found = module(scenes).frequencies()
    assert found.pixels == expected.tolist()
    assert found.around == [sum(m.size for m in masks if (m == c).any()) for c in range(11)]


def test_inverse_frequency_is_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.random.default_rng(0).choice(4, 500, p=[0.6, 0.3, 0.08, 0.02])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    known = Frequencies(np.bincount(labels).tolist(), [500] * 4)
    assert known.weights("inverse_frequency") == pytest.approx(expected, rel=1e-12)


def test_median_frequency_is_the_papers():
    """Of 0.5, 0.2 and 0.1 in the masks where the classes occur, 0.2 is the median."""
    known = Frequencies(pixels=[50, 20, 0, 4], around=[100, 100, 0, 40])
    assert known.weights("median_frequency") == pytest.approx([0.4, 1.0, 0.0, 2.0])


@pytest.mark.parametrize("kind", ["inverse_frequency", "median_frequency"])
def test_what_does_not_occur_weighs_nothing(kind):
    assert Frequencies([7, 0, 3], [10, 0, 10]).weights(kind)[1] == 0
    assert Frequencies([0, 0], [0, 0]).weights(kind) == [0.0, 0.0]
    assert Frequencies([7, 0, 3], [10, 0, 10]).weights("none") == [1.0, 1.0, 1.0]


def test_weights_of_the_frequencies_give_every_class_one_say():
    """Each class's pixels together weigh the same: what inverse frequency is for."""
    known = Frequencies([900, 90, 10], [1000] * 3)
    together = torch.tensor(known.pixels) * torch.tensor(known.weights("inverse_frequency"))
    torch.testing.assert_close(together, together.mean().expand(3))


def test_files_are_counted_once_whatever_is_used_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mask_folders(tmp_path / "set")
    first = module(reader(tmp_path / "set")).frequencies()
    assert sum(first.pixels) == 6 * 23 * 32
    assert first.pixels[3] == 0
    monkeypatch.setattr("paribus.data.module.count", None)
    assert module(reader(tmp_path / "set")).frequencies() == first
    part = module(reader(tmp_path / "set"), train_fraction=0.3, seed=3, size=(8, 8))
    assert part.frequencies() == first
    save(tmp_path / "set" / "trainannot" / "000.png", np.zeros((24, 32), np.uint8))
    with pytest.raises(TypeError, match="not callable"):  # another mask is another set
        module(reader(tmp_path / "set")).frequencies()


def test_samples_left_out_are_not_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mask_folders(tmp_path / "set")
    (tmp_path / "set" / "trainannot" / "001.png").write_bytes(b"no mask")
    found = module(reader(tmp_path / "set"), on_error="skip").frequencies()
    assert sum(found.pixels) == 5 * 23 * 32
