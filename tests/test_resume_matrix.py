"""Killed, terminated, interrupted, broken or out of memory, anywhere, once or often: the same command ends as if not.

Each case draws a task, what training does, and how and where it dies, from its number; cases are chosen so that
each pair of choices that go together comes in one of them soon. `pytest "tests/test_resume_matrix.py" -k case17` runs
one again.
"""

import random
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import SMALL
from dying import KINDS, MOMENTS, Death, assert_alike, log, prepare, trained
from paribus.results import Run

BOXES = [
    *("task=detection", "data.size=[48, 48]", "data.reader.lengths={train: 48, val: 9, test: 11}"),
    *("model.pyramid_channels=16", "data.batch_size=8"),
]
CHOICES: dict[str, dict[str, list[str]]] = {
    "task": {
        "label": [],
        "labels": ["task=multilabel", "data.size=[48, 48]"],
        "taught": ["task=distillation"],
        "mask": ["task=segmentation", "model=unet", "model.decoder_channels=[16, 8]", "data.size=[48, 48]"],
        "retinanet": [*BOXES, "model=retinanet", "model.levels=[4, 8]"],
        "yolo": [*BOXES, "model=yolo", "model.levels=[4, 8]", "data.mosaic=0.5", "data.scales=[0.7,1.3]"],
        "faster_rcnn": [
            *(*BOXES, "model=faster_rcnn", "model.levels=[4, 8]", "model.anchor_scale=4"),
            *("model.num_proposals=20", "model.candidates=40", "model.box_channels=32"),
        ],
    },
    "average": {"": [], "ema": ["trainer.ema=0.9"]},
    "parts": {"": [], "parts": ["trainer.accumulate=2"]},
    "precision": {"": [], "bf16": ["trainer.precision=bf16-mixed"]},
    "schedule": {
        **{name: [f"scheduler={name}"] for name in ("cosine", "one_cycle", "polynomial", "multistep")},
        **{f"warm_{name}": [f"scheduler={name}", "scheduler.warmup=4"] for name in ("step", "constant")},
    },
    "optimizer": {name: [f"optimizer={name}"] for name in ("adamw", "momentum")},
    "augmentation": {
        name: [f"augmentation={name}"] for name in ("none", "geometric", "photometric", "crop_flip")
    },
    "drawn": {
        "": [],
        "dropout": ["backbone.dropout=0.3"],
        "mixup": ["task.mixup=0.4", "task.cutmix=1.0"],
    },
    "workers": {"": [], "workers": ["data.num_workers=2"]},
    "stop": {"": [], "early": ["trainer.early_stopping=1"]},
    "keep": {"": [], **{f"every{n}": [f"trainer.checkpoint_every={n}"] for n in (1, 2, 3)}},
    "judge": {"": [], "seldom": ["trainer.validate_every=2"]},
    "stage": {
        "": [],
        "frozen": ["task.freeze=1"],
        "head_first": ["task.head_first=5", "task.backbone_lr_factor=0.3"],
        "still_norms": ["task.freeze_norm=true"],
    },
    "end": {"": [], "steps": ["trainer.max_steps=15"]},
    # What happens to the run, and not what it does.
    "kind": {name: [] for name in KINDS},
    "moment": {name: [] for name in MOMENTS},
    "times": {name: [] for name in ("once", "twice", "thrice")},
    "torn": {"": [], "torn": []},
}
# The calls of a moment that every run comes to: 3 epochs of 6 steps, 15 steps, or 2 validations and the end.
CALLS = {"batch": 11, "forward": 11, "update": 11, "step": 11, "validation": 2, "epoch": 2, "next_epoch": 2}
CALLS |= {"validated": 1, "kept": 1, "write": 2, "written": 2, "judging": 2, "judged": 1, "record": 1}
Case = dict[str, str]


@cache
def cases(count: int) -> tuple[Case, ...]:
    """Each the best of 40 that its number draws: with the most pairs of choices that none before it has."""
    seen: set[Any] = set()
    found: list[Case] = []
    for number in range(count):
        rng = random.Random(number)
        drawn = [{key: rng.choice(list(values)) for key, values in CHOICES.items()} for _ in range(40)]
        best = max(filter(sensible, drawn), key=lambda case: len(pairs(case) - seen))
        seen |= pairs(best)
        found.append(best)
    return tuple(found)


