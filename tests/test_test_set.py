"""Uncertainty of the test set, read from made-up run folders, against loops and against what must be refused."""

import numpy as np
import pytest
import scipy.stats

from made_runs import make_ablation, make_run
from paribus.report import test_set
from paribus.report.comparison import compare
from paribus.report.test_set import LEAST, draws, interval, mcnemar, sentences, table, uncertainty
from paribus.results import find_runs, read_json, write_json, write_text

IMAGES = 60


def write(run, correct, first=0, metric="test/accuracy", value=None):
    """The images of a run, right or wrong, and their share as its result."""
    lines = [
        f"{i + first:03d},{i % 3},{i % 3 if right else 9},{int(right)}" for i, right in enumerate(correct)
    ]
    write_text(run.path / "images_test.csv", "\n".join(["id,label,prediction,correct", *lines]) + "\n")
    found = read_json(run.path / "result.json")
    found["metrics"] = {metric: float(np.mean(correct)) if value is None else value}
    write_json(run.path / "result.json", found)


@pytest.fixture
def folder(tmp_path):
    """Three levels and three seeds; by level and seed which images are right."""
    make_ablation(tmp_path)
    return tmp_path


def filled(folder, images=IMAGES, better=0.2):
    """{(level, seed): right or wrong}, as written."""
    draw, right = np.random.default_rng(0), {}
    hard = draw.random(images)  # the same images are hard for all
    for run in find_runs(folder):
        level = run.factors["backbone.norm"]
        share = 0.5 + better * (level == "batch")
        right[level, run.seed] = hard + 0.5 * draw.random(images) < 1.5 * share
        write(run, right[level, run.seed])
    return right


def test_the_interval_is_that_of_a_loop_over_the_resamples(folder):
    right = filled(folder)
    (none, group) = uncertainty(compare(find_runs(folder)), resamples=300)
    assert (none.level, none.baseline, none.seeds) == ("none", "batch", [0, 1, 2])
    assert (none.images, none.resamples, none.why_not) == (IMAGES, 300, "")
    for one in (none, group):
        differences = []
        for counts in np.concatenate(list(draws(IMAGES, 300))).astype(int):
            drawn = np.repeat(np.arange(IMAGES), counts)
            seeds = [right[one.level, s][drawn].mean() - right["batch", s][drawn].mean() for s in range(3)]
            differences.append(np.mean(seeds))
        assert (one.low, one.high) == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=1e-12)
        seen = np.mean([right[one.level, s].mean() - right["batch", s].mean() for s in range(3)])
        assert one.difference == pytest.approx(seen)
        assert one.low < seen < one.high
    assert none.high < 0


def test_draws_are_with_replacement_of_as_many_and_repeat():
    first, again = (np.concatenate(list(draws(30, 1201))) for _ in range(2))
    assert first.shape == (1201, 30)
    assert (first.sum(1) == 30).all()
    assert (first == again).all()
    # A multinomial: variance 1 - 1/30 of each count, and covariance -1/30 of two.
    assert first.var() == pytest.approx(29 / 30, abs=0.03)
    assert np.cov(first.T)[0, 1:].mean() == pytest.approx(-1 / 30, abs=0.01)
    assert len(np.unique(first, axis=0)) == 1201


def test_a_resample_without_the_metric_is_left_out():
    values = np.append(np.linspace(0, 1, 101), [np.nan] * 50)
    assert interval(values) == pytest.approx((0.025, 0.975))


def test_mcnemars_test_is_the_binomial_one(folder):
    for gained, lost in ((0, 0), (1, 0), (0, 5), (3, 3), (9, 2), (40, 61), (500, 420)):
        expected = scipy.stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        assert mcnemar(gained, lost) == mcnemar(lost, gained) == pytest.approx(expected, rel=1e-9)
    right = filled(folder)
    none, _ = uncertainty(compare(find_runs(folder)), resamples=20)
    for seed, p in none.mcnemar.items():
        a, b = right["none", seed], right["batch", seed]
        gained, lost = (a & ~b).sum(), (b & ~a).sum()
        assert p == pytest.approx(scipy.stats.binomtest(int(gained), int(gained + lost)).pvalue)
    assert list(none.mcnemar) == [0, 1, 2]


def test_only_seeds_that_both_have_count_and_files_that_lack_leave_none(folder):
    filled(folder)
    runs = {(run.factors["backbone.norm"], run.seed): run for run in find_runs(folder)}
    (runs["none", 1].path / "images_test.csv").unlink()
    for seed in range(3):
        (runs["group", seed].path / "images_test.csv").unlink()
    (one,) = uncertainty(compare(find_runs(folder)), resamples=20)
    assert (one.level, one.seeds) == ("none", [0, 2])
    values = {place: run.metrics["test/accuracy"] for place, run in runs.items()}
    expected = np.mean([values["none", s] - values["batch", s] for s in (0, 2)])
    assert one.difference == pytest.approx(expected)


def test_runs_without_files_leave_nothing(folder):
    comparison = compare(find_runs(folder))
    assert uncertainty(comparison) == []
    assert sentences(comparison, []) == []


def test_few_images_and_other_metrics_leave_nothing(folder):
    filled(folder, images=LEAST - 1)
    assert uncertainty(compare(find_runs(folder)), resamples=20) == []
    filled(folder, images=LEAST)
    assert len(uncertainty(compare(find_runs(folder)), resamples=20)) == 2
    for run in find_runs(folder):
        found = read_json(run.path / "result.json")
        write_json(run.path / "result.json", found | {"metrics": {"test/loss": 1.0}})
    assert uncertainty(compare(find_runs(folder), metric="test/loss"), resamples=20) == []


