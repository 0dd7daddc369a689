"""Learning curves: the band over seeds, thinned, in steps or epochs."""

import pytest

from made_runs import make_ablation
from paribus.report.comparison import compare
from paribus.report.learning import epoch_length, learning_picture, over_seeds, read
from paribus.results import MetricsFile, find_runs


def logged(root, scores=None, epoch=lambda level: 100, **node):
    """Runs of two epochs: the loss of training at each 50 steps, of validation at the end of each epoch."""
    make_ablation(root, scores or {"none": [0.5, 0.6], "batch": [0.7, 0.8]}, **node)
    for run in find_runs(root):
        file, length = MetricsFile(run.path / "metrics.csv"), epoch(run.config["backbone"]["norm"])
        for step in range(50, 2 * length + 1, 50):
            file.append(step, (step - 1) // length, {"train/loss": 2.0 - step / 400 + run.seed})
            if step % length == 0:
                value = {"val/loss": 3.0 + run.seed, "val/accuracy": run.metrics["test/accuracy"]}
                file.append(step, step // length - 1, value)
        file.close()
    return compare(find_runs(root))


def test_the_band_is_from_the_lowest_to_the_highest_seed():
    runs = [{"a": [(1, 0, 1.0), (2, 0, 4.0)]}, {"a": [(1, 0, 3.0), (2, 0, float("nan"))]}, {}]
    assert over_seeds(runs, "a") == [(1, 2.0, 1.0, 3.0), (2, 4.0, 4.0, 4.0)]
    assert over_seeds(runs, "b") == []


def test_many_steps_are_averaged_and_none_is_lost():
    course = over_seeds([{"a": [(step, 0, float(step)) for step in range(1, 601)]}], "a")
    assert len(course) == 60
    assert course[0] == (5.5, 5.5, 5.5, 5.5)
    assert sum(point[1] for point in course) / 60 == pytest.approx(300.5)


def test_each_level_has_its_losses_and_the_metric_of_validation(tmp_path):
    comparison = logged(tmp_path / "x")
    found = read(comparison, comparison.levels)
    assert (found.metric, found.unit, found.factor) == ("val/accuracy", "step", 100)
    assert found.found["none"]["train/loss"][0] == (50, 2.375, 1.875, 2.875)
    assert found.found["none"]["val/loss"] == [(100, 3.5, 3, 4), (200, 3.5, 3, 4)]
    picture = learning_picture(comparison)
    assert [axes.get_title("left") for axes in picture.whole.axes] == ["none", "batch", "", ""]
    assert len(picture.panels) == 2
    losses, metric = picture.panels[1].axes
    train, val = losses.lines
    assert (list(train.get_ydata()), list(val.get_ydata())) == ([2.375, 2.25, 2.125, 2.0], [3.5, 3.5])
    assert train.get_linestyle() != val.get_linestyle()
    assert [list(line.get_ydata()) for line in metric.lines] == [
        pytest.approx([y, y]) for y in (55, 75, 75)
    ]  # both in grey, and its own
    for other in picture.panels:
        assert other.axes[0].get_ylim() == losses.get_ylim()


def test_epochs_of_unlike_length_are_compared_by_epoch(tmp_path):
    comparison = logged(tmp_path / "x", epoch=lambda level: {"none": 100, "batch": 200}[level])
    found = read(comparison, comparison.levels)
    assert found.unit == "epoch"
    assert [course["val/loss"][-1][0] for course in found.found.values()] == [2, 2]
    assert learning_picture(comparison).whole.axes[2].get_xlabel() == "epoch"
    assert epoch_length([{"train/loss": [(50, 0, 1.0)]}]) is None


def test_of_many_levels_the_baseline_and_the_best_are_shown(tmp_path):
    scores = {"batch": [0.1, 0.1]} | {f"level {i}": [0.2 + 0.01 * i, 0.3] for i in range(14)}
    comparison = logged(tmp_path / "x", scores)
    picture = learning_picture(comparison)
    assert len(picture.panels) == 12
    assert picture.panels[0].axes[0].get_title("left") == "batch"
    assert picture.panels[1].axes[0].get_title("left") == "level 3"
    assert "Not shown: 3 levels of lower rank." in picture.caption


def test_without_a_metric_beside_the_loss_there_is_the_loss_alone(tmp_path):
    comparison = logged(tmp_path / "x", node={"metric": "test/loss"})
    picture = learning_picture(comparison)
    assert [axes.get_ylabel() for axes in picture.whole.axes] == ["loss", "loss"]
    assert picture.whole.axes[0].get_xlabel() == "step"


def test_before_anything_is_logged_there_is_no_picture(tmp_path):
    assert learning_picture(compare(find_runs(make_ablation(tmp_path / "x")))) is None
