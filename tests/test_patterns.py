import pytest

from paribus.data.patterns import fill, folder, listed, present, stars
from paribus.data.samples import DataError

CITY = "leftImg8bit/val/*/*_leftImg8bit.png"


@pytest.mark.parametrize(
    "name",
    ["leftImg8bit/val/ulm/ulm_1_leftImg8bit.png", "./leftImg8bit/val/ulm/ulm_1_leftImg8bit.png", "ulm/ulm_1"],
)
def test_stars_of_a_path_and_of_themselves(name):
    assert stars(CITY, name) == ("ulm", "ulm_1")


def test_a_file_name_alone_does_where_the_stars_are_in_it():
    assert stars("JPEGImages/*.jpg", "/VOC/JPEGImages/2007_1.jpg") == ("2007_1",)
    assert stars(CITY, "ulm_1_leftImg8bit.png") is None
    assert stars("a/*.jpg", "b/c.png") is None


def test_what_is_filled_in():
    assert fill("gtFine/val/*/*_labelIds.png", ("ulm", "ulm_1")) == "gtFine/val/ulm/ulm_1_labelIds.png"
    assert fill("masks/*.png", ("a", "jpg")) == "masks/a.png"
    assert (folder(CITY), folder("*.png"), folder("a/b_*.png")) == ("leftImg8bit/val", "", "a")


def test_what_is_there_in_order(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png", "readme.txt", "c[1].png", "deep/d.png"):
        path = tmp_path / "x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert present(tmp_path, "x/*.*") == [("a", "JPG"), ("b", "png"), ("c[1]", "png")]
    assert present(tmp_path, "x/*/*.png") == [("deep", "d")]


def test_a_list_and_a_line_that_fits_nothing(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("b 1 1 2\n\nx/a.png x/a_mask.png\n")
    assert listed(path, "x/*.png") == [("b",), ("a",)]
    path.write_text("b\na/b/c.jpg\nd/e\n")
    with pytest.raises(
        DataError, match=r"2 line\(s\) do not name an image .*\(x/\*.png\), the first is 'a/b/c.jpg'"
    ):
        listed(path, "x/*.png")
