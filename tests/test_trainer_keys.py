"""The keys of the trainer: what is refused, and what must not change a result."""

import shutil

import pytest

from composing import composed
from paribus.checks import check
from paribus.config import ConfigError
from paribus.device import global_rank
from paribus.parallel import FSDP, strategy
from paribus.results import curves
from test_train import train, weights

STEPS = ["trainer.log_every=1", "test=false", "trainer.max_epochs=1"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["strategy=dp"], "strategy=dp: auto, ddp or fsdp"),
        (["devices=2"], r"devices=2 needs trainer.strategy=ddp"),
        (["num_nodes=2"], r"num_nodes=2 needs trainer.strategy=ddp"),
        (
            ["static_graph=true"],
            r"static_graph=true is ddp's: trainer.strategy=ddp, or trainer.static_graph=false",
        ),
        (["strategy=fsdp", "find_unused_parameters=true"], "find_unused_parameters=true is ddp's"),
        (["gradient_as_bucket_view=true"], "gradient_as_bucket_view=true is ddp's"),
        (
            ["strategy=ddp", "static_graph=true", "find_unused_parameters=true"],
            "static_graph=true finds out by itself .* trainer.find_unused_parameters=false",
        ),
        (
            ["accelerator=gpu", "strategy=fsdp", "precision=16-mixed"],
            "with fsdp trainer.precision=bf16-mixed",
        ),
        (["strategy=fsdp", "compile=true"], "compile=true is for whole networks: trainer.compile=false"),
        (
            ["checkpoint_activations=true", "compile=true"],
            "decides itself what to compute twice: trainer.checkpoint_activations=false",
        ),
        (
            ["compile=true", "cuda_graphs=true"],
            "cuda_graphs=true is of compiled networks on GPUs: trainer=gpu",
        ),
        (["accelerator=gpu", "cuda_graphs=true"], "trainer=gpu trainer.compile=true"),
        (["timeout=0"], "timeout=0.0: minutes, more than 0"),
    ],
)
def test_what_cannot_go_together_is_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        check(composed(*[f"trainer.{one}" for one in overrides]))


def test_the_batch_is_divided_among_all_machines():
    shared = ["trainer=ddp_cpu", "trainer.devices=2", "trainer.num_nodes=3", "trainer.accumulate=2"]
    with pytest.raises(ConfigError, match=r"does not divide by 12 .*devices x nodes x accumulate"):
        check(composed("data.batch_size=32", *shared))


def test_strategies_take_their_keys():
    ddp = strategy(
        check(composed("trainer=ddp_cpu", "trainer.static_graph=true", "trainer.timeout=2")).trainer
    )
    assert ddp._ddp_kwargs["static_graph"]
    assert not ddp._ddp_kwargs["gradient_as_bucket_view"]
    assert ddp._timeout.total_seconds() > 2 * 60  # ours comes first
    assert isinstance(strategy(check(composed("trainer=fsdp")).trainer), FSDP)
    assert strategy(check(composed()).trainer) == "auto"


@pytest.mark.parametrize(
    ("told", "rank"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "1"}, 1),
        ({"NODE_RANK": "1"}, 2),  # on the second machine, before Lightning starts the others there
        ({"NODE_RANK": "1", "LOCAL_RANK": "1"}, 3),
        ({"RANK": "2", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, 2),  # torchrun
        ({"SLURM_PROCID": "3"}, 3),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, 1),  # started by Lightning inside of a Slurm job
    ],
)
def test_the_first_process_of_all_machines_is_known_before_training(monkeypatch, told, rank):
    for key in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(key, raising=False)
    for key, value in told.items():
        monkeypatch.setenv(key, value)
    assert (
        global_rank(check(composed("trainer=ddp_cpu", "trainer.devices=2", "trainer.num_nodes=2")).trainer)
        == rank
    )


def test_computing_blocks_twice_changes_no_bit_and_the_layout_hardly_any(tmp_path):
    plain = train(tmp_path / "plain", *STEPS, "model.dropout=0.2")
    twice = train(tmp_path / "twice", *STEPS, "model.dropout=0.2", "trainer.checkpoint_activations=true")
    last = train(tmp_path / "last", *STEPS, "model.dropout=0.2", "trainer.channels_last=true")
    assert curves(twice) == curves(plain)
    assert twice.metrics == plain.metrics
    for name, tensor in weights(plain.path).items():
        assert (weights(twice.path)[name] == tensor).all(), name
    for name, points in curves(plain).items():
        assert [p[2] for p in curves(last)[name]] == pytest.approx(
            [p[2] for p in points], rel=1e-3, abs=1e-5
        ), name


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler on the processor")
def test_compiled_it_learns_the_same_under_the_same_names(tmp_path):
    plain = train(tmp_path / "plain", *STEPS)
    compiled = train(tmp_path / "compiled", *STEPS, "trainer.compile=true")
    losses = [[value for _, _, value in curves(run)["train/loss"]] for run in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert weights(compiled.path).keys() == weights(plain.path).keys()
    assert compiled.metrics == pytest.approx(plain.metrics, rel=1e-3)


@pytest.mark.slow
def test_half_precision_learns_nearly_the_same(tmp_path):
    plain = train(tmp_path / "plain", *STEPS)
    half = train(tmp_path / "half", *STEPS, "trainer.precision=bf16-mixed")
    losses = [[value for _, _, value in curves(run)["train/loss"]] for run in (plain, half)]
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert len(losses[0]) == 6
