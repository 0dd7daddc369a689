"""Seeds side by side: each comes to what it comes to alone, and where that cannot be, it is made alone."""

import json
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict, read_write
from torch.utils._pytree import tree_leaves

from command_line import script, succeeded
from composing import composed
from paribus import build as making
from paribus.checks import check
from paribus.config import ConfigError
from paribus.data.module import DataModule
from paribus.record import claimed
from paribus.results import Run, curves, differences, find_runs
from paribus.stacked import fit, pays
from paribus.stacked.files import OfEach
from paribus.stacked.pays import measured, times_as_fast, why_slower
from paribus.stacked.refused import why_not
from paribus.stacked.step import Stack
from paribus.sweep.job import Job
from paribus.sweep.mates import TOLD, mates
from paribus.sweep.probe import probe
from paribus.sweep.together import together
from paribus.train import run

SEEDS = (0, 1, 5)
SET = [
    "data.reader.lengths={train: 96, val: 33, test: 35}",
    "data.size=[16,16]",
    "data.batch_size=16",
    "trainer.max_epochs=2",
    "trainer.progress=false",
    "trainer.threads=1",
]
CONV = [
    *SET,
    "backbone.channels=[8]",
    "optimizer=momentum",
    "augmentation=on_device",
    "trainer.log_every=2",
    "trainer.checkpoint_every=4",
]


@pytest.fixture(autouse=True)
def apart_from_others(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    TOLD.clear()
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """The runs of CONV, as they are alone."""
    folder = tmp_path_factory.mktemp("one_by_one")
    alone(folder, *CONV)
    return folder


@pytest.fixture
def paying(monkeypatch):
    monkeypatch.setattr(pays, "measured", lambda *_: 2.0)


def jobs(folder: Path, *overrides: str, seeds=SEEDS) -> list:
    """Configs as the launcher hands them to a process."""
    found = []
    for seed in seeds:
        cfg = composed(*overrides, "replicates=stacked", f"seed={seed}")
        with open_dict(cfg):
            cfg.hydra = HydraConfig.instance().cfg.hydra.copy()
        with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = str(folder / f"seed={seed}")
        found.append(cfg)
    return found


def alone(folder: Path, *overrides: str, seeds=SEEDS) -> None:
    for seed in seeds:
        run(composed(*overrides, f"seed={seed}"), folder / f"seed={seed}")


def state(folder: Path, name: str) -> dict:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def the_same(found: Path, expected: Path, tolerance: float) -> None:
    for seed in SEEDS:
        mine, theirs = found / f"seed={seed}", expected / f"seed={seed}"
        for name in ("best", "last"):
            a, b = state(mine, name), state(theirs, name)
            assert a.keys() == b.keys()
            assert a["loops"] == b["loops"]
            assert a["callbacks"].keys() == b["callbacks"].keys()
            assert (a["epoch"], a["global_step"]) == (b["epoch"], b["global_step"])
            for part in ("state_dict", "optimizer_states", "lr_schedulers", "sums"):
                for one, two in zip(tree_leaves(a[part]), tree_leaves(b[part]), strict=True):
                    if isinstance(two, torch.Tensor):
                        torch.testing.assert_close(one, two, rtol=0, atol=tolerance)
                    else:
                        assert one == two
        one, two = Run.read(mine), Run.read(theirs)
        assert one.metrics == pytest.approx(two.metrics, abs=tolerance)
        for key in ("status", "steps", "epochs", "best_epoch", "parameters", "macs", "classes", "seed"):
            assert one.result[key] == two.result[key]
        assert not differences(one.config, two.config)
        drawn, wanted = curves(one), curves(two)
        assert drawn.keys() == wanted.keys()
        for name, rows in wanted.items():
            assert [row[:2] for row in drawn[name]] == [row[:2] for row in rows]
            assert [row[2] for row in drawn[name]] == pytest.approx([row[2] for row in rows], abs=tolerance)


def test_seeds_side_by_side_come_to_what_they_come_to_alone(one_by_one, tmp_path, paying):
    start = time.monotonic()
    why, values = together(jobs(tmp_path, *CONV))
    spent = time.monotonic() - start
    assert why is None
    the_same(tmp_path, one_by_one, 1e-5)
    found = [Run.read(tmp_path / f"seed={seed}") for seed in SEEDS]
    assert values == [(one.metrics["val/accuracy"],) for one in found]
    assert [one.result["stacked_with"] for one in found] == [[1, 5], [0, 5], [0, 1]]
    assert sum(one.result["seconds"] for one in found) < spent  # shares of it


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(
            [*SET, "backbone=mlp", "backbone.width=16", "task.label_smoothing=0.1", "scheduler=one_cycle"],
            marks=pytest.mark.slow,
        ),
        [
            *CONV,
            *("optimizer=adamw", "optimizer.eps=1e-3", "augmentation=flip", "data.train_fraction=0.9"),
            *("task.freeze=1", "task.layer_decay=0.7", "trainer.max_steps=8", "trainer.channels_last=true"),
            *("data.num_workers=2", "data.workers=threads", "data.resident=false"),
        ],
    ],
    ids=["mlp", "many"],
)
def test_so_they_do_with_other_parts(asked, tmp_path, paying):
    alone(tmp_path / "alone", *asked, "test=false")
    assert together(jobs(tmp_path / "stacked", *asked, "test=false"))[0] is None
    the_same(tmp_path / "stacked", tmp_path / "alone", 1e-5)


