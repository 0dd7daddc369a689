import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import script, succeeded
from made_runs import make_ablation, make_run
from paribus import dashboard
from paribus.results import find_runs
from wandb_server import WandBServer, apart

pytest.importorskip("wandb_workspaces")


@pytest.fixture
def server(monkeypatch, tmp_path):
    import wandb

    with WandBServer() as server:
        apart(monkeypatch, tmp_path, server)
        wandb.teardown()
        server.projects["paribus"] = None
        yield server
        wandb.teardown()


def logged(folder: Path, *curve: str) -> Path:
    """The runs in a folder as if they had been made with logger=wandb."""
    for run in find_runs(folder):
        (run.path / "wandb_id").write_text("0123abcd\n")
        rows = "".join(f"10,0,{name},0.5\n" for name in curve)
        (run.path / "metrics.csv").write_text("step,epoch,metric,value\n" + rows)
    return folder


def refusal(folder: Path, **more: Any) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        dashboard.run(folder=folder, **more)
    return str(error.value)


def panels_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    (grid,) = [block for block in spec["blocks"] if block["type"] == "panel-grid"]
    return grid["metadata"]["panelBankSectionConfig"]["panels"]


def test_the_report_holds_the_table_and_panels_of_the_group_by_factor(server, tmp_path, capsys):
    folder = logged(
        make_ablation(tmp_path / "norms", per_class={"test": {"class": ["a"], "accuracy": [0.5]}}),
        *("train/loss", "val/loss", "val/accuracy"),
    )
    addresses = dashboard.run(folder=folder)
    report, workspace = server.views
    assert (report["entityName"], report["projectName"], report["type"]) == ("tester", "paribus", "runs")
    assert (report["displayName"], report["description"]) == ("Does normalization help?", "Wu and He 2018")

    blocks = report["spec"]["blocks"]
    (text,) = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    assert "| none | 3 | 62.0 ± 5.0 |" in text
    assert "Does normalization help?" not in text  # that is the title
    assert "![" not in text

    (grid,) = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    (runs,) = grid["runSets"]
    assert runs["project"]["entityName"] == "tester"
    of_group = {"key": {"section": "run", "name": "group"}, "op": "=", "value": "norms", "disabled": False}
    assert runs["filters"]["filters"] == [of_group]
    assert runs["grouping"] == [{"section": "config", "name": "backbone_norm.value"}]

    steps, bars, losses, examples, table = panels_of(report["spec"])
    assert steps["config"]["metrics"] == ["val/accuracy"]
    assert steps["config"]["xAxis"] == "trainer/global_step"
    assert bars["viewType"] == "Bar Chart"
    assert bars["config"]["metrics"] == ["test/accuracy"]
    assert losses["config"]["metrics"] == ["train/loss", "val/loss"]
    for panel in (steps, bars, losses):
        assert panel["config"]["groupBy"] == "backbone_norm.value"
        assert (panel["config"]["groupAgg"], panel["config"]["groupArea"]) == ("mean", "minmax")
    assert examples["config"]["mediaKeys"] == ["test/examples", "test_worst/examples"]
    assert "test/per_class" in json.dumps(table)

    section = workspace["spec"]["section"]
    assert (workspace["displayName"], workspace["type"]) == ("norms", "project-view")
    assert section["runSets"][0]["filters"]["filters"] == [of_group]
    assert section["runSets"][0]["grouping"] == runs["grouping"]
    assert len(section["panelBankConfig"]["sections"][0]["panels"]) == 5

    assert addresses[0] == f"{server.url}/tester/paribus/reports/Does-normalization-help%3F--view1"
    assert addresses[1].startswith(f"{server.url}/tester/paribus?nw=")
    assert capsys.readouterr().out == f"Report:    {addresses[0]}\nWorkspace: {addresses[1]}\n"


def test_several_factors_have_panels_each_and_a_config_group_a_field_of_its_own(server, tmp_path):
    node = {"factors": {"optimizer": ["sgd", "adam"], "data.reader.size": [8, 16]}, "metric": "val/accuracy"}
    for optimizer in ("sgd", "adam"):
        for size in (8, 16):
            make_run(
                tmp_path / "two",
                seed=0,
                config={"optimizer": {"lr": 0.1}, "data": {"reader": {"size": size}}, "ablation": node},
                factors={"optimizer": optimizer, "data.reader.size": size},
                metrics={"val/accuracy": 0.5},
            )
    dashboard.run(folder=logged(tmp_path / "two"), entity="lab", project="paribus")
    report, workspace = server.views
    assert (report["entityName"], workspace["entityName"]) == ("lab", "lab")
    assert report["displayName"] == "val/accuracy by optimizer, data.reader.size"
    names = ["optimizer_choice.value", "data_reader_size.value"]
    shown = panels_of(report["spec"])
    assert [p["config"]["groupBy"] for p in shown if p["viewType"] == "Bar Chart"] == names
    assert [key["name"] for key in workspace["spec"]["section"]["runSets"][0]["grouping"]] == names
    assert shown[-1]["config"]["mediaKeys"] == ["val/examples", "val_worst/examples"]


