import math
import subprocess
import sys

import pytest

from made_runs import SCORES, make_ablation, make_run
from paribus.report.comparison import Scale, compare
from paribus.report.statistics import holm, paired, summary
from paribus.results import find_runs, write_text


def comparison(folder, **arguments):
    return compare(find_runs(folder), **arguments)


def by_label(found):
    return {level.label: level for level in found.levels}


def test_levels_are_judged_against_the_baseline(tmp_path):
    found = comparison(make_ablation(tmp_path / "norm"))
    assert (found.title, found.source, found.metric) == (
        "Does normalization help?",
        "Wu and He 2018",
        "test/accuracy",
    )
    assert (found.factors, found.baseline, found.mode, found.warnings) == (
        ["backbone.norm"],
        "batch",
        "max",
        [],
    )
    assert [level.label for level in found.levels] == ["none", "batch", "group"]  # the question's order
    values = {level: dict(enumerate(scores)) for level, scores in SCORES.items()}
    ps = holm([paired(values[level], values["batch"]).p for level in ("none", "group")])
    for level in found.levels:
        assert level.values == values[level.label]
        assert level.summary == summary(SCORES[level.label])
    none, batch, group = found.levels
    assert (none.paired, none.p, none.verdict) == (paired(values["none"], values["batch"]), ps[0], "worse")
    assert (batch.paired, batch.p, batch.verdict) == (None, None, "baseline")
    assert (group.paired, group.p, group.verdict) == (
        paired(values["group"], values["batch"]),
        ps[1],
        "no difference shown",
    )


def test_a_loss_is_better_when_lower_and_the_task_has_the_last_word(tmp_path):
    found = comparison(make_ablation(tmp_path / "norm"), metric="test/loss")
    assert (found.mode, by_label(found)["none"].verdict) == ("min", "worse")
    folder = make_run(
        tmp_path / "x",
        seed=0,
        config={"task": {"monitor": "val/cost", "mode": "min"}},
        factors={},
        metrics={"test/cost": 1.0},
    )
    assert comparison(folder).mode == "min"
    assert comparison(folder).metric == "test/cost"  # the test's counterpart of what the task monitors


def test_a_metric_that_no_run_has_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(
        ValueError, match=r"`test/acuracy`; did you mean `metric=test/accuracy`\? They have: test/acc"
    ):
        comparison(make_ablation(tmp_path / "norm"), metric="test/acuracy")


def test_a_sweep_that_is_not_finished(tmp_path):
    root = make_ablation(
        tmp_path / "norm", SCORES | {"layer": [None, None, None], "batch": [0.9, 0.91, None]}
    )
    for seed, status in ((0, "failed"), (1, "running")):
        make_run(
            root,
            seed=seed,
            config={"backbone": {"norm": "layer"}},
            factors={"backbone.norm": "layer"},
            status=status,
        )
    make_run(root, seed=2, config={}, factors={"backbone.norm": "batch"}, metrics={"test/accuracy": math.nan})
    found = by_label(comparison(root))
    assert found["layer"].lacking == {0: "failed", 1: "running", 2: "missing"}
    assert (found["layer"].summary, found["layer"].paired, found["layer"].verdict) == (None, None, "")
    assert found["batch"].lacking == {2: "without a finite value"}
    assert found["none"].lacking == {}
    assert found["none"].summary.n == 3
    assert found["none"].paired.n == 2  # the seeds that both have


def test_without_its_baseline_a_sweep_has_means_only(tmp_path):
    found = comparison(make_ablation(tmp_path / "norm", SCORES | {"batch": [None]}))
    assert [level.verdict for level in found.levels] == ["", "baseline", ""]
    assert [level.paired for level in found.levels] == [None, None, None]


def test_two_factors_and_a_baseline_that_names_one(tmp_path):
    node = {
        "factors": {"backbone.norm": ["none", "batch"], "backbone.depth": [2, 10]},
        "seeds": [0, 1],
        "metric": "m",
    }
    score = {("none", 2): 0.1, ("batch", 2): 0.2, ("none", 10): 0.3, ("batch", 10): 0.7}
    for baseline, references in (
        ({"backbone.norm": "none"}, {("batch", "2"): 0.1, ("batch", "10"): 0.4}),
        (
            {"backbone.norm": "none", "backbone.depth": 2},
            {("batch", "2"): 0.1, ("none", "10"): 0.2, ("batch", "10"): 0.6},
        ),
    ):
        root, ablation = tmp_path / str(len(baseline)), node | {"baseline": baseline}
        for (norm, depth), value in score.items():
            for seed in (0, 1):
                make_run(
                    root, seed=seed, metrics={"m": value + seed / 100},
                    config={"backbone": {"norm": norm, "depth": depth}, "ablation": ablation},
                    factors={"backbone.norm": norm, "backbone.depth": depth},
                )  # fmt: skip
        found = comparison(root)
        assert found.baseline == ("norm=none" if len(baseline) == 1 else "norm=none, depth=2")
        assert [level.label for level in found.levels][:2] == ["norm=none, depth=2", "norm=none, depth=10"]
        differences = {level.key: level.paired.difference for level in found.levels if level.paired}
        assert differences == pytest.approx(references)


def test_an_ablation_that_was_widened_shows_the_wider_question(tmp_path):
    root = make_ablation(tmp_path / "norm")
    for run in find_runs(root):
        for name in ("resnet18", "vgg11"):
            config = run.config | {"backbone": {"name": name, "norm": run.factors["backbone.norm"]}}
            factors = {"backbone": name, **run.factors}
            make_run(tmp_path / "wide", seed=run.seed, config=config, factors=factors, metrics=run.metrics)
    found = comparison(tmp_path / "wide")
    assert found.factors == ["backbone.norm", "backbone"]
    assert len(found.levels) == 6
    assert by_label(found)["norm=none, backbone=vgg11"].paired.difference == pytest.approx(-0.29)


