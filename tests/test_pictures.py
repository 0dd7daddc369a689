import numpy as np
import pytest
from PIL import Image

from paribus import sheets
from paribus.data.digit_scenes import DigitScenes
from paribus.pictures import (
    SAFE,
    WRONG,
    Example,
    class_colors,
    draw_boxes,
    draw_errors,
    draw_mask,
    overlay,
    save,
    sized,
    sure,
)
from paribus.sheets import PANEL, sheet, verdict

GREY = np.full((40, 60, 3), 128, np.uint8)
CLASSES = ("cat", "dog")
RED_BLUE = [(200, 0, 0), (0, 0, 200)]


def test_colors_are_the_sets_own_or_told_apart_by_everyone():
    assert class_colors(CLASSES, RED_BLUE) == RED_BLUE
    assert class_colors(CLASSES) == SAFE[:2]
    assert class_colors(("background", "cat")) == [(0, 0, 0), SAFE[0]]
    many = class_colors([str(i) for i in range(100)])
    assert len(set(many)) == 100
    assert all(0 <= value <= 255 for color in many for value in color)


def test_mask_tints_its_classes_and_leaves_black_ones_alone():
    mask = np.zeros((40, 60), np.int64)
    mask[10:30, 10:30] = 1
    drawn = draw_mask(GREY, mask, [(0, 0, 0), (0, 0, 200)], opacity=0.5)
    assert drawn.dtype == np.uint8
    assert (drawn[20, 20] == [64, 64, 164]).all()  # half way from grey to blue
    assert (drawn[10, 20] == [0, 0, 200]).all()  # the outline
    assert (drawn[:8] == GREY[:8]).all()
    assert (GREY == 128).all()  # the input is not drawn on


def test_a_class_looks_the_same_on_every_colour_of_equal_brightness():
    image = GREY.copy()
    image[:, :30] = (255, 88, 0)  # luma 128 as well
    drawn = draw_mask(image, np.ones((40, 60), np.uint8), RED_BLUE)
    assert np.ptp(drawn[5:-5, 5:-5].reshape(-1, 3).astype(int), axis=0).max() <= 1


def test_ignored_pixels_are_striped():
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 30:] = 255
    drawn = draw_mask(GREY, mask, [(0, 0, 0)])
    assert (drawn[:, :28] == 128).all()
    assert len(np.unique(drawn[5:-5, 35:55, 0])) == 2


def test_errors_are_one_colour_and_ignored_pixels_none():
    truth = np.zeros((40, 60), np.uint8)
    truth[:10] = 255
    answer = np.zeros((40, 60), np.int64)
    answer[:20, :30] = 1  # wrong where the truth is known
    drawn = draw_errors(GREY, truth, answer)
    wrong = (drawn == WRONG).all(2)
    assert wrong[10:20, :30].all()
    assert wrong.sum() == 300
    assert set(np.unique(drawn[:10])) == {190, 255}  # stripes
    right = drawn[20:]
    assert np.ptp(right) == 0
    assert right.max() < 190  # even white pixels stay darker than what is ignored
    assert draw_errors(GREY * 0 + 255, truth, answer)[20:].max() < 215