def test_but_for_rounding_they_are_the_same_runs(tmp_path, paying, monkeypatch):
    """In float64, with what makes rounding grow: Adam, and the gradient clipped to each network's own norm."""

    def build(*given):
        parts = making.build(*given)
        parts.task.double()
        return parts

    normalize = DataModule.normalize
    monkeypatch.setattr(DataModule, "normalize", lambda self, images: normalize(self, images).double())
    monkeypatch.setattr("paribus.train.build", build)
    monkeypatch.setattr(fit, "build", build)
    monkeypatch.setattr("paribus.stacked.pays.measured", lambda *_: 2.0)
    asked = [*CONV, "optimizer=adamw", "trainer.gradient_clip=0.3", "test=false"]
    alone(tmp_path / "alone", *asked)
    assert together(jobs(tmp_path / "stacked", *asked))[0] is None
    the_same(tmp_path / "stacked", tmp_path / "alone", 1e-11)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["task.mixup=0.2"], "task.mixup=0.2 is drawn in the step"),
        (["members=2"], "members=2 are side by side already"),
        (["optimizer=adagrad"], "optimizer=torch.optim.Adagrad is none of torch.optim.SGD, "),
        (["trainer.ema=0.9"], "trainer.ema: for each seed of its own"),
        (["trainer.early_stopping=2"], "trainer.early_stopping: for each seed of its own"),
        (["trainer.accumulate=2"], "trainer.accumulate=2"),
        (["trainer.precision=bf16-mixed"], "trainer.precision=bf16-mixed rounds too coarsely"),
        (["trainer.compile=true"], "trainer.compile=true"),
        (["trainer.checkpoint_activations=true"], "trainer.checkpoint_activations=true"),
        (["trainer=ddp_cpu"], "trainer.strategy=ddp"),
        (["logger=wandb"], "the logger is not csv"),
        (["task.head_first=3"], "task.head_first: what learns changes on the way"),
        (["data.scales=[0.5,1.5]"], "data.scales: each seed draws its own size"),
        (["task=segmentation", "model=unet"], "paribus.tasks.Segmentation is no classification"),
        (["task=multilabel"], "task.target=labels is not of one class an image"),
    ],
)
def test_what_a_config_refuses_is_said(asked, words):
    assert (why_not(check(composed(*asked))) or "").startswith(words)


def test_the_default_can_be_stacked_and_other_words_are_refused():
    assert why_not(check(composed())) is None
    with pytest.raises(ConfigError, match="`replicates=both`: separate or stacked"):
        check(composed("replicates=both"))


def tasks(*asked: str) -> list:
    return [making.build(check(composed(*asked, f"seed={seed}"))).task for seed in (0, 1)]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["backbone.dropout=0.2"], "the network draws in its step (dropout, say)"),
        (["model.dropout=0.2"], "the network draws in its step (dropout, say)"),
        ([], None),
    ],
)
def test_a_network_is_tried_before_it_is_stacked(asked, words):
    made = tasks(*CONV, *asked)
    before = [p.clone() for p in made[0].model.parameters()]
    found = measured(made, (4, 3, 16, 16), torch.device("cpu"))
    assert found == words if words else isinstance(found, float) and found > 0
    assert all(torch.equal(a, b) for a, b in zip(before, made[0].model.parameters(), strict=True))


def test_a_step_of_much_arithmetic_is_not_tried(monkeypatch):
    monkeypatch.setattr(pays, "LONG", 0.0)
    found = measured(tasks(*CONV), (4, 3, 16, 16), torch.device("cpu"))
    assert str(found).endswith("which is arithmetic")