def pairs(case: Case) -> set[Any]:
    return set(combinations(case.items(), 2))


def sensible(case: Case) -> bool:
    return case["drawn"] != "mixup" or case["task"] in ("label", "taught")


def named(number: int, case: Case) -> str:
    return f"case{number}-" + "-".join(filter(None, case.values()))


QUICK, ALL = 1, 72  # the case that make test has, and how many there are
NUMBERED = [
    pytest.param(*(number, case), id=named(number, case), marks=[pytest.mark.slow] if number != QUICK else [])
    for number, case in enumerate(cases(ALL))
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    prepare()
    folder = tmp_path_factory.mktemp("teacher") / "run"
    assert trained(folder, [*SMALL, "trainer.max_epochs=1"]) == 0, log(folder)
    return folder


def overrides(case: Case, teacher: Path) -> list[str]:
    long = ["trainer.max_epochs=3", "trainer.log_every=2"]
    chosen = [override for key, value in case.items() for override in CHOICES[key][value]]
    return [*SMALL, *long, *chosen, *([f"task.teacher={teacher}"] if case["task"] == "taught" else [])]


@pytest.mark.parametrize(("number", "case"), NUMBERED)
def test_dead_and_repeated_equals_undisturbed(tmp_path, teacher, number, case):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    given, rng = overrides(case, teacher), random.Random(number)
    assert trained(whole, given) == 0, log(whole)
    deaths = 1 + list(CHOICES["times"]).index(case["times"])
    for n in range(deaths):
        # The first as the case has it, and it comes; the others as it happens.
        kind = case["kind"] if n == 0 else rng.choice(KINDS)
        moment = case["moment"] if n == 0 else rng.choice(list(MOMENTS))
        death = Death(kind, moment, rng.randint(1, CALLS[moment]))
        code = trained(broken, given, death)
        assert n or str(death) in log(broken), f"{death} has not come: {log(broken)}"
        if str(death) in log(broken):
            ways = {"kill": [-9], "ctrl_c": [130], "term": [143, -15, 0], "error": [1], "memory": [1]}
            assert code in ways[kind], (code, log(broken))
    last = broken / "checkpoints" / "last.ckpt"
    if case["torn"] and last.exists() and Run.read(broken).status != "done":
        last.write_bytes(last.read_bytes()[: rng.randint(0, last.stat().st_size)])
    assert trained(broken, given) == 0, log(broken)
    assert_alike(whole, broken)


def test_a_signal_to_one_of_two_processes_ends_both_after_the_same_step(tmp_path):
    prepare()
    given = [*SMALL, "trainer=ddp_cpu", "trainer.log_every=1", "test=false"]
    # In the midst of a step: the other waits for this one's gradients.
    code = trained(tmp_path / "run", given, Death("term", "forward", 3), processes=2, rank=1)
    assert code == 143, log(tmp_path / "run")
    assert Run.read(tmp_path / "run").status == "interrupted"
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 4  # said before the fourth, heard before the fifth


@pytest.mark.slow
def test_of_two_processes_either_may_die(tmp_path):
    prepare()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    given = [
        *SMALL,
        "trainer=ddp_cpu",
        "trainer.log_every=1",
        "trainer.checkpoint_every=2",
        "trainer.ema=0.9",
    ]
    given += ["backbone.dropout=0.2", "augmentation=geometric"]
    assert trained(whole, given, processes=2) == 0, log(whole)
    deaths = [
        (Death("kill", "forward", 4), 1),
        (Death("term", "batch", 3), 0),
        (Death("term", "forward", 2), 1),
        (Death("error", "validation", 1), 1),
    ]
    for death, rank in deaths:
        code = trained(broken, given, death, processes=2, rank=rank)
        assert code == 143 if death.kind == "term" else code
        assert str(death) in log(broken)
        assert Run.read(broken).status != "failed" or death.kind != "term"
    assert trained(broken, given, processes=2) == 0, log(broken)
    assert Run.read(broken).result["processes"] == 2
    assert_alike(whole, broken)
