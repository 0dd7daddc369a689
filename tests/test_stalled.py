"""A process that the others wait for is named, and the run ends."""

import os
import subprocess

import pytest

from command_line import SMALL, script
from paribus.results import Run
from paribus.stalled import said

SLEEPS = """
import os
if os.environ.get("LOCAL_RANK") == "1":
    import time
    from paribus.data.batches import Samples
    read, seen = Samples.__getitem__, []
    def falls_asleep(self, key):
        seen.append(key)
        if len(seen) == 30:
            time.sleep(600)
        return read(self, key)
    Samples.__getitem__ = falls_asleep
"""


def test_it_is_the_process_that_has_done_less():
    waits, late = (
        [7, "in the training after step 3", "a", ["x.py:1 in f"]],
        [6, "between", "b", ["y.py:2 in g"]],
    )
    message = said([waits, late, waits], 30)
    assert message.startswith("nothing has moved for 30 minutes (trainer.timeout)")
    assert "process 1 of 3, on b, is late: between, at\n    y.py:2 in g" in message
    assert "2 wait for it in the training after step 3" in message
    assert "process 0" not in message


def test_one_that_does_not_answer_is_named_and_equals_are_all():
    place = [7, "in the training after step 3", "a", ["x.py:1 in f"]]
    message = said([place, None], 1)
    assert "process 1 of 2 does not answer" in message
    assert "process 0 of" not in message
    both = said([place, place], 1)
    assert "process 0, on a: in the training after step 3, at x.py:1 in f" in both
    assert "process 1, on a" in both


@pytest.mark.slow
def test_a_process_asleep_in_a_sample_ends_the_run_with_its_name(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(SLEEPS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    name = f"asleep_{os.getpid()}"
    ended = script("train", *SMALL, f"name={name}", "trainer=ddp_cpu", "trainer.timeout=0.1", cwd=tmp_path)
    assert ended.returncode == 1
    (run,) = (Run.read(path) for path in tmp_path.glob("runs/*/*"))
    assert run.status == "failed"
    assert run.result["error"]["type"] == "StalledError"
    for text in (ended.stderr, run.result["error"]["message"]):
        assert "process 1 of 2, on" in text
        assert "is late: between two batches of the training after step 3" in text
        assert "in falls_asleep" in text
    alive = subprocess.run(["ps", "-eo", "args"], text=True, capture_output=True, check=True).stdout
    assert f"name={name}" not in alive