def test_a_plain_sweep_is_grouped_by_what_its_configs_differ_in(server, tmp_path, capsys):
    for lr in (0.1, 0.2):
        made = {"config": {"optimizer": {"lr": lr}}, "factors": {}, "metrics": {"test/accuracy": lr}}
        folder = make_run(tmp_path / f"lr{lr}", seed=0, **made)
        (folder / "wandb_id").write_text("0123abcd\n")
    make_run(tmp_path / "lr0.1", seed=1, **made)
    dashboard.run(folder=tmp_path)
    (runs,) = next(block for block in server.views[0]["spec"]["blocks"] if block["type"] == "panel-grid")[
        "metadata"
    ]["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "optimizer.value.lr"}]
    assert runs["filters"]["filters"][0]["op"] == "IN"
    assert runs["filters"]["filters"][0]["value"] == ["lr0.1", "lr0.2"]
    assert "1 of 3 runs were made without logger=wandb: in the table alone." in capsys.readouterr().out


def test_runs_without_a_factor_are_grouped_by_seed(server, tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / "same", seed=seed, config={}, factors={}, metrics={"test/accuracy": 0.5})
    dashboard.run(folder=logged(tmp_path / "same"))
    assert panels_of(server.views[0]["spec"])[0]["config"]["groupBy"] == "seed.value"


def test_what_is_lacking_is_said_all_at_once_and_before_any_network(server, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    find = dashboard.importlib.util.find_spec
    absent = lambda name: None if name == "wandb_workspaces" else find(name)  # noqa: E731
    monkeypatch.setattr(dashboard.importlib.util, "find_spec", absent)
    folder = make_ablation(tmp_path / "norms")
    assert refusal(folder).splitlines() == [
        "a dashboard at W&B needs",
        "- the package wandb-workspaces: pip install 'paribus[dashboard]'",
        f"- runs of {folder} that W&B knows: none was made with logger=wandb, and finished runs are not made anew; "
        "repeat the training command with `logger=wandb name=<another>`",
        "- a login at W&B: `wandb login`, or its key in WANDB_API_KEY",
    ]
    assert server.requests == []


def test_offline_runs_are_uploaded_first_by_a_command_of_exactly_those_folders(server, tmp_path):
    folder = logged(make_ablation(tmp_path / "norms", {"none": [0.5], "batch": [0.5]}))
    first, second = (run.path / "wandb" for run in find_runs(folder))
    wanted = []
    for place, name, size, done in (
        (first, "offline-run-20250101_000000-a", 100, True),
        (first, "offline-run-20250101_000001-a", 100, False),
        (first, "offline-run-20250101_000002-a", 7, False),  # killed before it said anything
        (second, "run-20250101_000000-b", 100, False),  # online
        (second, "offline-run-20250101_000003-b", 100, False),
    ):
        (place / name).mkdir(parents=True)
        (place / name / "run-x.wandb").write_bytes(b"x" * size)
        if done:
            (place / name / "run-x.wandb.synced").touch()
        elif size > 7 and name.startswith("offline"):
            wanted.append(str(place / name))
    said = refusal(folder, entity="lab", project="other").splitlines()
    assert said[1] == "- the upload of what was made offline, 2 folder(s):"
    assert shlex.split(said[2]) == ["wandb", "sync", "--entity", "lab", "--project", "other", *wanted]
    assert shlex.split(refusal(folder).splitlines()[2]) == ["wandb", "sync", *wanted]
    assert server.requests == []


def test_a_metric_or_a_project_that_does_not_exist_is_refused(server, tmp_path):
    folder = logged(make_ablation(tmp_path / "norms"))
    assert "did you mean `metric=test/accuracy`?" in refusal(folder, metric="test/acuracy")
    assert server.views == []
    assert "'tester/nowhere' not found" in refusal(folder, project="nowhere")
    assert "holds no runs" in refusal(tmp_path / "empty")


def test_the_script_makes_it_and_refuses_in_one_message(server, tmp_path, monkeypatch):
    logged(make_ablation(tmp_path / "elsewhere" / "norms"))
    made = succeeded(script("dashboard", "ablation=norms", "root=elsewhere", cwd=tmp_path))
    assert made.stdout.startswith(f"Report:    {server.url}/tester/paribus/reports/")
    assert len(server.views) == 2
    monkeypatch.delenv("WANDB_API_KEY")
    refused = script("dashboard", "runs=elsewhere/norms", cwd=tmp_path)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "wandb login" in refused.stderr
    assert len(server.views) == 2


def test_help_and_a_missing_folder_need_no_wandb():
    code = (
        "import sys, runpy; sys.argv = ['dashboard.py', sys.argv[1]]\n"
        "try: runpy.run_path('scripts/dashboard.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print({'wandb', 'torch', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    root = Path(__file__).parents[1]
    for argument in ("--help", "runs=/nowhere"):
        done = subprocess.run(
            [sys.executable, "-c", code, argument], cwd=root, text=True, capture_output=True
        )
        assert done.stdout.splitlines()[-1] == "set()"
