"""Every recipe of conf/experiment/ runs for a step: on digit scenes, or on data made in its set's format."""

from pathlib import Path

import pytest

import small_data
from composing import composed
from paribus import config
from paribus.results import Run
from paribus.train import run

RECIPES = sorted(path.stem for path in config.CONF.glob("experiment/*.yaml"))
# One of each set, and one of each task.
QUICK = {"cifar10_resnet20", "camvid_unet", "bccd_yolo", "digit_scenes_unet", "digit_scenes_retinanet"}
MAKE = {  # what lies at data.reader.root, by the beginning of the recipe's name
    "cifar10": lambda root: small_data.class_folders(root, splits=("train",), each=60),
    "camvid": lambda root: small_data.mask_folders(root, splits=("train", "val"), each=9, classes=11),
    "bccd": lambda root: small_data.voc(
        root, classes=("RBC", "WBC", "Platelets"), splits=("train", "val"), each=9
    ),
    "digit_scenes": lambda root: None,
}
LITTLE = {
    "cifar10": ["data.batch_size=16"],
    "camvid": ["data.size=[90, 120]"],
    "bccd": ["data.size=[120, 160]"],
    "digit_scenes": ["data.reader.lengths={train: 16, val: 8, test: 8}", "data.batch_size=4"],
}


@pytest.mark.parametrize(
    "recipe", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_runs_for_a_step(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (name,) = (name for name in MAKE if recipe.startswith(name))
    MAKE[name](tmp_path / "data")
    place = [] if name == "digit_scenes" else [f"data.reader.root={tmp_path / 'data'}"]
    fast = ["trainer.max_steps=1", "trainer.progress=false", "data.num_workers=0", *LITTLE[name]]
    run(composed(f"experiment={recipe}", *place, *fast), tmp_path / "run", in_sweep=True)
    assert Run.read(tmp_path / "run").status == "done"


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_header_says_what_to_expect(recipe):
    text = Path(config.CONF, "experiment", f"{recipe}.yaml").read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    for word in ("command", "hardware", "time", "expect"):
        assert any(line.startswith(f"#   {word}") for line in header), f"{recipe}: no line `#   {word}`"
