import json
import math
import multiprocessing
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml

from made_runs import make_run
from paribus import results
from paribus.results import (
    ABSENT,
    MetricsFile,
    Run,
    curves,
    differences,
    environment,
    find_runs,
    job_name,
    read_json,
    utc_now,
    write_json,
    write_text,
)


def test_json_comes_back_with_nulls_for_what_json_lacks(tmp_path):
    value = {"nan": math.nan, "inf": [math.inf, -math.inf], "array": np.array([1.5, np.nan]), 3: np.int64(7)}
    write_json(tmp_path / "a.json", {**value, "path": tmp_path, "yes": True, "none": None, "tuple": (1, "é")})
    assert read_json(tmp_path / "a.json") == {
        "nan": None, "inf": [None, None], "array": [1.5, None], "3": 7,
        "path": str(tmp_path), "yes": True, "none": None, "tuple": [1, "é"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb:\n- 1\n- x: 2\nc:\n  d: |\n    e: f\n\n    g\n  h: 'i\n\n    j'\nk: null\n",
        "# words\na: &x {b: 1}\nc: *x\n",
        "a: {b: 1,\n  c: 2}\nd: [1,\n  2]\n",
        "---\na: 1\n",
        "a: 1\n",
        "",
    ],
)
def test_a_config_is_read_as_yaml_says(tmp_path, text):
    write_text(tmp_path / "config.yaml", text)
    assert Run.read(tmp_path).config == (yaml.safe_load(text) or {})


def test_a_config_that_is_no_yaml_is_named(tmp_path):
    write_text(tmp_path / "config.yaml", "a: 1\nb: [1\nc: 2\n")
    with pytest.raises(ValueError, match=r"config.yaml is not valid YAML"):
        Run.read(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError, match="cannot write a object as JSON"):
        write_json(tmp_path / "a.json", {"new": object()})
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def _write_forever(path, ready):
    i = 0
    while True:
        write_json(path, {"i": i, "rows": [i] * 5000})
        ready.set()
        i += 1


def test_a_killed_writer_never_leaves_half_a_file(tmp_path):
    path, context = tmp_path / "result.json", multiprocessing.get_context("fork")
    for delay in (0.0, 0.003, 0.01):
        ready = context.Event()
        writer = context.Process(target=_write_forever, args=(path, ready))
        writer.start()
        assert ready.wait(20)
        writer.join(delay)
        writer.kill()
        writer.join()
        value = read_json(path)
        assert value["rows"] == [value["i"]] * 5000


def test_files_have_the_permissions_of_any_other_file(tmp_path):
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_torn_json_is_named(tmp_path):
    (tmp_path / "result.json").write_text('{"status": "do')
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'result.json'} is not valid JSON")):
        read_json(tmp_path / "result.json")


def test_runs_are_found_in_natural_order_and_nothing_else_is(tmp_path):
    for lr in (0.1, 1e-05, 0.01):
        for seed in (10, 2):
            make_run(tmp_path / "a", seed=seed, config={}, factors={"lr": lr}, metrics={"test/accuracy": 0.5})
    (tmp_path / "a/lr=0.1,seed=2/checkpoints").mkdir()
    write_text(tmp_path / "a/lr=0.1,seed=2/checkpoints/config.yaml", "inside: a run")
    (tmp_path / "a/.hydra").mkdir()
    write_text(tmp_path / "a/.hydra/config.yaml", "hydra's: own")
    (tmp_path / "a/report").mkdir()
    assert [run.job for run in find_runs(tmp_path)] == [
        "lr=1e-05,seed=2", "lr=1e-05,seed=10", "lr=0.01,seed=2", "lr=0.01,seed=10",
        "lr=0.1,seed=2", "lr=0.1,seed=10",
    ]  # fmt: skip
    assert find_runs(tmp_path / "nowhere") == []


