"""The rows that W&B has of a run, so that an interrupted one has none twice and lacks none."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from paribus.results import metric_rows

# Bytes, of a LevelDB log: a block; the head of the file, which is W&B's own, and of a piece.
BLOCK, MAGIC, HEADER = 32768, 7, 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds of pieces


class History:
    """The rows of a run in the order of one that is never interrupted.

    A run that goes on from a checkpoint says everything after it again, word for word: so rows need only be counted,
    those of the run and those that W&B has. What metrics.csv has of the time before the checkpoint, and W&B has lost
    with the process that was killed, is sent first.
    """

    def __init__(self, folder: Path, there: Callable[[], int]):
        """``there``: how many rows W&B has, asked when the first is sent."""
        self.folder, self.there = folder, there
        self.count, self.sent = 0, -1
        self.pending: list[dict[str, Any]] = []
        self.known: set[tuple[int | None, str]] = set()  # what a resumed run may come to once more

    def resume(self) -> None:
        """After metrics.csv has forgotten what comes again."""
        found: dict[tuple[int | None, str], dict[str, Any]] = {}
        for step, epoch, name, value in metric_rows(self.folder / "metrics.csv"):
            if not name.startswith("test/"):  # judged anew, after the pictures
                row = found.setdefault(_key(step, name), {"trainer/global_step": step, "epoch": epoch})
                row[name] = value
        self.pending, self.known = list(found.values()), set(found)

    def knows(self, metrics: dict[str, Any], step: int | None) -> bool:
        return _key(step, next((name for name in metrics if name != "epoch"), "")) in self.known

    def add(self, row: dict[str, Any], send: Callable[[dict[str, Any]], Any]) -> None:
        """Sends a row, and before the first those that are missing."""
        if self.sent < 0:
            self.sent = self.there()
        rows, self.pending = [*self.pending, row], []
        for each in rows:
            self.count += 1
            if self.count > self.sent:
                send(each)


def _key(step: int | None, name: str) -> tuple[int | None, str]:
    """Of a row: at a step there is one of train/, of val/ and of test/ at most."""
    return step, name.split("/")[0]


def stored(folder: Path, run_id: str) -> int:
    """How many rows of a run W&B has stored in its folder, in all of the offline runs there."""
    files = folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")
    return sum(record.WhichOneof("record_type") == "history" for file in files for record in records(file))


def records(file: Path) -> Iterator[Any]:
    """W&B's protocol buffers, until the end or where a writer that was killed has left half a record.

    wandb has no reader of these files for Python, and what its command line shows of one it shows in a terminal.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data, at, record = file.read_bytes(), MAGIC, b""
    while at < len(data):
        rest = BLOCK - at % BLOCK
        if rest < HEADER:  # too little for a piece: empty
            at += rest
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6 : at + 7]
        piece = data[at + HEADER : at + HEADER + length]
        if len(piece) < length or kind not in (bytes([n]) for n in (WHOLE, FIRST, MIDDLE, LAST)):
            return
        record += piece
        at += HEADER + length
        if kind[0] in (WHOLE, LAST):
            try:
                yield Record.FromString(record)
            except DecodeError:
                return
            record = b""
