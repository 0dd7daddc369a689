"""What the jobs of another's launcher tell their sweep, which waits in a process elsewhere: files on the shared disk.

The sweep holds the folder's lock: who finds that free knows that the sweep is gone, however it ended. Hydra itself
tells a sweep nothing of its jobs before the last of them is over.
"""

import shutil
import signal
import threading
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from paribus import results
from paribus.record import busy, claimed
from paribus.sweep.job import PATIENCE
from paribus.sweep.standing import Standing

POLL = 0.5  # seconds
_WATCHED: list["Watch"] = []  # of this process


class Board:
    """The folder, as a job sees it; it travels there in Hydra's callback."""

    def __init__(self, folder: Path, runs: int | None):
        self.folder, self.runs = folder, runs

    def began(self, number: int, run: Path, monitor: str) -> None:
        self._put(f"{number}-began", run=str(run), monitor=monitor)

    def ended(self, number: int, run: Path, metric: str, error: str | None) -> None:
        self._put(f"{number}-ended", run=str(run), metric=metric, error=error)

    def _put(self, name: str, **said: Any) -> None:
        with suppress(OSError):  # the sweep is gone, and its folder with it
            results.write_json(self.folder / f"{name}.json", said)


class Watch:
    """The sweep's side: shows what the board says, as it is said.

    lasting: the jobs go on without the sweep, as Slurm's do. Else Ctrl-C and SIGTERM end the runs first, which keep
    their checkpoints: joblib would kill them, and all that they have started.
    """

    def __init__(self, folder: Path, total: int | None, *, lasting: bool):
        self.board = Board(folder.absolute() / f".sweep-{uuid.uuid4().hex[:8]}", total)
        self.standing, self.seen = Standing(total), set[str]()
        self.held, self.looking, self.over = ExitStack(), threading.Lock(), threading.Event()
        self.held.enter_context(claimed(self.board.folder))
        threading.Thread(target=self._watch, daemon=True).start()
        self.handlers: dict[int, Any] = {}
        if not lasting and threading.current_thread() is threading.main_thread():
            self.handlers = {n: signal.signal(n, self._told) for n in (signal.SIGINT, signal.SIGTERM)}
        _WATCHED.append(self)

    def _told(self, number: int, frame: Any) -> None:
        self.held.close()  # which the jobs see
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and any(busy(run) for run in [*self.standing.running]):
            time.sleep(POLL)
        if callable(handler := self.handlers[number]):
            handler(number, frame)
        raise SystemExit(128 + number)

    def _watch(self) -> None:
        while not self.over.wait(POLL):
            self.look()

    def look(self) -> None:
        with self.looking:
            new = [path for path in self.board.folder.glob("*-*.json") if path.name not in self.seen]
            for since, path in sorted((path.stat().st_mtime, path) for path in new):
                self.seen.add(path.name)
                said = results.read_json(path)
                if path.stem.endswith("-began"):
                    self.standing.began(Path(said["run"]), said["monitor"], since)
                else:
                    self.standing.ended(Path(said["run"]), said["metric"], said["error"])

    def close(self) -> None:
        self.over.set()
        self.look()
        self.held.close()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        shutil.rmtree(self.board.folder, ignore_errors=True)


def close() -> None:
    """Shows what is left to be shown; after the last job, however the sweep ended."""
    while _WATCHED:
        _WATCHED.pop().close()