def test_other_images_are_said_and_not_compared(folder):
    right = filled(folder)
    runs = {(run.factors["backbone.norm"], run.seed): run for run in find_runs(folder)}
    write(runs["group", 1], right["group", 1], first=1)
    comparison = compare(find_runs(folder))
    none, group = uncertainty(comparison, resamples=20)
    assert none.difference is not None
    assert (group.difference, group.low, group.high, group.resamples) == (None, None, None, 0)
    said = "group seed 1 was judged on other images than most, or by other labels"
    assert group.why_not == said
    assert sentences(comparison, [none, group])[-1] == f"group: nothing over images: {said}."
    assert [row[0] for row in table(comparison, [none, group])[1]] == ["none"]


def test_images_that_do_not_make_the_runs_own_number_are_said(folder):
    """Judged again with another data_root, say, the file is not of the result any more."""
    right = filled(folder)
    runs = {(run.factors["backbone.norm"], run.seed): run for run in find_runs(folder)}
    write(runs["batch", 0], right["batch", 0], value=0.25)
    none, group = uncertainty(compare(find_runs(folder)), resamples=20)
    own = right["batch", 0].mean()
    assert (
        none.why_not == group.why_not == f"the images of batch seed 0 make {own:.6g}, and its result is 0.25"
    )
    assert sentences(compare(find_runs(folder)), [none])[0].startswith("none: nothing over images")


def test_of_several_factors_each_level_is_held_against_its_own_baseline(tmp_path):
    node = {
        "question": "Does it help?",
        "factors": {"norm": ["batch", "group"], "depth": [20, 56]},
        "metric": "test/accuracy",
        "baseline": {"norm": "batch"},
        "seeds": [0, 1],
    }
    shares = {("batch", 20): 0.8, ("group", 20): 0.6, ("batch", 56): 0.3, ("group", 56): 0.4}
    for (norm, depth), share in shares.items():
        for seed in (0, 1):
            at = {"norm": norm, "depth": depth}
            make_run(tmp_path, seed=seed, config={**at, "ablation": node}, factors=at)
            run = next(r for r in find_runs(tmp_path) if r.factors == at and r.seed == seed)
            write(run, np.arange(20) < 20 * share)
    found = uncertainty(compare(find_runs(tmp_path)), resamples=200)
    assert {one.level: (one.baseline, round(one.difference, 9)) for one in found} == {
        "norm=group, depth=20": ("norm=batch, depth=20", -0.2),
        "norm=group, depth=56": ("norm=batch, depth=56", 0.1),
    }


def test_masks_are_drawn_as_images_and_their_sums_are_judged(folder):
    draw = np.random.default_rng(1)
    truth = draw.integers(1, 100, (30, 3))
    for run in find_runs(folder):
        good = 0.9 if run.factors["backbone.norm"] == "batch" else 0.6
        hits = (truth * draw.uniform(good - 0.2, good + 0.1, truth.shape)).astype(int)
        predicted = hits + draw.integers(0, 20, truth.shape)
        arrays = {"ids": np.arange(30).astype(str), "hits": hits, "truth": truth, "predicted": predicted}
        np.savez_compressed(run.path / "images_test.npz", **arrays)
        sums = [counts.sum(0) for counts in (hits, truth, predicted)]
        value = float(np.mean(sums[0] / (sums[1] + sums[2] - sums[0])))
        found = read_json(run.path / "result.json")
        write_json(run.path / "result.json", found | {"metrics": {"test/miou": value}})
    comparison = compare(find_runs(folder), metric="test/miou")
    none, group = uncertainty(comparison)
    assert none.high < 0
    assert none.low < none.difference < none.high
    assert none.mcnemar == {}
    header, rows = table(comparison, [none, group])
    assert "McNemar's p by seed" not in header
    assert all(len(row) == len(header) for row in rows)


def test_a_large_set_is_drawn_less_often(folder, monkeypatch):
    filled(folder)
    heavy = test_set.read

    def read(run, metric):
        images = heavy(run, metric)
        return type(images)(images.number, images.same, images.metric, 10_000, images.correct)

    monkeypatch.setattr(test_set, "read", read)
    monkeypatch.setattr(test_set, "MOST_WORK", 9 * 10_000 * 500)
    assert {one.resamples for one in uncertainty(compare(find_runs(folder)))} == {500}
    monkeypatch.setattr(test_set, "MOST_WORK", 1)
    assert {one.resamples for one in uncertainty(compare(find_runs(folder)))} == {200}
    assert {one.resamples for one in uncertainty(compare(find_runs(folder)), resamples=50)} == {50}


def test_the_words_say_what_it_is(folder):
    filled(folder)
    comparison = compare(find_runs(folder))
    found = uncertainty(comparison)
    first, beyond, test = sentences(comparison, found)
    assert first.startswith("Uncertainty of the test set, not of training:")
    assert "60 images" in first
    assert "2,000 resamples" in first
    assert beyond == "Beyond the luck of these images: none, group."
    assert test.startswith("McNemar's exact test")
    header, rows = table(comparison, found)
    assert header[-1] == "McNemar's p by seed"
    assert [row[:4] for row in rows] == [["none", "batch", "3", "60"], ["group", "batch", "3", "60"]]
    assert all(len(row) == len(header) for row in rows)


def test_a_difference_that_other_images_might_not_show_is_said_to_be_so(folder):
    filled(folder, better=0.0)
    comparison = compare(find_runs(folder))
    said = sentences(comparison, uncertainty(comparison))
    assert said[1] == "Within the luck of these images: none, group."
