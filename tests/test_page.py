"""The page: whole, escaped, without requests, with every number, in the light and in the dark."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest

from made_runs import SCORES, make_ablation, make_run
from paribus.report import run as report
from paribus.report.comparison import compare
from paribus.report.page import COLORS, inline
from paribus.report.style import CSS
from paribus.results import MetricsFile, find_runs

VOID = {"meta", "br", "link", "img", "hr", "input"}
EVIL = '<img src=x onerror="alert(1)">&co'
NODE = {
    "question": f"Does {EVIL} help?",
    "source": "Wu & He <2018>",
    "published": {"metric": "ImageNet error, %", "values": {"batch": 23.4, EVIL: 24.1, "layer": 25.2}},
}


class Page(HTMLParser):
    """What a page holds; fails where a tag is not closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An ablation of everything: strange names, a failure, a difference, curves, costs, a published result."""
    root = tmp_path_factory.mktemp("runs") / "norm"
    make_ablation(root, SCORES | {EVIL: [0.5, 0.7]}, node=NODE, command="train.py -m 'ablation=norm' <now>")
    config = find_runs(root)[0].config | {"backbone": {"norm": EVIL}, "optimizer": {"lr": 0.7}}
    error = {"type": "Diverged", "message": "the loss is <nan>\nat step 3"}
    make_run(root, seed=2, config=config, factors={"backbone.norm": EVIL}, status="failed", error=error)
    for run in find_runs(root):
        file = MetricsFile(run.path / "metrics.csv")
        file.append(10, 0, {"train/loss": 2.0, "val/loss": 1.5, "val/accuracy": 0.5})
        file.append(20, 1, {"train/loss": 1.0 + run.seed, "val/loss": 1.6, "val/accuracy": 0.6})
        file.close()
    output = report.run(folder=root)
    return output, Page((output / "report.html").read_text())


def test_it_is_one_document_that_asks_for_nothing(made):
    output, page = made
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "base", "form"), tag
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("href", "src", "xlink:href"):
                assert value.startswith("#"), (tag, key, value)
    text = (output / "report.html").read_text()
    outside = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert outside == {"http://www.w3.org/2000/svg"}  # the name of a namespace
    assert "@import" not in text
    assert not [found for found in re.findall(r"url\(([^)]*)\)", text) if not found.startswith("#")]
    (policy,) = (
        found["content"] for found in page.all("meta") if "content-security-policy" in str(found).lower()
    )
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert page.all("meta")[1]["content"] == "width=device-width, initial-scale=1"
    assert page.all("html") == [{"lang": "en"}]


def test_what_comes_from_the_runs_is_text(made):
    _, page = made
    assert len(page.all("h1")) == 1
    for words in (
        f"Does {EVIL} help?", "Source of the question: Wu & He <2018>", "the loss is <nan>", "train.py -m 'ablation=norm' <now>",
        f"{EVIL} lacks seed 2 (failed).", "failed: backbone.norm=_imgsrc=xonerror=alert_1___co,seed=2: Diverged",
    ):  # fmt: skip
        assert words in page.text, words


def test_every_number_of_the_table_is_there(made):
    output, page = made
    cells = {cell for row in page.rows for cell in row}
    for row in csv.reader(io.StringIO((output / "table.csv").read_text())):
        assert set(row) <= cells | {""}
    assert ["none", "worse", "3", "62.0 ± \u2007\u20075.0"] in [
        row[:4] for row in page.rows
    ]  # a phone shows these


def test_its_tables_have_heads_and_its_pictures_words(made):
    _, page = made
    assert all(found.get("scope") in ("col", "row") for found in page.all("th"))
    regions = [found for found in page.all("div") if found.get("role") == "region"]
    assert len(regions) == len(page.all("table")) > 3
    assert all(found["aria-label"] for found in regions)
    for found in page.all("svg"):
        assert (found.get("role") == "img" and found["aria-label"]) or found.get("aria-hidden") == "true", (
            found
        )
    named = [found["aria-label"] for found in page.all("svg") if "aria-label" in found]
    assert [words.split()[0] for words in named] == ["test/accuracy", "test/accuracy", "Learning"]
    assert len(page.all("figure")) == len(page.all("figcaption")) == 2


def test_ids_are_one_of_a_kind_and_what_is_referred_to_is_there(made):
    output, page = made
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0
    text = (output / "report.html").read_text()
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', text)) == set(ids)


def test_the_sections_and_their_words(made):
    _, page = made
    for words in (
        "The published result", "published:", "The last column is what the source published (Wu & He <2018>), from other data",
        "How the levels learn", "Failed runs: 1", "All else equal?", "not all else equal: `optimizer.lr` differs",
        "1 warning: see All else equal.", "Every seed: test/accuracy, %", "How it was made", "python scripts/report.py runs=",
        "All numbers",
    ):  # fmt: skip
        assert words in page.text, words
    rows = {row[0]: row[1:] for row in page.rows if len(row) == 3}
    assert rows["batch"] == ["91.0 ± 2.5", "23.4"]
    assert rows["layer"] == ["", "25.2"]  # published, and not made here
    assert rows["none"] == ["62.0 ± 5.0", ""]


def test_the_pictures_take_the_colours_of_the_page(made):
    output, _ = made
    text = (output / "report.html").read_text()
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.S))
    assert {f"var(--{name})" for name in ("ink", "blue", "grey", "pale")} <= set(
        re.findall(r"var\(--\w+\)", drawn)
    )
    assert not re.search(r"#[0-9a-f]{6}\b", drawn), "a colour that has no other in the dark"
    light, dark, printed = (dict(re.findall(r"--(\w+): (#\w+)", part)) for part in CSS.split(":root")[1:])
    assert set(light) == set(dark) == set(printed) >= set(COLORS.values())


def contrast(a, b):
    """WCAG 2, of two colours as #rrggbb."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_words_can_be_read_in_the_light_and_in_the_dark():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for part in CSS.split(":root")[1:]:
        colors = dict(re.findall(r"--(\w+): (#\w+)", part))
        for name in ("ink", "grey", "blue", "orange"):
            assert contrast(colors[name], colors["paper"]) >= 4.5, (name, colors)


def test_all_else_equal_is_said_where_it_is(tmp_path):
    output = report.run(folder=make_ablation(tmp_path / "norm"))
    page = Page((output / "report.html").read_text())
    assert "Yes: the resolved configs of the 9 runs differ in backbone.norm" in page.text
    assert ["optimizer.lr", "0.1"] in page.rows  # held equal
    assert "published" not in page.text


def test_a_page_of_runs_that_have_just_begun(tmp_path):
    output = report.run(folder=make_ablation(tmp_path / "norm", status="running"))
    page = Page((output / "report.html").read_text())
    assert "9 runs: 9 running." in page.text
    assert not page.all("svg")


def test_a_single_run_has_a_report(tmp_path):
    folder = make_run(tmp_path / "x", seed=0, config={}, factors={}, metrics={"test/accuracy": 0.5})
    page = Page((report.run(folder=folder) / "report.html").read_text())
    assert "One seed gives no interval and no test: all runs." in page.text


def test_a_picture_in_the_page_is_no_broader_than_drawn(tmp_path):
    from paribus.report.figures import levels_figure

    figure = levels_figure(compare(find_runs(make_ablation(tmp_path / "norm"))))
    text = inline(figure, "a", "b")
    assert f"max-width: {figure.get_figwidth() * 96:.0f}px" in text
    assert "<text" in text  # words, not outlines
    assert inline(figure, "a", "b") == text != inline(figure, "other", "b")
