"""W&B end to end: runs through scripts/train.py, ``wandb sync``, and a stand-in for the server (wandb_server.py)."""

import json
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from command_line import SMALL, script, start, succeeded
from paribus.results import Run, curves, find_runs
from wandb_server import Kept, WandBServer, apart

WANDB = Path(sys.executable).with_name("wandb")
TINY = [*SMALL, "logger=wandb", "trainer.log_every=2", "trainer.threads=1"]
LONG = ["trainer.max_epochs=30" if "max_epochs" in argument else argument for argument in TINY]


@pytest.fixture(scope="module")
def server() -> Iterator[WandBServer]:
    with WandBServer() as server:
        yield server


@pytest.fixture
def sync():
    """Uploads folders of offline runs; that of older releases asks the server more than the stand-in can say."""
    import wandb

    if "x_transaction_log_flush_interval" not in wandb.Settings.model_fields:
        pytest.skip("an older release of W&B")

    def upload(*folders: Path | str, cwd: Path = Path()) -> None:
        command = [str(WANDB), "sync", *map(str, folders)]
        succeeded(subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120))

    return upload


@pytest.fixture
def nobody(monkeypatch, tmp_path, server):
    """Nobody is logged in; returns what logs in."""
    apart(monkeypatch, tmp_path, server, login=False)
    return lambda: monkeypatch.setenv("WANDB_API_KEY", "0" * 40)


def kept(server: WandBServer, folder: Path) -> Kept:
    """What the server has of a run folder."""
    return server.runs[(folder / "wandb_id").read_text().strip()]


def offline(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*"))


def files(row: Any) -> Iterator[str]:
    """The files that a row of the history names."""
    if isinstance(row, dict):
        if "_type" in row and isinstance(row.get("path"), str):
            yield row["path"]
        names = row.get("filenames", []) if row.get("_type") == "images/separated" else []
        yield from names
        for value in row.values():
            yield from files(value)
    elif isinstance(row, list):
        for value in row:
            yield from files(value)


def arrived(run: Run, there: Kept) -> None:
    """Every value of metrics.csv, every table of result.json, and every file that the history names."""
    sent = {
        (row["trainer/global_step"], name): value
        for row in there.rows
        for name, value in row.items()
        if "trainer/global_step" in row and isinstance(value, int | float)
    }
    for name, course in curves(run).items():
        for step, _, value in course:
            assert sent[step, name] == pytest.approx(value, nan_ok=True), (name, step)
    named = [name for row in there.rows for name in files(row)]
    assert named
    missing = [name for name in named if name not in there.files]
    assert not missing, (missing, sorted(there.files))
    for split, table in run.result["per_class"].items():
        shown = there.summary[f"{split}/per_class"]["path"]
        held = json.loads(there.files[shown])
        assert held["columns"] == list(table)
        rows = [list(row) for row in zip(*table.values(), strict=True)]
        assert [[None if cell != cell else cell for cell in row] for row in held["data"]] == rows  # NaN
    assert there.summary.items() >= {k: v for k, v in run.metrics.items() if v is not None}.items()


def test_what_goes_to_other_hosts_is_noticed(server, nobody):
    with pytest.raises(urllib.error.URLError):
        urllib.request.build_opener().open(
            "https://elsewhere.example", timeout=5
        )  # urlopen keeps the first proxies
    assert server.requests[-1] == "CONNECT elsewhere.example:443"


@pytest.mark.slow
def test_an_ablation_made_offline_is_uploaded_and_looks_like_one_made_online(tmp_path, server, nobody, sync):
    ablation = ["ablation=optimizer", "optimizer=sgd,adam", "seed=0,1", *TINY]
    before = len(server.requests)
    succeeded(script("train", *ablation, cwd=tmp_path))
    assert server.requests[before:] == []  # nobody is logged in: nothing goes anywhere
    runs = find_runs(tmp_path / "runs" / "optimizer")
    assert [run.status for run in runs] == ["done"] * 4

    nobody()
    refused = script("dashboard", "ablation=optimizer", cwd=tmp_path)
    assert refused.returncode == 1
    assert server.requests[before:] == []
    _, _, *folders = shlex.split(refused.stderr.strip().splitlines()[-1])
    sync(*folders, cwd=tmp_path)
    for run in runs:
        there = kept(server, run.path)
        arrived(run, there)
        assert (there.project, there.group, there.name) == ("paribus", "optimizer", f"optimizer/{run.job}")
        assert there.config["optimizer_choice"] == run.factors["optimizer"]
        assert there.config["seed"] == run.seed
        assert there.exit_code == 0

    if find_spec("wandb_workspaces"):  # an extra
        made = succeeded(script("dashboard", "ablation=optimizer", cwd=tmp_path))
        report, workspace = server.views[-2:]
        assert "groupBy': 'optimizer_choice.value'" in str(report["spec"])
        assert "groupBy': 'optimizer_choice.value'" in str(workspace["spec"])
        assert f"{server.url}/tester/paribus/reports/" in made.stdout

    online = ["ablation=optimizer", "optimizer=adam", "seed=1", "name=online", *TINY]
    succeeded(script("train", *online, cwd=tmp_path))
    (run,) = find_runs(tmp_path / "runs" / "online")
    there, like = kept(server, run.path), kept(server, runs[1].path)
    assert not offline(run.path)
    arrived(run, there)
    assert there.group == "online"
    assert there.exit_code == 0
    assert there.config.keys() == like.config.keys()
    assert there.summary.keys() == like.summary.keys()
    assert [row.keys() for row in there.rows] == [row.keys() for row in like.rows]
    assert kinds(there) == kinds(like)


def kinds(there: Kept) -> list[str]:
    """The folders and types of a run's media."""
    return sorted(f"{Path(name).parent}/*{Path(name).suffix}" for name in there.files if "media" in name)


@pytest.mark.slow
def test_a_run_that_fails_is_shown_as_failed(tmp_path, server, nobody):
    nobody()
    assert script(
        "train", "name=failing", "optimizer=sgd", "optimizer.lr=1e30", *TINY, cwd=tmp_path
    ).returncode
    (run,) = find_runs(tmp_path / "runs" / "failing")
    assert run.status == "failed"
    assert kept(server, run.path).exit_code == 1


def killed(name: str, sent: Callable[[Path], bool], cwd: Path) -> Path:
    """The folder of a run that stood still when it could be resumed, and was killed when ``sent`` says so of it."""
    process = start("train", f"name={name}", *LONG, cwd=cwd)
    folders = (cwd / "runs" / name).glob

    def wait(until: Callable[[Path], bool]) -> Path:
        end = time.monotonic() + 120
        while not (found := list(folders("*/wandb_id"))) or not until(found[0].parent):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.05)
        return found[0].parent

    wait(can_resume)
    process.send_signal(signal.SIGSTOP)
    folder = wait(sent)
    process.kill()
    process.communicate()
    return folder