def test_a_run_is_read(tmp_path):
    folder = make_run(
        tmp_path / "norm", seed=4, config={"backbone": {"norm": "group"}}, factors={"backbone.norm": "group"},
        metrics={"test/accuracy": 0.5, "test/loss": math.nan},
    )  # fmt: skip
    run = Run.read(folder)
    assert (run.name, run.job, run.seed, run.status) == ("norm", "backbone.norm=group,seed=4", 4, "done")
    assert run.metrics == {"test/accuracy": 0.5, "test/loss": None}
    assert run.factors == {"backbone.norm": "group"}


def test_a_run_without_a_result_is_missing_and_its_config_names_its_level(tmp_path):
    (tmp_path / "seed=3").mkdir()
    ablation = "ablation: {factors: {backbone.norm: [layer], model: [unet]}}"
    write_text(tmp_path / "seed=3/config.yaml", f"seed: 3\nbackbone: {{norm: layer}}\n{ablation}\n")
    (run,) = find_runs(tmp_path)
    assert (run.status, run.seed, run.metrics, run.factors) == ("missing", 3, {}, {"backbone.norm": "layer"})


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is not a run folder: it has no config\.yaml"):
        Run.read(tmp_path)
    write_text(tmp_path / "config.yaml", "a: [1")
    with pytest.raises(ValueError, match=r"config\.yaml is not valid YAML"):
        Run.read(tmp_path)


def read_curves(folder):
    return curves(Run(folder, {}, {}))


def test_metrics_come_back_as_curves(tmp_path):
    assert read_curves(tmp_path) == {}
    metrics = MetricsFile(tmp_path / "metrics.csv")
    assert read_curves(tmp_path) == {}
    metrics.append(10, 0, {"train/loss": 1.5, "lr": 0.1})
    metrics.append(20, 1, {"train/loss": np.float32(0.25)})
    expected = {"train/loss": [(10, 0, 1.5), (20, 1, 0.25)], "lr": [(10, 0, 0.1)]}
    assert read_curves(tmp_path) == expected  # before it is closed: every append is flushed
    metrics.close()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[:2] == [
        "step,epoch,metric,value",
        "10,0,train/loss,1.5",
    ]


