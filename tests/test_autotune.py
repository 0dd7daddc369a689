"""Precision and layout: the fastest of a few steps, found once, and the run's own from then on."""

import logging

import pytest

from command_line import SMALL
from composing import composed
from paribus import autotune
from paribus.autotune import choices, choose, trial, tuned
from paribus.checks import check
from paribus.config import ConfigError, TrainerConfig
from paribus.results import Run
from paribus.train import run

ASKED = [*SMALL, "trainer.autotune=true", "trainer.threads=1"]


def times(monkeypatch, seconds: dict[tuple[str, bool], float | None]) -> list[tuple[str, bool]]:
    """Makes the trials last so long; returns what is tried from now on."""
    tried = []

    def apart(function, typed, **_):
        assert function is trial
        asked = (typed.trainer.precision, typed.trainer.channels_last)
        tried.append(asked)
        return seconds.get(asked, 1.0)

    monkeypatch.setattr("paribus.sweep.forked.apart", apart)
    return tried


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_fastest_is_the_runs_own_and_found_once(monkeypatch, tmp_path, caplog):
    tried = times(monkeypatch, {("bf16-mixed", False): 0.5, ("bf16-mixed", True): None})
    with caplog.at_level(logging.INFO):
        cfg = tuned(composed(*ASKED), tmp_path / "run")
    assert (cfg.trainer.precision, cfg.trainer.channels_last) == ("bf16-mixed", False)
    assert len(tried) == 8  # four choices, twice
    assert "bf16-mixed channels first  500.0 ms a step  <- chosen" in caplog.text
    assert "bf16-mixed channels last  does not run here" in caplog.text
    run(composed(*ASKED), tmp_path / "run")
    again = run(composed(*ASKED), tmp_path / "run")  # done: found, and not refused
    assert len(tried) == 8
    config = Run.read(tmp_path / "run").config
    assert (config["trainer"]["precision"], config["trainer"]["autotune"]) == ("bf16-mixed", True)
    assert again is not None
    times(monkeypatch, {("32-true", True): 0.1})
    other = tuned(composed(*ASKED, "data.batch_size=8"), tmp_path / "other")
    assert (other.trainer.precision, other.trainer.channels_last) == ("32-true", True)


def test_what_the_config_says_stays_where_nothing_is_worth_it():
    assert choices(TrainerConfig(precision="bf16-mixed", channels_last=True))[0] == {
        "precision": "bf16-mixed",
        "channels_last": True,
    }
    assert len(choices(TrainerConfig())) == 4
    assert choose([1.0, 0.97, 0.96, 2.0]) == 0
    assert choose([1.0, 0.9, 0.8, None]) == 2
    assert choose([None, 3.0, 2.0, 4.0]) == 2


def test_a_trial_is_a_few_real_steps():
    assert 0 < trial(check(composed(*SMALL, "trainer.threads=1"))) < 10


def test_it_is_refused_where_all_else_must_be_equal(tmp_path):
    cfg = composed(*ASKED, "ablation=normalization")
    with pytest.raises(ConfigError, match=r"trainer.autotune=true.*all else must be equal"):
        check(tuned(cfg, tmp_path))


def test_without_being_asked_nothing_is_tried(monkeypatch, tmp_path):
    tried = times(monkeypatch, {})
    cfg = tuned(composed(*SMALL), tmp_path)
    assert not tried
    assert cfg.trainer.precision == "32-true"
    assert autotune.STEPS > autotune.WARM
