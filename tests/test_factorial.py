"""Main effects and interactions against plain arithmetic, and as a linear model has them."""

from itertools import product

import numpy as np
import pytest

from paribus.report.factorial import effects
from paribus.report.statistics import paired

FACTORS = ("depth", "shortcut")
BASE = {"depth": "20", "shortcut": "none"}


def table(score, seeds=3, depths=("20", "56"), shortcuts=("none", "A"), noise=0.0):
    draw = np.random.default_rng(0)
    return {
        (d, s): {seed: score(d, s) + 0.01 * seed + noise * draw.normal() for seed in range(seeds)}
        for d, s in product(depths, shortcuts)
    }


def test_effects_that_add_up_have_no_interaction():
    values = table(lambda d, s: 0.5 + 0.1 * (d == "56") + 0.2 * (s == "A"))
    depth, shortcut, both = effects(FACTORS, values, BASE)
    assert (depth.factors, depth.levels, depth.to) == (("depth",), ("56",), ("20",))
    assert depth.paired.difference == pytest.approx(0.1)
    assert shortcut.paired.difference == pytest.approx(0.2)
    assert both.factors == FACTORS
    assert both.paired.difference == pytest.approx(0)


def test_depth_that_helps_with_shortcuts_alone_is_an_interaction():
    values = table(lambda d, s: 0.7 + (0.05 if s == "A" else -0.35) * (d == "56"))
    depth, shortcut, both = effects(FACTORS, values, BASE)
    assert depth.paired.difference == pytest.approx(-0.15)  # the mean of +0.05 and -0.35
    assert shortcut.paired.difference == pytest.approx(0.2)
    assert both.paired.difference == pytest.approx(0.4)


def test_three_levels_are_each_set_beside_the_baseline():
    values = table(lambda d, s: {"20": 0.1, "32": 0.2, "56": 0.4}[d], depths=("20", "32", "56"), noise=0.01)
    found = {(e.factors, e.levels): e for e in effects(FACTORS, values, BASE)}
    assert len(found) == 2 + 1 + 2
    by_hand = {s: sum(values["32", k][s] - values["20", k][s] for k in ("none", "A")) / 2 for s in range(3)}
    one = found[("depth",), ("32",)]
    expected = paired(by_hand, dict.fromkeys(by_hand, 0.0))
    assert (one.paired.difference, one.paired.half, one.paired.p) == pytest.approx(
        (expected.difference, expected.half, expected.p)
    )
    raw = [e.paired.p for e in found.values()]
    assert all(e.p >= p for e, p in zip(found.values(), raw, strict=True))  # corrected over all five


def test_the_contrasts_are_the_coefficients_of_a_linear_model():
    values = table(lambda d, s: 0.3, noise=0.1, seeds=1)
    cells = list(values)
    half = np.array([[1, d == "56", s == "A", (d == "56") * (s == "A")] for d, s in cells], float)
    coefficients = np.linalg.solve(half, [values[cell][0] for cell in cells])
    depth, shortcut, both = effects(FACTORS, values, BASE)
    assert both.paired.difference == pytest.approx(coefficients[3])
    assert depth.paired.difference == pytest.approx(coefficients[1] + coefficients[3] / 2)
    assert shortcut.paired.difference == pytest.approx(coefficients[2] + coefficients[3] / 2)


def test_only_seeds_with_a_whole_table_count_and_a_hole_in_it_leaves_none():
    values = table(lambda d, s: 0.5)
    del values["56", "A"][2]
    assert {e.paired.n for e in effects(FACTORS, values, BASE)} == {2}
    del values["56", "A"]
    assert effects(FACTORS, values, BASE) == []
    assert effects(["depth"], {("20",): {0: 1.0}, ("56",): {0: 2.0}}, {"depth": "20"}) == []


def test_under_no_effect_one_in_twenty_tables_shows_one():
    draw, hits, tables = np.random.default_rng(1), 0, 400
    for _ in range(tables):
        values = {
            cell: {seed: float(draw.normal()) for seed in range(4)}
            for cell in product(("20", "56"), ("none", "A"))
        }
        hits += any(e.p < 0.05 for e in effects(FACTORS, values, BASE))
    # Corrected for the three effects of a table; 5 % and 3 standard deviations of 400 draws.
    assert hits / tables <= 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5
