"""The batch that fits: foretold, tried, recorded, and said after an out-of-memory error."""

import pytest
import torch

from command_line import SMALL
from composing import composed
from paribus import batch_size, trouble
from paribus.batch_size import images_that_fit, resolved
from paribus.build import build
from paribus.checks import check
from paribus.config import ConfigError
from paribus.results import Run
from paribus.train import run

AUTO = [*(o for o in SMALL if "batch_size" not in o), "data.batch_size=auto", "data.size=[32, 32]"]
KB = 2**10


def foretold(memory: int) -> int | None:
    config = check(composed(*SMALL, "data.size=[32, 32]"))
    return images_that_fit(build(config), config, memory, (32, 32))


def test_twice_the_memory_takes_twice_the_images():
    few, many = foretold(4000 * KB), foretold(8000 * KB)
    assert few > 4
    assert many == pytest.approx(2 * few, rel=0.1)
    assert foretold(10 * KB) == 0


@pytest.mark.parametrize(
    ("overrides", "refused", "found"),
    [
        ([], (), 64),  # the largest power of two among 96 samples
        ([], (64, 32), 16),
        (["trainer=ddp_cpu", "trainer.devices=3", "trainer.accumulate=2"], (16,), 48),  # 8 at once
    ],
)
def test_it_is_the_largest_that_two_steps_bear(monkeypatch, tmp_path, overrides, refused, found):
    tried = []

    def apart(function, typed, images, *_, **__):
        tried.append(images)
        return images not in refused

    monkeypatch.setattr("paribus.sweep.forked.apart", apart)
    cfg = resolved(composed(*AUTO, *overrides), tmp_path)
    assert cfg.data.batch_size == found
    assert len(tried) == len(refused) + 1
    check(cfg)


def test_nothing_that_fits_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(batch_size, "device_memory", lambda trainer: 10 * KB)
    with pytest.raises(
        ConfigError, match=r"batch_size=auto`: no image fits into 0.0 GiB: a smaller data.size"
    ):
        resolved(composed(*AUTO), tmp_path)


def test_the_levels_of_an_ablation_get_one_batch():
    with pytest.raises(ConfigError, match="all else must be equal: find it once"):
        check(composed(*AUTO))


@pytest.mark.slow
def test_a_run_records_the_number_and_goes_on_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_size, "device_memory", lambda trainer: 10**9)
    run(composed(*AUTO, "trainer.max_epochs=1"), tmp_path / "run", in_sweep=True)
    done = Run.read(tmp_path / "run")
    assert done.config["data"]["batch_size"] == 64
    monkeypatch.setattr(batch_size, "largest", None)  # it is not looked for again
    assert run(composed(*AUTO, "trainer.max_epochs=1"), tmp_path / "run", in_sweep=True) is not None


@pytest.mark.slow
def test_what_does_not_fit_is_found_out_by_two_steps():
    from paribus.sweep.forked import apart

    cfg = composed(*SMALL, "data.size=[256, 256]", "data.reader.lengths={train: 64, val: 8, test: 8}")
    tries = [
        apart(batch_size.trial, check(cfg), 64, memory, config=cfg, share={})
        for memory in (100 * 2**20, 2**32)
    ]
    assert tries == [False, True]


def test_an_error_says_the_batch_that_would_have_fit(monkeypatch, tmp_path):
    monkeypatch.setattr("paribus.device.device_memory", lambda trainer: 4000 * KB)
    config = check(composed(*SMALL, "data.size=[32, 32]", "data.batch_size=4096"))
    with pytest.raises(trouble.MachineError) as raised, trouble.in_words(config, tmp_path):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    fits = foretold(4000 * KB)
    assert f"By what a step takes, {fits} fit: data.batch_size={fits}, or trainer.accumulate=" in str(
        raised.value
    )
