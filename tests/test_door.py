"""Paths on the command line as they are: Hydra would read = , and [ in them."""

import subprocess
import sys

import pytest

from command_line import ROOT, environment, script, succeeded
from paribus.door import door, quoted


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("a/seed=0", "a/k=[3,5],seed=1", "b", "c", "3"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("run=a/seed=0", "run='a/seed=0'"),
        ("run=a/seed=*", "run='a/seed=*'"),
        ("run=[a/seed=0,b]", "run=['a/seed=0','b']"),
        ("run=[b, a/k=[3,5],seed=1]", "run=['b','a/k=[3,5],seed=1']"),
        ("run=[a/k=[3,5],seed=1,a/seed=0]", "run=['a/k=[3,5],seed=1','a/seed=0']"),
        ("run=[a/seed=*,b]", "run=['a/seed=*','b']"),
        ("images=[a/seed=0]", "images=['a/seed=0']"),
    ],
)
def test_paths_are_quoted(here, given, taken):
    assert quoted(given) == taken


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("backbone.init=normal(0.01)", "backbone.init='normal(0.01)'"),
        ("backbone.init=he,normal(0.01),normal(1e-3)", "backbone.init=he,'normal(0.01)','normal(1e-3)'"),
        ("backbone.init='normal(0.01)'", "backbone.init='normal(0.01)'"),
    ],
)
def test_a_distribution_is_no_call(here, given, taken):
    assert quoted(given) == taken


@pytest.mark.parametrize("value", ["a/seed=5", "[a/seed=0,nowhere/seed=1]", "a/seed=0,a/seed=5"])
def test_a_run_that_leads_nowhere_is_quoted_whole(here, value):
    """So that it is called no folder; Hydra would say `mismatched input '='`."""
    assert quoted(f"run={value}") == f"run='{value}'"
    assert quoted(f"key={value}") == f"key={value}"


def test_weights_that_lead_nowhere_are_quoted(here):
    assert quoted("backbone.weights=a/seed=5") == "backbone.weights='a/seed=5'"
    assert quoted("task.teacher=a/seed=5") == "task.teacher='a/seed=5'"


def test_a_sweep_is_asked_for_anywhere_among_the_overrides(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "a=1", "-m", "b=1,2"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # door() sets it, for its process
    seen = []
    door(lambda: seen.extend(sys.argv))
    assert seen == ["train.py", "-m", "a=1", "b=1,2"]


@pytest.mark.parametrize(
    "given",
    [
        "run=b",
        "run=[b,c]",  # a list to Hydra already
        "data.size=[3,5]",  # no glob, though there is a folder 3
        "run=['a/seed=0',b]",
        "run=[b,nowhere]",
        "run=[]",
        "run=",
        "seed=0,1",
        "--help",
    ],
)
def test_all_else_is_left_alone(here, given):
    assert quoted(given) == given


@pytest.mark.parametrize("name", ["train", "profile"])
def test_help_is_what_hydra_would_say(name, tmp_path):
    # The door does not see the flag, and hands it on.
    hydras = f"""
import runpy, sys, types
import paribus.door
sys.argv = ["scripts/{name}.py", "--help"]
paribus.door.sys = types.SimpleNamespace(argv=sys.argv[:1], path=sys.path, modules=sys.modules)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    said = subprocess.run(
        [sys.executable, "-c", hydras], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert succeeded(script(name, "--help", cwd=tmp_path)).stdout == said.stdout
