"""One run, in this process: what it writes, what it repeats, skips, refuses and records."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from command_line import SMALL
from composing import composed
from paribus.config import ConfigError
from paribus.record import Record
from paribus.restore import restored, run_config
from paribus.results import Run, curves
from paribus.train import run

TASKS = {
    "label": [],
    "labels": ["task=multilabel", "data.size=[48, 48]"],
    "mask": ["task=segmentation", "model=unet", "model.decoder_channels=[16, 8]", "data.size=[48, 48]"],
    "boxes": [
        "task=detection",
        "model=retinanet",
        "data.size=[48, 48]",
        "model.pyramid_channels=16",
        "model.levels=[4, 8]",
    ],
}


def train(folder, *overrides: str, seed: int = 0):
    run(composed(*SMALL, *overrides, f"seed={seed}"), folder, in_sweep=True)
    return Run.read(folder)


def weights(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_trains_and_records(tmp_path, kind):
    done = train(tmp_path / "run", *TASKS[kind])
    result = done.result
    assert done.status == "done"
    assert result["steps"] == 12
    assert result["epochs"] == 2
    assert result["parameters"] > 0
    assert {"commit", "versions", "device", "seconds", "images_per_second", "command", "started"} <= set(
        result
    )
    monitor = done.config["task"]["monitor"]
    assert monitor in done.metrics
    assert monitor.replace("val/", "test/") in done.metrics
    assert len(result["per_class"]["test"]["class"]) == (11 if kind == "mask" else 10)
    assert len(curves(done)[monitor]) == 2
    assert (tmp_path / "run" / "figures" / "test_examples.png").stat().st_size > 1000


def test_a_seed_repeats_bit_for_bit(tmp_path):
    overrides = ["augmentation=geometric", "model.dropout=0.3"]
    train(tmp_path / "a", *overrides)
    train(tmp_path / "b", *overrides, "data.num_workers=2")
    train(tmp_path / "c", *overrides, seed=1)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_parts_of_a_batch_are_the_batch(tmp_path):
    train(tmp_path / "whole", "backbone.norm=group")
    train(tmp_path / "parts", "backbone.norm=group", "trainer.accumulate=4")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for key in whole:
        if whole[key].is_floating_point():
            torch.testing.assert_close(parts[key], whole[key], rtol=1e-3, atol=1e-4)


def test_a_finished_run_stands(tmp_path):
    first = train(tmp_path / "run")
    again = train(tmp_path / "run", "data.num_workers=1")  # changes nothing that is learned
    assert again.result["finished"] == first.result["finished"]


def test_a_finished_run_with_an_undefined_metric_stands(tmp_path):
    """No scene has a large digit: ap_large is null in result.json."""
    overrides = [*SMALL, *TASKS["boxes"], "trainer.max_steps=1"]
    first = run(composed(*overrides), tmp_path / "run")
    assert Run.read(tmp_path / "run").metrics["test/ap_large"] is None
    assert run(composed(*overrides), tmp_path / "run") == first


def test_another_config_is_refused(tmp_path):
    train(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.\d+ there, 0\.5 now(.|\n)*name="):
        train(tmp_path / "run", "optimizer.lr=0.5")


def test_a_failure_is_recorded(tmp_path):
    with pytest.raises(ValueError, match="dropout"):
        train(tmp_path / "run", "model.dropout=2")
    failed = Run.read(tmp_path / "run")
    assert failed.status == "failed"
    assert failed.result["error"]["type"] == "ValueError"
    assert "dropout" in failed.result["error"]["message"]
    assert "Traceback" in failed.result["error"]["traceback"]


def test_divergence_is_an_error(tmp_path):
    with pytest.raises(FloatingPointError, match="diverged at step 2: loss is"):
        train(tmp_path / "run", "optimizer=sgd", "optimizer.lr=1e30", "trainer.log_every=2")


def test_only_one_process_trains_a_run(tmp_path):
    import fcntl

    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process is training this run"):
            train(tmp_path / "run")


def test_the_average_is_judged_and_kept(tmp_path):
    train(tmp_path / "run", "trainer.ema=0.9")
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    averaged, raw = checkpoint["state_dict"], checkpoint["current_model_state"]
    key = "model.head.weight"
    assert not torch.equal(averaged[key], raw[key])


@pytest.mark.parametrize("frozen", ["freeze=all", "head_first=100"])
def test_a_frozen_backbone_does_not_move(tmp_path, frozen):
    train(tmp_path / "run", f"task.{frozen}")
    train(tmp_path / "still", f"task.{frozen}", "optimizer.lr=1e-9")
    a, b = weights(tmp_path / "run"), weights(tmp_path / "still")
    backbone = [key for key in a if key.startswith("model.backbone.")]
    assert backbone
    assert all(torch.equal(a[key], b[key]) for key in backbone)
    assert not any(a[key].any() for key in backbone if key.endswith("running_mean"))  # nor the statistics
    assert not torch.equal(a["model.head.weight"], b["model.head.weight"])


def test_frozen_batch_norms_do_not_move_while_the_rest_learns(tmp_path):
    train(tmp_path / "run", "task.freeze_norm=true")
    found = weights(tmp_path / "run")
    norms = {key.rpartition(".")[0] for key in found if key.endswith("running_mean")}
    assert norms
    for norm in norms:
        values = [found[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        assert [torch.unique(value).tolist() for value in values] == [[0], [1], [1], [0]]
    train(tmp_path / "still", "task.freeze_norm=true", "optimizer.lr=1e-9")
    still = weights(tmp_path / "still")
    convolutions = [key for key in found if key.startswith("model.backbone.") and found[key].ndim == 4]
    assert not any(torch.equal(found[key], still[key]) for key in convolutions)


def test_a_run_teaches_another(tmp_path):
    """The teacher's answers are learned, and its folder is not needed once they are."""
    train(tmp_path / "teacher", "trainer.max_epochs=1")
    teach = [f"task.teacher={tmp_path / 'teacher'}", "backbone.channels=[4, 8]"]
    student = train(tmp_path / "student", *teach)
    rows = curves(student)
    assert {"train/distillation", "train/cross_entropy", "train/loss"} <= set(rows)
    for (_, _, whole), (_, _, one), (_, _, other) in zip(
        *(rows[f"train/{name}"] for name in ("loss", "distillation", "cross_entropy")), strict=True
    ):
        assert whole == pytest.approx(one + other, rel=1e-5)
    assert not any("teacher" in key for key in weights(tmp_path / "student"))
    shutil.rmtree(tmp_path / "teacher")
    folder, config = run_config(tmp_path / "student")
    restored(folder, config)
    with pytest.raises(ConfigError, match=r"task.teacher: run=.*teacher: no such folder"):
        train(tmp_path / "other", *teach)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.reader.digits=[1, 1]", None),
        ("data.mean=[0.5, 0.5, 0.5]", r"was trained with another data.mean: \["),
    ],
)
def test_a_teacher_of_other_data(tmp_path, override, message):
    train(tmp_path / "teacher", "trainer.max_steps=1")
    teach = ["trainer.max_steps=1", f"task.teacher={tmp_path / 'teacher'}", override]
    if message is None:
        assert train(tmp_path / "student", *teach).status == "done"
        return
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "student", *teach)