def test_a_level_outside_the_question_comes_last(tmp_path):
    root = make_ablation(tmp_path / "norm")
    config = find_runs(root)[0].config | {"backbone": {"norm": "abc"}}
    make_run(root, seed=0, config=config, factors={"backbone.norm": "abc"}, metrics={"test/accuracy": 0.5})
    assert [level.label for level in comparison(root).levels] == ["none", "batch", "group", "abc"]


def test_two_questions_are_not_mixed(tmp_path):
    make_ablation(tmp_path / "norm")
    make_ablation(tmp_path / "other", node={"factors": {"optimizer.lr": [0.1]}})
    with pytest.raises(ValueError, match="several questions, report one at a time: norm, other"):
        comparison(tmp_path)


def test_a_plain_sweep_is_compared_by_what_differs_with_its_first_level(tmp_path):
    for lr in (0.1, 1e-05, 3):
        for seed in (0, 1):
            config = {
                "optimizer": {"lr": lr},
                "scheduler": {"peak": lr},
                "data": {"seed": seed, "num_workers": seed},
            }
            make_run(
                tmp_path,
                seed=seed,
                config=config,
                factors={},
                job=f"{lr}{seed}",
                metrics={"test/accuracy": lr / 4 + seed / 50},
            ).rename(tmp_path / f"{lr},{seed}")
    found = comparison(tmp_path, metric="test/accuracy")
    assert found.factors == ["optimizer.lr"]  # scheduler.peak divides the runs alike
    assert [level.label for level in found.levels] == ["1e-05", "0.1", "3"]
    assert (found.question, found.baseline, found.title) == (None, "1e-05", "test/accuracy by optimizer.lr")
    assert found.warnings == ["no baseline is named: 1e-05, the first level, stands in for it."]


def test_a_level_written_in_two_ways_is_one_level(tmp_path):
    node = {"factors": {"optimizer.lr": [0.001, 1.0, None, True]}, "seeds": [0], "metric": "m"}
    for seed, level in enumerate(["1e-3", "0.001", 0.001]):
        config = {"optimizer": {"lr": 0.001}, "ablation": node}
        make_run(tmp_path, seed=seed, config=config, factors={"optimizer.lr": level}, metrics={"m": 1.0})
    found = comparison(tmp_path)
    assert [level.label for level in found.levels] == ["0.001", "1", "null", "true"]
    assert found.levels[0].summary.n == 3


def test_runs_of_one_level_that_differ_are_pointed_out(tmp_path):
    root = make_ablation(tmp_path / "norm")
    path = root / "backbone.norm=group,seed=1/config.yaml"
    write_text(path, path.read_text().replace("lr: 0.1", "lr: 0.2"))
    assert comparison(root).warnings == [
        "not all else equal: `optimizer.lr` differs: 0.1 in batch (3 runs), group (2 runs), none (3 runs); "
        "0.2 in group seed 1."
    ]


def test_of_two_runs_for_one_place_the_newer_finished_one_counts(tmp_path):
    root = make_ablation(tmp_path / "norm")
    config = find_runs(root)[0].config | {"backbone": {"norm": "group"}}
    for job, status, day in (("old", "done", 1), ("new", "done", 3), ("newest", "failed", 5)):
        make_run(
            root / job, seed=1, config=config, factors={"backbone.norm": "group"}, status=status,
            metrics={"test/accuracy": day / 10}, started=f"2025-02-0{day}T00:00:00",
        ).rename(root / f"{job}_run")  # fmt: skip
    found = comparison(root)
    assert by_label(found)["group"].values[1] == 0.3
    assert "two runs for group, seed 1: new_run counts, old_run does not." in found.warnings
    assert len(found.warnings) == 3


@pytest.mark.parametrize(
    ("scores", "metric", "printed"),
    [
        ([0.9, 0.901, 0.902], "test/accuracy", "90.10"),
        ([0.9, 0.92, 0.94], "test/accuracy", "92.0"),
        ([0.5], "test/accuracy", "50.00"),
        ([0.9, 0.92, 0.94], "test/loss", "0.920"),
        ([21.0, 24.0, 27.0], "train/seconds", "24.0"),
        ([2000.0, 2400.0, 2800.0], "parameters", "2400"),
        ([0.00021, 0.00022, 0.00023], "test/loss", "0.000220"),
    ],
)
def test_numbers_have_the_decimals_their_interval_deserves(tmp_path, scores, metric, printed):
    for seed, value in enumerate(scores):
        make_run(tmp_path, seed=seed, config={}, factors={}, metrics={metric: value})
    found = comparison(tmp_path, metric=metric)
    scale = Scale.of(found)
    assert scale(found.levels[0].summary.mean) == printed
    assert scale.unit == ("%" if "accuracy" in metric else "")


def test_zero_has_no_minus():
    scale = Scale(percent=True, decimals=1)
    assert [scale(-0.0001, "+"), scale(0.0001, "+"), scale(-0.0001), scale(-0.001, "+")] == [
        "+0.0",
        "+0.0",
        "0.0",
        "-0.1",
    ]
    assert scale(None) == ""


def test_comparing_imports_nothing_heavy():
    heavy = ("torch", "lightning", "hydra", "matplotlib", "scipy", "numpy", "rich")
    code = f"import sys, paribus.report.run; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