def test_a_network_that_answers_otherwise_in_a_stack_is_not_stacked(monkeypatch):
    losses = pays.Networks.losses
    monkeypatch.setattr(
        pays.Networks, "losses", lambda *given: {k: 1.01 * v for k, v in losses(*given).items()}
    )
    assert measured(tasks(*CONV), (4, 3, 16, 16), torch.device("cpu")) == (
        "the network answers otherwise in a stack"
    )


def test_what_does_not_pay_is_made_alone_and_that_is_remembered(tmp_path, monkeypatch):
    tried = []

    def measuring(*given):
        tried.append(given)
        return 1.04

    monkeypatch.setattr(pays, "measured", measuring)
    for _ in range(2):
        why, values = together(jobs(tmp_path / "runs", *CONV))
        assert why == "3 side by side take 0.96 times as long as one after another"
        assert values == [None] * 3
    assert len(tried) == 1
    assert not find_runs(tmp_path / "runs")
    other = check(composed(*CONV, "data.batch_size=8"))
    monkeypatch.setattr(pays, "measured", lambda *_: "it cannot be")
    assert why_slower(other, 3, list) == "it cannot be"
    assert times_as_fast(other, 3) == 1
    monkeypatch.setattr(pays, "measured", lambda *_: 1.06)
    assert why_slower(check(composed(*CONV, "backbone.channels=[4]")), 3, list) is None


def test_a_plan_counts_on_what_seeds_gain_side_by_side(monkeypatch):
    alone = probe(config := check(composed(*CONV)))
    monkeypatch.setattr(pays, "measured", lambda made, *_: 1000.0 * len(made))
    assert times_as_fast(config, 3) == 3000
    assert probe(config, 3).seconds < alone.seconds / 100
    assert probe(config, 3).bytes == alone.bytes
    monkeypatch.setattr(pays, "measured", lambda *_: 0.9)
    assert times_as_fast(config, 2) == 1


def at_step(monkeypatch, step: int, happens) -> None:
    """Something happens as that step of a stack begins."""

    def on_train_batch_start(self, *given):
        if self.trainer.global_step == step:
            happens()

    monkeypatch.setattr(Stack, "on_train_batch_start", on_train_batch_start, raising=False)


def fails(error: type[BaseException]) -> None:
    raise error


@pytest.mark.parametrize(
    "killed", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["told", "killed"]
)
def test_a_stack_that_ended_in_the_middle_ends_as_an_undisturbed_one(
    killed, one_by_one, tmp_path, paying, monkeypatch
):
    with monkeypatch.context() as patch:
        if killed:  # what was kept on the way is all that is there
            patch.setattr(OfEach, "on_exception", lambda *_: None)
        at_step(patch, 8, partial(signal.raise_signal, signal.SIGTERM))
        with pytest.raises(SystemExit) as ended:
            together(jobs(tmp_path, *CONV))
    assert ended.value.code == 143
    found = [Run.read(tmp_path / f"seed={seed}").status for seed in SEEDS]
    assert found == ["interrupted"] * 3
    assert state(tmp_path / "seed=5", "last")["global_step"] == (8 if killed else 9)
    assert together(jobs(tmp_path, *CONV))[0] is None
    the_same(tmp_path, one_by_one, 1e-5)


def test_a_stack_that_fails_leaves_runs_that_go_on_alone(one_by_one, tmp_path, paying, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 9, partial(fails, ZeroDivisionError))
        assert together(jobs(tmp_path, *CONV)) == ("ZeroDivisionError: ", [None] * 3)
    assert state(tmp_path / "seed=5", "last")["global_step"] == 8
    alone(tmp_path, *CONV, seeds=SEEDS[1:2])
    why, values = together(jobs(tmp_path, *CONV))  # one of them is done: looked at again
    assert (why, values) == (None, [None] * 3)
    alone(tmp_path, *CONV, seeds=(0, 5))
    the_same(tmp_path, one_by_one, 1e-5)


def test_runs_that_stand_at_different_steps_go_on_alone(tmp_path, paying):
    alone(tmp_path, *CONV, seeds=(0,))
    result = tmp_path / "seed=0" / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"status": "interrupted"}))
    assert together(jobs(tmp_path, *CONV))[0] == "their checkpoints are of different steps"


