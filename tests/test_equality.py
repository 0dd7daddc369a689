"""A planted difference is found in every group of the config; what follows from a factor is none."""

from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from composing import composed
from paribus.report.equality import made_differently, unequal
from paribus.results import Run

PLANTED = {
    "data": "data.batch_size=48",
    "data, deeper": "data.reader.noise=0.5",
    "augmentation": "augmentation=flip",
    "backbone": "backbone.kernel=5",
    "model": "model.dropout=0.3",
    "task": "task.label_smoothing=0.1",
    "optimizer": "optimizer.lr=0.5",
    "optimizer, another": "optimizer=sgd",
    "scheduler": "scheduler=constant",
    "trainer": "trainer.max_epochs=3",
    "trainer, how": "trainer.precision=bf16-mixed",
}


def run(*overrides: str, level: str = "none", **result) -> Run:
    config = OmegaConf.to_object(composed(f"backbone.norm={level}", *overrides))
    found = {"status": "done", "seed": config.seed, "factors": {"backbone.norm": level}, **result}
    return Run(Path(f"{level},{config.seed}"), asdict(config), found)


def level(run: Run) -> str:
    return str(run.factors["backbone.norm"])


@pytest.fixture(scope="module")
def equal() -> list[Run]:
    return [run(f"seed={seed}", level=norm) for norm in ("none", "batch") for seed in (0, 1)]


def test_an_ablation_that_is_equal_but_for_its_factor_passes(equal):
    assert unequal(equal, ["backbone.norm"], level) == []


@pytest.mark.parametrize("group", PLANTED)
def test_a_planted_difference_is_found_and_said(equal, group):
    planted = run("seed=1", PLANTED[group], level="batch")
    found = unequal([*equal[:3], planted], ["backbone.norm"], level)
    key, value = PLANTED[group].split("=")
    assert found
    assert all(text.startswith("not all else equal: `") for text in found)
    if key not in ("augmentation", "optimizer", "scheduler"):
        assert f"`{key}` differs" in found[0]
        assert f"{value} in batch seed 1" in found[0]
    assert any(
        text.startswith(f"not all else equal: `{key.split('.')[0]}") or "more keys" in text for text in found
    )


def test_a_difference_of_a_whole_level_is_found_too(equal):
    slower = [run(f"seed={seed}", "optimizer.lr=0.5", level="batch") for seed in (0, 1)]
    (said,) = unequal([*equal[:2], *slower], ["backbone.norm"], level)
    assert said.endswith("0.5 in batch (2 runs).")


def test_what_is_interpolated_from_a_factor_follows_from_it():
    runs = [run("experiment=digit_scenes_unet", level=norm) for norm in ("none", "batch")]
    assert runs[0].config["model"]["norm"] == "none"
    assert unequal(runs, ["backbone.norm"], level) == []
    other = run("experiment=digit_scenes_unet", "model.norm=group", level="batch")
    assert "`model.norm` differs" in unequal([runs[0], other], ["backbone.norm"], level)[0]


def test_a_group_as_a_factor_owns_its_keys_and_no_others():
    runs = [run("optimizer=sgd"), run("optimizer=adam")]
    assert unequal(runs, ["optimizer"], level) == []
    assert unequal(runs, ["backbone.norm"], level)
    runs[1] = run("optimizer=adam", "task.label_smoothing=0.1")
    (said,) = unequal(runs, ["optimizer"], level)
    assert "`task.label_smoothing`" in said


def test_whole_recipes_say_what_they_differ_in():
    runs = [run("experiment=digit_scenes_unet"), run("experiment=digit_scenes_convnet")]
    (said,) = unequal(runs, ["experiment"], level)
    assert said.startswith("the levels are whole recipes, which differ in ")
    assert "`model._target_`" in said


def test_where_and_how_fast_a_run_is_made_is_no_difference(equal):
    moved = run(
        "seed=1",
        "root=elsewhere",
        "data.num_workers=3",
        "trainer.progress=false",
        "logger=none",
        level="batch",
    )
    assert unequal([*equal[:3], moved], ["backbone.norm"], level) == []


def test_other_packages_machines_and_code_are_said():
    plain = {"versions": {"torch": "2.14"}, "commit": "a" * 40, "device": "x86_64", "threads": 1}
    same = [run(level=norm, **plain) for norm in ("none", "batch")]
    assert made_differently(same, level) == []
    other = run(level="batch", **plain | {"versions": {"torch": "2.15"}, "dirty": True})
    found = made_differently([same[0], other], level)
    assert len(found) == 2
    assert "different torch: 2.14 in none seed 0; 2.15 in batch seed 0" in found[1]
    assert "aaaaaaaaaa with changes in batch" in found[0]
    stacked = run(level="batch", stacked_with=[1, 2], **plain)
    (said,) = made_differently([same[0], stacked], level)
    assert "different replicates: separate in none seed 0; stacked in batch seed 0" in said
    failed = run(level="batch", **plain | {"threads": 2})
    assert (
        made_differently(
            [same[0], Run(failed.path, failed.config, failed.result | {"status": "failed"})], level
        )
        == []
    )