def test_mixtures_train_and_repeat(tmp_path):
    mixed = ["task.mixup=0.2", "task.cutmix=1.0", "trainer.max_epochs=1"]
    train(tmp_path / "a", *mixed)
    train(tmp_path / "b", *mixed)
    train(tmp_path / "c", "trainer.max_epochs=1")
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_auxiliary_classifiers_train(tmp_path):
    small = ["backbone=googlenet_2014", "model.auxiliary=true", "data.size=[64, 64]", "trainer.max_steps=2"]
    overrides = [o for o in SMALL if not o.startswith("backbone")]
    run(composed(*overrides, *small), tmp_path / "run", in_sweep=True)
    assert {"train/auxiliary", "train/cross_entropy"} <= set(curves(Run.read(tmp_path / "run")))


def test_early_stopping(tmp_path):
    stopped = train(
        tmp_path / "run", "trainer.early_stopping=1", "trainer.max_epochs=8", "optimizer.lr=1e-12"
    )
    assert stopped.result["epochs"] < 8


def test_steps_before_the_first_validation(tmp_path):
    short = train(tmp_path / "run", "trainer.max_steps=2")
    assert short.status == "done"
    assert short.result["steps"] == 2


def test_the_fraction_is_of_the_training_set(tmp_path):
    assert train(tmp_path / "run", "data.train_fraction=0.5").result["steps"] == 6


def test_result_is_json_without_nan(tmp_path):
    train(tmp_path / "run", *TASKS["boxes"], "trainer.max_steps=1")
    json.loads((tmp_path / "run" / "result.json").read_text(), parse_constant=lambda name: 1 / 0)


def test_a_level_that_is_a_place_is_kept_as_it_was_asked_for(tmp_path):
    config = OmegaConf.to_object(composed("ablation=pretraining", "task.freeze=all"))
    config.backbone["weights"] = str(Path("runs/digit_scenes_convnet/seed=0").absolute())
    factors = Record(tmp_path, config, {}).result["factors"]
    assert factors["backbone.weights"] == "runs/digit_scenes_convnet/seed=0"
    assert factors["task.freeze"] == "all"


@pytest.mark.parametrize(("when", "status"), [("before", "interrupted"), ("after", "done")])
def test_ctrl_c_while_a_result_is_written_leaves_what_is_true(tmp_path, monkeypatch, when, status):
    done = Record.done

    def stopped(self, found):
        if when == "after":
            done(self, found)
        raise KeyboardInterrupt

    monkeypatch.setattr(Record, "done", stopped)
    with pytest.raises(SystemExit) as ended:
        train(tmp_path / "run", "trainer.max_steps=1")
    assert ended.value.code == 130
    assert Run.read(tmp_path / "run").status == status
