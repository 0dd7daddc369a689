import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import wandb_files
from paribus import loggers
from paribus.loggers import Csv, TensorBoard, WandB
from paribus.pictures import Example
from paribus.results import write_json
from wandb_server import apart

CONFIG = {
    "name": "norms",
    "seed": 3,
    "backbone": {"norm": "group"},
    "ablation": {"factors": {"backbone.norm": ["none", "group"]}},
}
FOUND = {
    "metrics": {"val/accuracy": 0.75, "test/accuracy": 0.5},
    "per_class": {"val": {}, "test": {"class": ["cat", "dog"], "accuracy": [1.0, 0.25]}},
    "best_epoch": 4,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path, monkeypatch):
    apart(monkeypatch, tmp_path)
    yield
    if "wandb" in sys.modules:
        import wandb

        wandb.teardown()


def wandb_logger(folder: Path, **settings) -> WandB:
    return WandB(folder=str(folder), config=CONFIG, **settings)


def stored(folder: Path) -> list[dict]:
    """What W&B wrote into a run folder, a dict a run."""
    import wandb

    wandb.teardown()  # older releases do not wait for the file when a run ends
    return [wandb_files.run(file) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def example(answer, truth) -> Example:
    return Example(np.full((32, 32, 3), 90, np.uint8), truth, answer, "test/0")


@pytest.mark.slow
def test_nothing_imports_wandb_or_tensorboard_before_they_are_chosen():
    code = "import sys, paribus.loggers; print({'wandb', 'tensorboard'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_wandb_offline_holds_config_curves_summary_and_tables(tmp_path):
    folder = tmp_path / "norms" / "backbone.norm=group,seed=3"
    logger = wandb_logger(folder, tags=["night"])
    logger.log_metrics({"train/loss": 2.0}, 50)
    logger.log_metrics({"val/accuracy": 0.75, "epoch": 0}, 60)
    logger.log_metrics({"train/loss": 1.0}, 100)
    logger.log_metrics({"val/accuracy": 0.7, "epoch": 1}, 120)
    logger.finalize("success")  # Lightning, at the end of fit
    logger.log_result(FOUND, "checkpoints/best.ckpt")
    logger.finish("success")
    (run,) = stored(folder)
    assert run["exit_code"] == 0
    assert (run["project"], run["name"], run["tags"]) == (
        "paribus",
        "norms/backbone.norm=group,seed=3",
        ["night"],
    )
    assert run["config"] == {**CONFIG, "backbone_norm": "group"}
    summary = run["summary"]
    assert summary["val/accuracy"] == 0.75  # the best checkpoint's, not the last epoch's
    assert summary["test/accuracy"] == 0.5
    assert summary["train/loss"] == 1.0
    assert summary["trainer/global_step"] == 120
    assert summary["best_checkpoint"] == "checkpoints/best.ckpt"
    assert (summary["best_epoch"], summary["device"]) == (4, "cpu")
    assert summary["test/per_class"]["nrows"] == 2
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/test/*.json")
    assert json.loads(table.read_text()) == {
        "columns": ["class", "accuracy"],
        "data": [["cat", 1.0], ["dog", 0.25]],
    }


def test_the_choice_of_a_config_group_is_a_field_beside_the_group(tmp_path):
    """It is in result.json alone; and what is no plain value is a field of words."""
    factors = {"optimizer": "adam", "data.reader.size": 8, "model.widths": [8, 16], "trainer.ema": None}
    write_json(tmp_path / "result.json", {"status": "running", "factors": factors})
    config = {"name": "a", "seed": 0, "optimizer": {"lr": 0.1}, "trainer": {"ema": None}}
    logger = WandB(folder=str(tmp_path), config=config)
    logger.log_metrics({"train/loss": 2.0}, 50)
    logger.finish("success")
    (run,) = stored(tmp_path)
    fields = {
        "optimizer_choice": "adam",
        "data_reader_size": 8,
        "model_widths": "[8, 16]",
        "trainer_ema": "null",
    }
    assert run["config"] == config | fields
    assert run["config"]["optimizer"] == {"lr": 0.1}


def test_a_killed_run_is_on_the_disk_within_seconds(tmp_path):
    """Of W&B's own accord, within 15."""
    import wandb

    if "x_transaction_log_flush_interval" not in wandb.Settings.model_fields:
        pytest.skip("this release of W&B writes when a block is full")
    logger = wandb_logger(tmp_path)
    logger.log_metrics({"train/loss": 2.0}, 50)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    end = time.monotonic() + 8
    while not wandb_files.run(file)["history"]:
        assert time.monotonic() < end
        time.sleep(0.2)
    logger.finish("failed")


def test_every_row_has_its_own_step_also_when_training_went_back(tmp_path):
    logger = wandb_logger(tmp_path / "a")
    for step in (10, 20, 15, 20):
        logger.log_metrics({"train/loss": float(step)}, step)
    logger.finish("success")
    (run,) = stored(tmp_path / "a")
    found = run["history"]
    assert [(row["trainer/global_step"], row["train/loss"]) for row in found] == [
        (10, 10),
        (20, 20),
        (15, 15),
        (20, 20),
    ]
    assert [row["_step"] for row in found] == [0, 1, 2, 3]


def test_a_failed_run_is_recorded_as_failed(tmp_path):
    logger = wandb_logger(tmp_path / "a")
    logger.log_metrics({"train/loss": 2.0}, 50)
    logger.finish("failed")
    (run,) = stored(tmp_path / "a")
    assert run["exit_code"] == 1


def test_two_runs_of_a_process_stay_two_runs(tmp_path):
    for name, loss in (("a", 1.0), ("b", 2.0)):
        logger = wandb_logger(tmp_path / name)
        logger.log_metrics({"train/loss": loss}, 50)
        logger.finish("success")
    unfinished = wandb_logger(tmp_path / "c")
    unfinished.log_metrics({"train/loss": 3.0}, 50)
    last = wandb_logger(tmp_path / "d")
    last.log_metrics({"train/loss": 4.0}, 50)
    last.finish("success")
    found = [stored(tmp_path / name) for name in "abcd"]
    assert [[run["summary"]["train/loss"] for run in runs] for runs in found] == [[1.0], [2.0], [3.0], [4.0]]
    assert [runs[0]["exit_code"] for runs in found] == [0, 0, 1, 0]


def test_a_resumed_run_goes_on_in_the_same_run_and_says_nothing_twice(tmp_path):
    csv = Csv(tmp_path)
    for steps, resumed in (((50, 60, 70), 0), ((60, 70, 80), 50)):  # killed after 70; the checkpoint is of 50
        logger = wandb_logger(tmp_path)
        assert logger._wandb_init["resume"] == "allow"
        csv.resume_at(resumed)
        logger.resume_at(resumed)
        for step in steps:
            for each in (csv, logger):
                each.log_metrics({"train/loss": step / 7}, step)
        csv.finalize("failed")
        logger.finish("failed")
        time.sleep(1)  # W&B names its folders by the second
    first, second = stored(tmp_path)
    assert first["id"] == second["id"] == (tmp_path / "wandb_id").read_text().strip()
    rows = [(row["trainer/global_step"], row["train/loss"]) for row in first["history"] + second["history"]]
    assert rows == [(step, step / 7) for step in (50, 60, 70, 80)]


def test_wandb_takes_examples_of_every_kind(tmp_path):
    logger = wandb_logger(tmp_path)
    mask = np.zeros((32, 32), np.int64)
    mask[:4] = 255
    boxes = {"boxes": np.array([[1.0, 2.0, 3.0, 4.0]]), "labels": np.array([1])}
    none = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, np.int64), "scores": np.zeros(0)}
    scored = boxes | {"scores": np.array([0.5], np.float32)}
    picture = np.zeros((8, 8, 3), np.uint8)
    classes = ("cat", "dog")
    logger.log_examples("val", [example(mask, mask)], picture, "mask", classes)
    logger.log_examples("test", [example(scored, boxes), example(none, none)], picture, "boxes", classes)
    logger.log_examples("other", [example(np.array([0.2, 0.8]), 0)], picture, "label", classes)
    logger.log_result({"metrics": {}, "errors": {"test": {"error": ["missed"], "count": [3]}}}, "best.ckpt")
    logger.finish("success")
    summary = stored(tmp_path)[0]["summary"]
    assert set(summary["val/examples"]["all_masks"][0]) == {"truth", "prediction"}
    drawn = summary["test/examples"]["all_boxes"][0]
    assert set(drawn) == {"truth", "prediction"}
    files = tmp_path.glob("wandb/offline-run-*/files/media/metadata/boxes2D/**/*.json")
    data = [json.loads(file.read_text())["box_data"] for file in files]
    captions = sorted(box["box_caption"] for boxes in data for box in boxes)
    assert captions == ["dog", "dog 0.50"]
    assert summary["test/errors"]["nrows"] == 1
    assert summary["other/examples"]["captions"] == ["test/0: dog  80 %; true: cat"]


def test_auto_is_offline_until_the_user_has_logged_in(tmp_path, monkeypatch):
    assert loggers._mode() == "offline"
    (tmp_path / "netrc").write_text("machine elsewhere.example login user password secret\n")
    assert loggers._mode() == "offline"
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {'0' * 40}\n")
    assert loggers._mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert loggers._mode() is None  # W&B's own variable decides


def test_an_api_key_is_a_login(monkeypatch):
    import wandb

    wandb.teardown()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert loggers._mode() == "online"


def test_tensorboard_writes_into_the_run_folder(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(folder=str(tmp_path), config=CONFIG)
    logger.log_metrics({"train/loss": 2.0}, 50)
    logger.finalize("success")  # Lightning, at the end of fit
    logger.log_metrics({"test/accuracy": 0.5}, 60)
    logger.log_examples("test", [], np.zeros((8, 8, 3), np.uint8), "mask", ("cat",))
    logger.log_result(FOUND, "best.ckpt")
    logger.finish("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(50, 2.0)]
    assert (60, 0.5) in [(e.step, e.value) for e in events.Scalars("test/accuracy")]
    assert events.Tags()["images"] == ["test/examples"]