def on_the_disk(folder: Path) -> bool:
    """What a run that stands still has said; W&B writes it out every second, see loggers.WandB."""
    time.sleep(1.5)
    return True


def can_resume(folder: Path) -> bool:
    return Path(folder, "checkpoints", "last.ckpt").is_file()


def resumed(name: str, cwd: Path) -> Run:
    """The same run, by the same command, done."""
    assert "resumed at step" in succeeded(script("train", f"name={name}", *LONG, cwd=cwd)).stdout
    (run,) = find_runs(cwd / "runs" / name)
    return run


@pytest.mark.slow  # W&B sends rows every 15 seconds
def test_a_killed_run_never_ends_and_goes_on_as_the_same_run(tmp_path, server, nobody):
    nobody()
    folder = killed("killed", lambda folder: bool(kept(server, folder).rows), tmp_path)
    there = kept(server, folder)
    time.sleep(2)  # W&B's own process sees that there is nobody left
    before = len(there.rows)
    assert there.exit_code is None
    arrived(resumed("killed", tmp_path), there)
    assert len(there.rows) > before
    assert [row["_step"] for row in there.rows] == list(range(len(there.rows)))
    assert there.exit_code == 0


@pytest.mark.slow
def test_a_run_killed_offline_is_uploaded_as_failed_and_its_rest_added_to_it(tmp_path, server, nobody, sync):
    folder = killed("killed_offline", on_the_disk, tmp_path)
    run = resumed("killed_offline", tmp_path)
    nobody()
    first, second = offline(folder)
    sync(first)
    there = kept(server, folder)
    before = len(there.rows)
    assert before
    assert there.exit_code == 1
    sync(second)
    assert len(there.rows) > before
    arrived(run, there)
    assert there.exit_code == 0


PICTURES = ["logger=wandb", "data.batch_size=4", "data.reader.lengths={train: 8, val: 4, test: 4}"]
PICTURES += ["data.size=[64,64]", "trainer.max_epochs=1", "trainer.threads=1", "trainer.progress=false"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "kind"),
    [
        ("digit_scenes_unet", "all_masks"),
        ("digit_scenes_yolo", "all_boxes"),
    ],
)
def test_masks_and_boxes_arrive(tmp_path, server, nobody, sync, experiment, kind):
    succeeded(script("train", f"experiment={experiment}", *PICTURES, cwd=tmp_path))
    (run,) = find_runs(tmp_path / "runs")
    nobody()
    sync(*offline(run.path))
    there = kept(server, run.path)
    arrived(run, there)
    for key in ("val/examples", "val_worst/examples", "test/examples", "test_worst/examples"):
        (images,) = [row[key] for row in there.rows if key in row]
        assert images["count"] == 4
        assert len(images[kind]) == 4
        for drawn in images[kind]:
            assert set(drawn) == {"truth", "prediction"}
            held = [there.files[drawn[name]["path"]] for name in ("truth", "prediction")]
            if kind == "all_masks":
                assert {cv2.imdecode(np.frombuffer(png, np.uint8), 0).shape for png in held} == {(64, 64)}
            else:
                boxes = [json.loads(text)["box_data"] for text in held]
                assert all(box["box_caption"][0] == str(box["class_id"]) for each in boxes for box in each)
                assert boxes[0]  # every scene holds digits
