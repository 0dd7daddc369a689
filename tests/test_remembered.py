"""What is remembered of a set: until a file or the reader changes, and never of generated samples."""

import logging

import numpy as np
import pytest

from paribus.data.digit_scenes import DigitScenes
from paribus.data.remembered import remembered
from paribus.data.segmentation import MaskFolders
from small_data import mask_folders, save


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Asks for something of a set's training split; the answers are numbered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mask_folders(tmp_path / "set")
    asked = []

    def ask(what="numbers", **changes):
        settings = {"classes": ["a", "b", "c"], "images": "{split}/*.png", "masks": "{split}annot/*.png"}
        reader = MaskFolders(root=str(tmp_path / "set"), **{**settings, **changes})
        find = lambda: asked.append(what) or len(asked)  # noqa: E731
        return remembered(what, reader, reader.split("train"), find, "reading")

    return ask


def test_the_same_files_are_asked_once(ask, caplog):
    with caplog.at_level(logging.INFO):
        assert [ask(), ask()] == [1, 1]
    assert [record.message for record in caplog.records] == ["reading"]


def test_two_questions_have_two_answers(ask):
    assert [ask("numbers"), ask("letters"), ask("numbers"), ask("letters")] == [1, 2, 1, 2]


def test_another_reader_or_file_is_asked_anew(ask, tmp_path):
    assert ask() == 1
    assert ask(ignore=[200]) == 2
    save(tmp_path / "set" / "trainannot" / "000.png", np.ones((24, 32), np.uint8))
    assert ask() == 3
    (tmp_path / "set" / "train" / "003.png").unlink()
    assert ask() == 4
    assert ask(ignore=[200]) == 5


def test_generated_samples_are_asked_each_time(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scenes = DigitScenes(target="mask", size=32)
    asked = []
    for _ in range(2):
        remembered("numbers", scenes, scenes.split("train"), lambda: asked.append(1), "reading")
    assert len(asked) == 2
    assert not (tmp_path / "cache").exists()
