"""W&B's history of a run that was killed, and went on, is that of one that was never disturbed."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest

import wandb_files
from command_line import SMALL
from dying import Death, assert_alike, log, prepare, trained
from wandb_server import apart

ARGUMENTS = [
    *SMALL,
    "logger=wandb",
    "logger.mode=offline",
    "trainer.log_every=1",
    "trainer.checkpoint_every=4",
]


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path, monkeypatch):
    apart(monkeypatch, tmp_path)
    prepare()
    assert "wandb" not in sys.modules or sys.modules["wandb"].run is None


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows of all its offline runs, without what W&B counts itself; pictures and tables by their content."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return [said(row) for file in files for row in wandb_files.run(file)["history"]]


def said(value: Any) -> Any:
    if isinstance(value, dict):
        named = {
            "_step",
            "_runtime",
            "_timestamp",
            "path",
            "filenames",
            "artifact_path",
            "_latest_artifact_path",
        }
        return {key: said(each) for key, each in value.items() if key not in named}
    return [said(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "deaths",
    [
        [Death("kill", "forward", 7), Death("kill", "judging", 2)],
        pytest.param(
            [Death("term", "batch", 6), Death("kill", "validated", 1), Death("error", "record", 1)],
            marks=pytest.mark.slow,
        ),
        pytest.param([Death("ctrl_c", "step", 3), Death("kill", "write", 1)], marks=pytest.mark.slow),
    ],
    ids=lambda deaths: "-".join(f"{death.kind}_{death.moment}" for death in deaths),
)
def test_a_killed_run_has_the_history_of_an_undisturbed_one(tmp_path, deaths):
    whole, broken = tmp_path / "whole" / "run", tmp_path / "broken" / "run"
    whole.parent.mkdir()
    broken.parent.mkdir()
    assert trained(whole, ARGUMENTS) == 0, log(whole)
    for death in deaths:
        assert trained(broken, ARGUMENTS, death) != 0
        assert str(death) in log(broken)
        time.sleep(1.5)  # W&B's own process writes what it was told, and names its folders by the second
    assert trained(broken, ARGUMENTS) == 0, log(broken)
    assert_alike(whole, broken)
    expected, found = history(whole), history(broken)
    assert len(list(broken.glob("wandb/offline-run-*"))) == len(deaths) + 1
    assert found == expected
    steps = [row["trainer/global_step"] for row in found if "train/loss" in row]
    assert steps == list(range(1, 13))
