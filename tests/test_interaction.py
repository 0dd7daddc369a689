"""Two factors in one picture: the means of the cells, over what else there is."""

import pytest

from made_runs import make_ablation, make_run
from paribus.report.comparison import compare
from paribus.report.interaction import cells, interaction_picture
from paribus.report.statistics import summary
from paribus.results import find_runs


def table(root, factors, score):
    node = {"question": "?", "factors": factors, "seeds": [0, 1], "metric": "test/accuracy"}
    node["baseline"] = {key: values[0] for key, values in factors.items()}
    keys = list(factors)

    def fill(chosen):
        if len(chosen) < len(keys):
            for value in factors[keys[len(chosen)]]:
                fill([*chosen, value])
            return
        for seed in (0, 1):
            value = score(*chosen) + 0.02 * seed
            config = {"ablation": node, **dict(zip(keys, chosen, strict=True))}
            made = {"factors": dict(zip(keys, chosen, strict=True)), "metrics": {"test/accuracy": value}}
            make_run(root, seed=seed, config=config, **made)

    fill([])
    return compare(find_runs(root))


def test_a_cell_is_the_mean_over_the_other_factors_of_each_seed(tmp_path):
    factors = {"a": [1, 2], "b": ["x", "y", "z"], "c": [0, 1]}
    places = {"x": 0, "y": 1, "z": 2}
    found = table(tmp_path / "r", factors, lambda a, b, c: 0.1 * a + 0.05 * places[b] + 0.2 * c)
    shown = cells(found, 0, 1)
    assert shown.keys() == {(a, b) for a in "12" for b in "xyz"}
    expected = summary([0.35, 0.37])  # 0.1 x 2 + 0.05 + the mean of 0 and 0.2
    assert (shown["2", "y"].mean, shown["2", "y"].half) == pytest.approx((expected.mean, expected.half))
    assert len(interaction_picture(found).panels) == 3


def test_the_longer_factor_lies_along_the_axis_and_the_other_has_lines(tmp_path):
    found = table(tmp_path / "r", {"a": [1, 2], "b": ["x", "y", "z"]}, lambda a, b: 0.1 * a)
    picture = interaction_picture(found)
    (axes,) = picture.whole.axes
    assert axes.get_xlabel() == "b"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["1", "2"]
    lines = [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
    assert lines == [pytest.approx([11, 11, 11]), pytest.approx([21, 21, 21])]
    assert picture.alt == "test/accuracy by a and b."


def test_one_factor_has_no_interaction(tmp_path):
    assert interaction_picture(compare(find_runs(make_ablation(tmp_path / "r")))) is None