def test_a_seed_that_diverges_fails_alone(tmp_path, paying):
    asked = [*CONV, "optimizer.lr=1e30", "scheduler=constant", "backbone.norm=none"]
    why, values = together(jobs(tmp_path, *asked))
    assert why is not None
    assert why.startswith("DivergedError: diverged at step")
    assert values == [None] * 3
    assert Run.read(tmp_path / "seed=1").status == "interrupted"  # and not yet failed


def test_a_run_that_another_process_is_making_is_waited_for(tmp_path, paying):
    with claimed(tmp_path / "seed=1"):
        assert together(jobs(tmp_path, *CONV)) == (None, [None] * 3)


def test_configs_that_differ_in_more_than_the_seed_are_not_stacked(tmp_path, paying):
    pair = [jobs(tmp_path, *CONV, seeds=(0,))[0], jobs(tmp_path, *CONV, "optimizer.lr=0.1", seeds=(1,))[0]]
    assert together(pair)[0] == "not only seeds differ: optimizer.lr"


def ahead(*asked: str) -> list[Job]:
    """Jobs of two levels and four seeds each."""
    found = []
    for channels in (4, 8):
        for seed in range(4):
            overrides = [*asked, f"backbone.channels=[{channels}]", f"seed={seed}"]
            job = Job(overrides, len(found))
            job.settle = lambda overrides=overrides: check(composed(*overrides))  # type: ignore[method-assign]
            job.composed, job.folder = True, Path("nowhere", str(len(found)))
            found.append(job)
    return found


def test_the_seeds_of_a_level_go_together_and_every_slot_has_its_share(caplog):
    first, *others = ahead()
    typed = first.settle()
    assert [job.number for job in mates(first, typed, others, 8, None, None)] == [1, 2, 3]
    assert [job.number for job in mates(first, typed, others, 2, None, None)] == [1]
    assert mates(first, typed, others, 1, None, None) == []
    others[0].apart = True
    assert [job.number for job in mates(first, typed, others, 8, None, None)] == [2, 3]
    first, *others = ahead("trainer.ema=0.9")
    with caplog.at_level("INFO"):
        assert mates(first, first.settle(), others, 8, None, None) == []
        assert mates(others[0], first.settle(), others[1:], 8, None, None) == []
    assert caplog.text.count("not stacked: trainer.ema: for each seed of its own") == 1


class Heard:
    """What is left of a process that has ended."""

    pid, exitcode = 2**22 + 1, -9

    def __init__(self, said=None):
        self.said = said

    def poll(self):
        return self.said is not None

    def recv(self):
        return self.said

    def close(self): ...


@pytest.mark.parametrize(
    ("said", "ended", "apart"),
    [
        ((None, (None, [(0.5,), (0.6,)])), [True, True], [False, False]),
        ((None, ("too slow", [(0.5,), None])), [True, False], [True, True]),
        ((None, (None, [None, None])), [False, False], [False, False]),
        (("KeyError", "no such key"), [False, False], [True, True]),
        (None, [False, False], [True, True]),
    ],
    ids=["done", "one is left", "another has them", "an error", "killed"],
)
def test_what_a_process_of_several_runs_leaves_is_made_alone(said, ended, apart):
    if said and said[0] is not None:
        said = (said, None)
    pair = [Job(["seed=0"], folder=Path("a,seed=0")), Job(["seed=1"], folder=Path("a,seed=1"))]
    pair[0].mates, pair[0].process, pair[0].pipe = pair[1:], Heard(), Heard(said)
    assert pair[0].ends() == list(zip(pair, ended, strict=True))
    assert [job.apart for job in pair] == apart
    assert pair[0].mates == []


@pytest.mark.slow
def test_a_sweep_stacks_its_seeds_and_ends_as_one_that_does_not(one_by_one, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(pays, "measured", lambda *_: 2.0)
    assert why_slower(check(composed(*CONV)), 3, list) is None  # whatever else the machine is doing
    asked = ["replicates=stacked", "hydra.launcher.n_jobs=1", "seed=0,1,5", "name=s"]
    done = succeeded(script("train", "-m", *CONV, *asked, cwd=tmp_path))
    assert done.stdout.count("val/accuracy") == 3
    for folder in (tmp_path / "runs" / "s").glob("*seed=*"):
        folder.rename(tmp_path / folder.name[folder.name.index("seed=") :])
    the_same(tmp_path, one_by_one, 1e-5)
    assert Run.read(tmp_path / "seed=1").result["stacked_with"] == [0, 5]
