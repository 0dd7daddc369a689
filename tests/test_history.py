"""W&B's history of a run that was interrupted: no row twice, none missing."""

from pathlib import Path

import pytest

from paribus.history import History, records
from paribus.results import MetricsFile

ROWS = [
    ("train", 2),
    ("train", 4),
    ("val", 4),
    ("train", 5),
    ("train", 6),
    ("val", 8),
    ("train", 8),
    ("test", 8),
]


def written(folder: Path, until: int, after: int | None = None) -> None:
    """metrics.csv of a run that has come so far, and of which what lies past a checkpoint was forgotten."""
    file = MetricsFile(folder / "metrics.csv")
    for split, step in ROWS[:until]:
        file.append(step, step // 5, {f"{split}/loss": step / 3, f"{split}/other": 1.0})
    if after is not None:
        file.truncate_after(after)
    file.close()


def row(split: str, step: int) -> dict:
    return {f"{split}/loss": step / 3, f"{split}/other": 1.0, "trainer/global_step": step, "epoch": step // 5}


@pytest.mark.parametrize("there", range(len(ROWS) + 2))
@pytest.mark.parametrize("resumed", [0, 4, 5, 8])
def test_whatever_wandb_has_kept_it_has_every_row_once_in_the_end(tmp_path, there, resumed):
    """Killed when all was said but the pictures; W&B has the first ``there`` rows of it."""
    said = [*(row(*each) for each in ROWS[:-1]), {"val/examples": 1}, row(*ROWS[-1])]
    kept = said[:there]
    written(tmp_path, len(ROWS), resumed)
    history = History(tmp_path, lambda: there)
    history.resume()
    for each in said:
        step = each.get("trainer/global_step")
        if step is not None and (step < resumed or (step == resumed and next(iter(each)).startswith("val"))):
            continue  # before the checkpoint, which is kept after a validation
        metrics = {key: value for key, value in each.items() if key != "trainer/global_step"}
        if step is None or not history.knows(metrics, step):
            history.add(each, kept.append)
    assert kept == said


def test_a_run_that_begins_sends_what_it_says(tmp_path):
    history, sent = History(tmp_path, lambda: 0), []
    history.resume()
    for each in ROWS:
        assert not history.knows(row(*each), each[1])
        history.add(row(*each), sent.append)
    assert sent == [row(*each) for each in ROWS]


def test_a_file_whose_writer_was_killed_is_read_as_far_as_it_goes(tmp_path):
    from wandb.proto.wandb_internal_pb2 import Record

    file, pieces = tmp_path / "run-x.wandb", b""
    for step in (1, 2, 3):
        record = Record()
        record.history.step.num = step
        item = record.history.item.add()
        item.key, item.value_json = "loss", "0.5" * 10
        data = record.SerializeToString()
        pieces += bytes(4) + len(data).to_bytes(2, "little") + b"\x01" + data
    whole = bytes(7) + pieces
    for length in range(len(whole) + 1):
        file.write_bytes(whole[:length])
        found = [record.history.step.num for record in records(file)]
        assert found == [1, 2, 3][: max(0, length - 7) // (len(pieces) // 3)], length
    file.write_bytes(whole + bytes(100))  # room that was kept for more
    assert len(list(records(file))) == 3
