"""A run folder read back: what is no run is refused, and what comes back is the judged network."""

import pytest
import torch

from paribus.config import ConfigError, TrainerConfig
from paribus.restore import one_device, restored, run_config, teacher_model
from test_train import train


def test_the_weights_of_the_best_checkpoint_come_back(tmp_path):
    train(tmp_path / "run", "trainer.max_steps=1")
    state = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    found = restored(*run_config(tmp_path / "run")).task.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_no_such_folder():
    with pytest.raises(ConfigError, match="run=nowhere: no such folder"):
        run_config("nowhere")


def test_a_folder_of_runs_is_no_run(tmp_path):
    train(tmp_path / "all" / "one", "trainer.max_steps=1")
    with pytest.raises(ConfigError, match="it holds runs: one"):
        run_config(tmp_path / "all")


def test_a_run_without_a_checkpoint(tmp_path):
    train(tmp_path / "run", "trainer.max_steps=1")
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(ConfigError, match=r"best\.ckpt is missing"):
        restored(*run_config(tmp_path / "run"))


def test_judging_takes_one_device(tmp_path):
    train(tmp_path / "run", "trainer.max_steps=1")
    _, config = run_config(tmp_path / "run")
    config.trainer = TrainerConfig(
        accelerator="gpu", devices=4, strategy="ddp", precision="16-mixed", accumulate=2
    )
    one_device(config, "cpu")
    assert config.trainer == TrainerConfig(precision="bf16-mixed")


def test_a_teacher_may_have_learned_on_any_machine(tmp_path):
    train(tmp_path / "run", "trainer.max_steps=1")
    student = restored(*run_config(tmp_path / "run"))
    text = (tmp_path / "run" / "config.yaml").read_text()
    moved = text.replace("accelerator: cpu", "accelerator: gpu").replace("  devices: 1", "  devices: 64")
    moved = moved.replace("strategy: auto", "strategy: ddp").replace("threads: null", "threads: 2")
    assert moved.count("64") > text.count("64")
    (tmp_path / "run" / "config.yaml").write_text(moved.replace("batch_size: 16", "batch_size: 64"))
    threads = torch.get_num_threads()
    teacher = teacher_model(str(tmp_path / "run"), student.data)
    assert torch.get_num_threads() == threads
    theirs = student.task.model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in teacher.state_dict().items())