def test_a_sheet_of_masks_shows_errors_their_share_and_a_title():
    truth, answer = np.zeros((40, 60), np.uint8), np.ones((40, 60), np.uint8)
    truth[:, :15] = 255
    examples = [Example(GREY, truth, answer, "a"), Example(GREY, truth, answer * 0, "b")]
    bare = sheet(examples, "mask", CLASSES, RED_BLUE)
    drawn = sheet(examples, "mask", CLASSES, RED_BLUE, "the worst 2 of 9 images")
    assert (drawn[-len(bare) :] == bare).all()
    above = drawn[: -len(bare)]
    assert 20 < len(above) < 40
    assert (above < 128).any()
    one = sheet(examples[:1], "mask", CLASSES, RED_BLUE)
    fine = sheet(examples[1:], "mask", CLASSES, RED_BLUE)
    magnified = (-(-PANEL[0] // 60)) ** 2
    wrong, none = ((picture == WRONG).all(2).sum() for picture in (one, fine))
    assert wrong == none + 40 * 45 * magnified  # and in both the square of the legend
    assert 100 < none < 600


@pytest.mark.parametrize("size", [96, 2000])
def test_boxes_lines_and_words_grow_with_the_image(size):
    image = np.zeros((size, size, 3), np.uint8)
    at = size * np.array([[0.25, 0.25, 0.75, 0.75]])
    drawn = draw_boxes(image, {"boxes": at, "labels": np.array([1]), "scores": [0.9]}, CLASSES, RED_BLUE)
    line = int((drawn[size // 2, : size // 2] == RED_BLUE[1]).all(1).sum())
    assert line == {96: 2, 2000: 5}[size]
    words = np.flatnonzero((drawn[: size // 4 - 1] == RED_BLUE[1]).all(2).any(1))
    assert len(words) == pytest.approx({96: 16, 2000: 47}[size], abs=3)
    assert (drawn[size // 2 + 10 :, size // 2 - 5 : size // 2 + 5, :2] == 0).all()  # nothing inside


def test_words_stay_inside_and_hide_no_others():
    found = {
        "boxes": np.array([[0, 0, 10, 10], [0, 0, 12, 12], [50, 30, 60, 40]]),
        "labels": np.array([0, 1, 0]),
    }
    drawn = draw_boxes(GREY.repeat(4, 0).repeat(4, 1), found, CLASSES, RED_BLUE)
    red, blue = ((drawn == color).all(2).sum() for color in RED_BLUE)
    assert min(red, blue) > 150  # both backgrounds are to be seen


def test_some_boxes_are_dashed():
    image = np.full((200, 200, 3), 90, np.uint8)
    boxes = {"boxes": np.array([[20, 20, 90, 90], [110, 110, 180, 180.0]]), "labels": np.array([0, 1])}
    drawn = draw_boxes(image, boxes, CLASSES, RED_BLUE, dashed=[False, True])
    for (x, y), color, whole in (((20, 50), RED_BLUE[0], True), ((110, 140), RED_BLUE[1], False)):
        side = drawn[y - 20 : y + 20, x]  # of the left line, a part without words
        assert ((side == color).all(1) | (side == 0).all(1)).all()
        assert (side == color).all(1).all() == whole
        assert (side == color).all(1).mean() > 0.4
    plain = draw_boxes(image, boxes, CLASSES, RED_BLUE)
    assert (plain[:100] == drawn[:100]).all()
    assert (draw_boxes(image, boxes, CLASSES, RED_BLUE, dashed=np.zeros(2, bool)) == plain).all()


def test_no_boxes_and_boxes_of_no_size_can_be_drawn():
    none = {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64), "scores": np.zeros(0)}
    assert (draw_boxes(GREY, none, CLASSES, RED_BLUE) == GREY).all()
    point = {"boxes": np.array([[59.9, 39.9, 59.9, 39.9], [-5, -5, 900, 900]]), "labels": np.array([0, 1])}
    assert draw_boxes(GREY, point, CLASSES, RED_BLUE).shape == GREY.shape


def test_only_sure_boxes_are_kept():
    found = {"boxes": np.eye(4), "labels": np.arange(4), "scores": np.array([0.9, 0.3, 0.29, 0.0])}
    assert sure(found, 0.3)["labels"].tolist() == [0, 1]


def test_small_images_are_magnified_by_whole_numbers_with_what_is_on_them():
    boxes = {
        "boxes": np.array([[1, 2, 3, 4.0]]),
        "labels": np.array([0]),
        "masks": np.ones((1, 32, 48), np.uint8),
    }
    grown = sized(Example(np.zeros((32, 48, 3), np.uint8), None, boxes, "a"), "boxes", 100, 200)
    assert grown.image.shape == (96, 144, 3)
    assert grown.answer["boxes"].tolist() == [[3, 6, 9, 12]]
    assert grown.answer["masks"].shape == (1, 96, 144)
    mask = np.arange(32 * 48).reshape(32, 48) % 7
    grown = sized(Example(np.zeros((32, 48, 3), np.uint8), mask, mask, "a"), "mask", 100, 200)
    assert (grown.truth == mask.repeat(3, 0).repeat(3, 1)).all()
    reduced = sized(Example(np.zeros((400, 300, 3), np.uint8), 0, 0, "a"), "label", 100, 200)
    assert reduced.image.shape == (200, 150, 3)


def test_overlay_of_a_mask_has_a_legend_and_is_magnified():
    mask = np.ones((96, 96), np.uint8)
    drawn = overlay(Example(np.zeros((96, 96, 3), np.uint8), None, mask, "a"), "mask", CLASSES, RED_BLUE)
    assert drawn.shape[1] == 384
    assert drawn.shape[0] > 384
    assert (drawn[384:] == RED_BLUE[1]).all(2).any()
    assert not (drawn[384:] == RED_BLUE[0]).all(2).any()  # no cat is to be seen


def test_verdicts_say_what_is_true():
    probabilities = np.array([0.1, 0.9])
    assert verdict(Example(GREY, 1, probabilities, "a"), "label", CLASSES) == ([("dog  90 %", True)], True)
    lines, right = verdict(Example(GREY, np.array(0), probabilities, "a"), "label", CLASSES)
    assert (lines, right) == ([("dog  90 %", False), ("true: cat", None)], False)
    lines, right = verdict(Example(GREY, np.array([1.0, 0.0]), probabilities, "a"), "labels", CLASSES)
    assert (lines, right) == ([("wrong: dog", False), ("missed: cat", False)], False)
    lines, right = verdict(Example(GREY, np.array([0.0, 1.0]), probabilities, "a"), "labels", CLASSES)
    assert (lines, right) == ([("right: dog", True)], True)
    for truth, said in ((0.0, ("none, rightly", True)), (1.0, ("missed: cat", False))):
        unsure = Example(GREY, np.array([truth, np.nan]), probabilities, "a")  # whether a dog is there
        assert verdict(unsure, "labels", CLASSES) == ([said, ("not judged: dog", None)], said[1])
    nothing = Example(GREY, np.array([np.nan, np.nan]), probabilities, "a")
    assert verdict(nothing, "labels", CLASSES) == ([("not judged: cat, dog", None)], True)


@pytest.mark.parametrize("target", ["label", "labels", "mask", "boxes"])
def test_sheets_of_every_kind(target, tmp_path):
    reader = DigitScenes(target=target, size=48, lengths={"train": 1, "val": 1, "test": 5})
    examples = []
    for i in range(5):
        sample = reader.split("test")[i]
        answer = sample.target
        if target == "label":
            answer = np.eye(10)[sample.target]
        elif target == "boxes":
            answer = {k: v for k, v in sample.target.items() if k != "masks"}
            answer["scores"] = np.ones(len(answer["labels"]), np.float32)
        examples.append(Example(sample.image, sample.target, answer, sample.id))
    drawn = sheet(examples, target, reader.classes, reader.palette)
    assert drawn.dtype == np.uint8
    columns, panels = {"boxes": (2, 3), "mask": (2, 4)}.get(target, (4, 1))
    side = 48 * -(-PANEL[0] // 48)
    assert columns * panels * side < drawn.shape[1] < 1.1 * columns * panels * side
    save(drawn, tmp_path / "new" / "sheet.png")
    assert (np.asarray(Image.open(tmp_path / "new" / "sheet.png")) == drawn).all()


def test_a_sheet_of_boxes_dashes_what_is_missed_or_wrong(monkeypatch):
    drawn = []

    def noted(image, found, classes, colors, dashed):
        drawn.append((sorted(found), dashed.tolist()))
        return image

    monkeypatch.setattr(sheets, "draw_boxes", noted)
    truth = {"boxes": np.array([[0, 0, 10, 10], [20, 20, 30, 30.0]]), "labels": np.array([0, 1])}
    truth["masks"] = np.zeros((2, 40, 60), np.uint8)  # which this detector was not asked for
    answer = {
        "boxes": truth["boxes"][[0, 0, 1]],
        "labels": np.array([0, 0, 0]),
        "scores": np.array([0.9, 0.8, 0.7]),
    }
    sheet([Example(GREY, truth, answer, "a")], "boxes", CLASSES)
    assert drawn == [
        (["boxes", "labels"], [False, True]),
        (["boxes", "labels", "scores"], [False, True, True]),
    ]
    sheet([Example(GREY, truth, answer | {"masks": np.zeros((3, 40, 60), bool)}, "a")], "boxes", CLASSES)
    assert drawn[2][0] == ["boxes", "labels", "masks"]


def test_right_and_wrong_are_framed_in_their_colours():
    right = sheet([Example(GREY, 1, np.array([0.1, 0.9]), "a")], "label", CLASSES)
    wrong = sheet([Example(GREY, 0, np.array([0.1, 0.9]), "a")], "label", CLASSES)
    assert (right[60, 8] == (0, 125, 90)).all()
    assert (wrong[60, 8] == (200, 50, 0)).all()
    assert wrong.shape[0] > right.shape[0]  # a line more: the truth
