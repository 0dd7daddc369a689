"""The recipes of README.md, followed to the letter in a copy of the repository."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import ROOT, environment
from small_data import class_folders

README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    return re.split(r"^## ", README.split(f"## {title}\n")[1], flags=re.MULTILINE)[0]


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of the fenced blocks."""
    return re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)


def follow(title: str, house: Path) -> None:
    """Writes each block that begins with its path, runs each line of each sh block."""
    for language, body in blocks(section(title)):
        if language == "sh":
            for line in body.strip().splitlines():
                command = line.replace("python ", f"{sys.executable} ", 1)
                env = environment(house) | {"PYTHONPATH": str(house / "src")}
                done = subprocess.run(
                    command, shell=True, cwd=house, env=env, text=True, capture_output=True, timeout=240
                )
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        else:
            path, text = body.split("\n", 1)
            file = house / path.removeprefix("# ")
            assert not file.exists()
            file.write_text(text)


@pytest.fixture
def house(tmp_path):
    for folder in ("conf", "scripts", "src"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def results(house: Path) -> list[str]:
    return sorted(str(path.parent.relative_to(house)) for path in house.glob("runs/*/*/result.json"))


def test_add_a_data_set(house):
    class_folders(house / "fruit")
    follow("Add a data set", house)
    assert results(house) == ["runs/fruit/data=fruit,trainer.max_epochs=2,seed=0"]


@pytest.mark.slow
def test_add_a_model(house):
    follow("Add a model", house)
    assert len(results(house)) == 2


@pytest.mark.slow
def test_add_an_ablation(house):
    follow("Add an ablation", house)
    assert len(results(house)) == 6
    assert "Does width help?" in (house / "runs" / "width" / "report" / "report.md").read_text()


def test_the_tree_names_what_there_is():
    tree = section("The house").split("```")[1]
    for path in (ROOT / "src" / "paribus").glob("*"):
        if path.name not in ("__init__.py", "__pycache__"):
            assert path.name in tree, f"{path.name} is not in the README's tree"


def test_the_commands_name_what_there_is():
    for option in re.findall(r"(?:data|experiment|backbone|trainer|logger|ablation)=\w+", README):
        group, _, names = option.partition("=")
        for name in names.split(","):
            written = f"conf/{group}/{name}.yaml"
            assert (ROOT / written).exists() or f"# {written}" in README, option
