"""The tables of a profile, cell by cell."""

import csv
import io
import math

from paribus.profile import table as room
from paribus.profile.complexity import Layer
from paribus.profile.footprint import Footprint
from paribus.profile.measure import Pass
from paribus.profile.run import Profile

MB = 2**20


def layer(**given):
    return Layer(**{"name": "conv1", "kind": "conv", "output": (64, 56, 56), **given})


def a_profile(*layers, **given):
    settings = {"size": (227, 227), "classes": 10, "batch_size": 4, "optimizer": "SGD"}
    return Profile(**{"name": "net", "layers": list(layers), **settings, **given})


CONV = layer(
    kernel=(11, 11), stride=(4, 4), padding=(2, 2), dilation=(1, 1), field=(11, 11), jump=(4, 4),
    memory=4 * 64 * 56 * 56, parameters=23_296, macs=72_855_552,
)  # fmt: skip
LINEAR = layer(
    name="fc",
    kind="linear",
    output=(10,),
    field=(math.inf, math.inf),
    memory=40,
    parameters=1010,
    macs=1000,
)


def test_rows_in_the_lectures_units():
    header, rows = room.layer_table(a_profile(CONV, LINEAR))
    assert header == [
        "layer",
        "kind",
        "kernel",
        "stride",
        "pad",
        "output",
        "field",
        "KB",
        "parameters",
        "MMAC",
    ]
    assert rows[0] == ["conv1", "conv", "11", "4", "2", "64 x 56 x 56", "11", "784.0", "23,296", "72.856"]
    assert rows[1] == ["fc", "linear", "", "", "", "10", "-", "0.0", "1,010", "0.001"]
    assert rows[2] == ["total", "", "", "", "", "", "", "784.0", "24,306", "72.857"]


def test_groups_and_dilation_where_there_are_any():
    grouped = layer(kernel=(1, 7), groups=32, dilation=(1, 1), field=(3, 9.5))
    header, rows = room.layer_table(a_profile(CONV, grouped))
    assert "groups" in header
    assert "dilation" not in header
    row = dict(zip(header, rows[1], strict=True))
    assert (row["kernel"], row["groups"], row["field"]) == ("1x7", "32", "3x9.5")
    assert rows[0][header.index("groups")] == ""
    assert (row["KB"], row["parameters"], row["MMAC"]) == ("0", "0", "0")
    header, rows = room.layer_table(a_profile(layer(kernel=(3, 3), dilation=(2, 2))))
    assert rows[0][header.index("dilation")] == "2"


def test_shares_by_kind():
    up = layer(kind="transposed conv", memory=4 * 64 * 56 * 56, macs=0)
    _, rows = room.shares(a_profile(CONV, LINEAR, up))
    assert rows[0] == ["conv", "2", "1,568.0", "100.0", "23,296", "95.8", "72.856", "100.0"]
    assert rows[1] == ["linear", "1", "0.0", "0.0", "1,010", "4.2", "0.001", "0.0"]
    _, rows = room.shares(a_profile(layer(kind="pool")))
    assert rows == [["pool", "1", "0", "0.0", "0", "0.0", "0", "0.0"]]


def training():
    sizes = dict(zip(room.TRAINING, (1 * MB, 2 * MB, 3 * MB, 4 * MB, 5 * MB), strict=True))
    return Footprint(**sizes)


def test_training_and_measurements_are_said():
    measured = (
        Pass(images_per_second=1234.5, repeats=7, peak=3 * MB),
        Pass(images_per_second=5, repeats=3, peak=None),
    )
    one = a_profile(CONV, training=training(), states=1, measured=measured, device="a machine")
    said = room.notes([one])
    assert said[0] == (
        "Training, batch 4, SGD (1 state a parameter): parameters 1.0 + gradients 2.0 + optimizer states 3.0 + "
        "activations 4.0 + their gradients 5.0 = 15.0 MB."
    )
    assert said[1] == (
        "Measured on a machine, batch 4: forward 1,234.5 images/s (median of 7), at most 3.0 MB; "
        "training step 5.0 images/s (median of 3)."
    )
    header, rows = room.comparison([one, one])
    assert header[2:] == [
        *("parameters", "GMAC", "activations MB", "training MB"),
        *("forward images/s", "MB", "training images/s", "MB"),
    ]
    assert rows[0] == ["net", "227 x 227", "23,296", "0.073", "0.8", "15.0", "1,234.5", "3.0", "5.0", ""]
    (read, _) = csv.DictReader(io.StringIO(room.networks_csv([one, one])))
    assert read["training_total_bytes"] == str(15 * MB)
    assert read["forward_peak_bytes"] == str(3 * MB)
    assert read["training_peak_bytes"] == ""


def test_text_is_aligned_and_its_lines_fit_a_terminal():
    text = room.page([a_profile(CONV, LINEAR, training=training())], "text")
    head, rule, first, second, *_ = text.splitlines()
    assert head.index("parameters") + len("parameters") == first.index("23,296") + len("23,296")
    assert set(rule) == {"─"}
    assert first.startswith("conv1  conv  ")
    assert second.startswith("fc     linear")
    assert all(len(line) <= 110 for line in text.splitlines())


def test_units_are_said_in_every_form():
    for form in ("text", "markdown"):
        for profiles in ([a_profile(CONV)], [a_profile(CONV), a_profile(LINEAR)]):
            text = " ".join(room.page(profiles, form).split())
            assert "1 KB = 1024 bytes" in text
            assert "multiply-adds, each counted once" in text