def test_a_resumed_run_writes_no_row_twice(tmp_path):
    def train(metrics, start, stop):
        for step in range(start, stop):
            metrics.append(step, step // 4, {"train/loss": 1 / (step + 1)})
            if step % 4 == 3:
                metrics.append(step, step // 4, {"val/loss": 2 / (step + 1)})

    whole = MetricsFile(tmp_path / "whole.csv")
    train(whole, 0, 12)
    stopped = MetricsFile(tmp_path / "metrics.csv")
    train(stopped, 0, 10)
    stopped._file.write("10,2,train/lo")  # killed while it wrote
    stopped.close()
    assert max(step for step, _, _ in read_curves(tmp_path)["train/loss"]) == 9
    resumed = MetricsFile(tmp_path / "metrics.csv")
    assert resumed.truncate_after(7) == 1  # the epoch
    resumed.append(7, 1, {"val/loss": 2 / 8})  # the checkpoint was taken before this row, which was written
    train(resumed, 8, 12)
    resumed.close()
    assert (tmp_path / "metrics.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_a_torn_row_does_not_swallow_the_next(tmp_path):
    write_text(tmp_path / "metrics.csv", "step,epoch,metric,value\n1,0,a,0.5\n2,0,a,0.2")
    MetricsFile(tmp_path / "metrics.csv").append(3, 0, {"a": 0.125})
    assert read_curves(tmp_path) == {"a": [(1, 0, 0.5), (3, 0, 0.125)]}


def test_another_csv_is_refused(tmp_path):
    write_text(tmp_path / "metrics.csv", "step,loss\n1,0.5\n")
    with pytest.raises(ValueError, match="the first line must be step,epoch,metric,value, not step,loss"):
        read_curves(tmp_path)


def test_differences_name_keys_and_values():
    a = {
        "optimizer": {"lr": 0.1, "betas": (0.9, 0.99)},
        "epochs": 1,
        "flag": True,
        "name": "a",
        "logger": {"x": 1},
    }
    b = {"optimizer": {"lr": 0.2, "betas": [0.9, 0.99]}, "epochs": 1.0, "flag": 1, "name": "b", "new": {}}
    assert differences(a, b) == [("optimizer.lr", 0.1, 0.2), ("flag", True, 1), ("new", ABSENT, {})]
    assert differences(a, b, ignore=["optimizer", "new", "flag", "logger"]) == [("name", "a", "b")]
    assert differences(a, a) == []


def test_differences_ignore_keys_and_not_what_begins_like_them():
    assert differences({"names": 1, "data": {"verify": 1, "verify_more": 1}}, {"names": 2}) == [
        ("names", 1, 2),
        ("data.verify_more", 1, ABSENT),
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "seed=1"),
        (["backbone.norm=group", "seed=1"], "backbone.norm=group,seed=1"),
        (["b=2", "a=1"], "a=1,b=2,seed=1"),
        (["a=1", "+a=2", "++a=3"], "a=3,seed=1"),
        (["~scheduler", "a=1"], "a=1,~scheduler,seed=1"),
        (["~scheduler", "scheduler=cosine"], "scheduler=cosine,seed=1"),
        (["backbone@encoder=resnet18"], "backbone@encoder=resnet18,seed=1"),
        (["data.reader.root=/data/my set", "backbone.weights=/my set"], "backbone.weights=_myset,seed=1"),
        (["channels=[16, 32]", "name='a b'"], "channels=[16,32],seed=1"),
        (["x={a:1}", "ablations=3"], "ablations=3,x=_a_1_,seed=1"),
        (
            ["name=x", "logger=wandb", "logger.project=p", "trainer.progress=false", "data.num_workers=0",
             "data.verify=false", "hydra.verbose=true", "hydra/launcher=joblib",
             "experiment=cifar10_resnet18", "ablation=depth", "ablation.seeds=[1]",
             "+ablation=depth", "seed=7", "trainer=gpu"],
            "trainer=gpu,seed=1",
        ),
    ],
)  # fmt: skip
def test_job_names(overrides, expected):
    assert job_name(overrides, 1) == expected


def test_long_job_names_are_cut_to_a_stable_distinct_name():
    long = [f"model.decoder_channels_{i}={i}" for i in range(10)]
    name = job_name(long, 12)
    assert len(name) == 120
    assert name.startswith("model.decoder_channels_0=0,model.")
    assert name.endswith(",seed=12")
    assert name == job_name(long[::-1], 12)
    assert name != job_name([*long[:-1], "model.decoder_channels_9=8"], 12)
    assert name.split(",")[-2].split("-")[-1] == "310491dc"  # the same on every machine and Python


def test_the_environment_says_where_a_result_comes_from():
    found = environment(["scripts/train.py", "data.reader.root=/my data"])
    assert found["command"] == "python scripts/train.py 'data.reader.root=/my data'"
    assert {"python", "paribus", "torch", "torchvision", "lightning", "timm", "numpy"} <= found[
        "versions"
    ].keys()
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cpus"] == os.cpu_count()
    assert os.uname().nodename not in json.dumps({**found, "command": ""})


def test_the_commit_is_gits(tmp_path):
    def git(*command):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *command], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert results._commit(tmp_path) == (None, None)
    git("init")
    assert results._commit(tmp_path) == (None, None)  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    assert results._commit(tmp_path) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "new").write_text("1")
    assert results._commit(tmp_path) == (git("rev-parse", "HEAD"), True)


def test_times_are_utc():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", utc_now())


def test_the_module_imports_nothing_heavy():
    heavy = ("torch", "lightning", "hydra", "numpy")
    code = f"import sys, paribus.results; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
