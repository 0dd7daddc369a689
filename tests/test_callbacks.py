"""The speed of judging, measured beside it, by a clock of its own."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from paribus import callbacks
from paribus.callbacks import JudgingSpeed

TRAINER = SimpleNamespace(precision_plugin=SimpleNamespace(forward_context=nullcontext))


class Task:
    """Takes so many seconds for a batch."""

    device = torch.device("cpu")

    def __init__(self, monkeypatch, *seconds):
        self.seconds, self.seen, self.now = list(seconds), [], 100.0
        monkeypatch.setattr(callbacks.time, "perf_counter", lambda: self.now)

    def decided(self, batch):
        self.seen.append(len(batch[2]))
        self.now += self.seconds.pop(0)


def measured(speed, task, sizes, split="test"):
    word = "validation" if split == "val" else "test"
    for size in sizes:
        task.now += 50  # reading, judging
        getattr(speed, f"on_{word}_batch_end")(TRAINER, task, None, (None, None, ["id"] * size), 0)
    getattr(speed, f"on_{word}_end")(TRAINER, task)
    return speed.images_per_second


def test_it_is_the_median_of_what_the_task_takes_to_decide(monkeypatch):
    task = Task(monkeypatch, 0.25, 0.5, 0.125)
    assert measured(JudgingSpeed("test"), task, [4, 4, 4]) == 16
    assert task.seen == [4, 4, 4]


def test_batches_that_are_not_full_count_only_where_there_is_no_other(monkeypatch):
    assert measured(JudgingSpeed("val"), Task(monkeypatch, 0.25, 0.5, 0.01), [4, 4, 1], split="val") == 12
    assert measured(JudgingSpeed("test"), Task(monkeypatch, 0.5), [3]) == 6


def test_it_ends_when_it_took_long_enough(monkeypatch):
    task = Task(monkeypatch, *[2.0] * 10)
    assert measured(JudgingSpeed("test", seconds=3), task, [4] * 10) == 2
    assert task.seen == [4, 4]


def test_another_split_and_none_have_no_speed(monkeypatch):
    task = Task(monkeypatch, 1.0)
    assert measured(JudgingSpeed("val"), task, [4]) is None
    assert task.seen == []
    assert measured(JudgingSpeed("test"), task, []) is None


@pytest.mark.parametrize("world", [2, 3])
def test_the_rates_of_all_processes_are_added(monkeypatch, world):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(world))
    assert measured(JudgingSpeed("test"), Task(monkeypatch, 0.5), [4]) == 8 * world
