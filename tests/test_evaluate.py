"""A run judged again gives training's own numbers, to the last digit."""

import pytest

from composing import composed
from paribus import evaluate
from paribus.config import ConfigError
from paribus.results import read_json
from test_train import TASKS, train


def judged(folder, *overrides: str) -> dict[str, float]:
    return evaluate.run(composed(f"run={folder}", *overrides, root="evaluate"))


@pytest.mark.parametrize("kind", TASKS)
def test_training_and_evaluation_agree(tmp_path, kind, capsys):
    trained = train(tmp_path / "run", *TASKS[kind], "trainer.ema=0.9")
    for split in ("val", "test"):
        found = judged(tmp_path / "run", f"split={split}")
        finite = {name: value for name, value in found.items() if value == value}
        assert finite == {k: v for k, v in trained.metrics.items() if k.startswith(split) and v is not None}
        assert read_json(tmp_path / "run" / f"evaluation_{split}.json")["split"] == split
    assert "class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run=nowhere"], "run=nowhere: no such folder"),
        (["split=dev"], "split=dev: val or test"),
    ],
)
def test_bad_calls(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        judged(tmp_path, *overrides)


def test_a_folder_of_runs_is_no_run(tmp_path):
    train(tmp_path / "all" / "one", "trainer.max_steps=1")
    with pytest.raises(ConfigError, match="it holds runs: one"):
        judged(tmp_path / "all")


def test_a_run_without_a_checkpoint(tmp_path):
    train(tmp_path / "run", "trainer.max_steps=1")
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(ConfigError, match=r"best\.ckpt is missing"):
        judged(tmp_path / "run")
