"""Which process the others wait for, when a training of several stands still."""

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from paribus.record import gave_up

ASKED, ENDED = "asked", "ended"  # the second is never said: its store ends with the first process
ANSWER = timedelta(seconds=10)  # within which a process answers where it is, however busy


class Stalled(Callback):
    """With several processes, ends a run that has not moved for so many minutes, and says who holds it up and where.

    Each counts the batches that it began and ended, in a thread that looks whether this goes on. Who finds that it
    does not asks all the others through a store of torch's. Those that wait for one another have counted one more than
    the one that they wait for: that one is named, with its step and the line of code that it is at. Then every process
    ends itself, for one that waits inside of a library can be told nothing; the run is ``failed``, and the same
    command goes on from its last checkpoint.

    The process group's own timeout does not say who, and with NCCL ends the process without a word to the run folder.

    folder: of the run; the first process writes there.
    """

    def __init__(self, minutes: float, folder: str | Path):
        self.seconds, self.folder = 60 * minutes, Path(folder)
        self.count, self.place, self.moved = 0, "the start", 0.0
        self.over: threading.Event | None = None
        self.launcher: Any = None

    def _move(self, trainer: Trainer, place: str) -> None:
        self.count, self.moved = self.count + 1, time.monotonic()
        self.place = f"{place} after step {trainer.global_step}"

    def _begin(self, trainer: Trainer) -> None:
        if trainer.world_size == 1 or self.over is not None:
            return
        rank, port = trainer.global_rank, [0]
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        if rank == 0:
            store = torch.distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False)
            port = [store.port]
        torch.distributed.broadcast_object_list(port)
        if rank:
            store = torch.distributed.TCPStore(host, port[0], is_master=False)
        self.over, self.launcher = threading.Event(), trainer.strategy.launcher
        self._move(trainer, "the start")
        given = (store, rank, trainer.world_size, self.over)
        threading.Thread(target=self._watch, args=given, daemon=True).start()

    def _end(self) -> None:
        if self.over is not None:
            self.over.set()
            self.over = None

    def _watch(self, store: Any, rank: int, world: int, over: threading.Event) -> None:
        pause = min(2.0, self.seconds / 4)
        while not over.wait(pause):
            with suppress(RuntimeError):  # the first process has ended, and its store with it
                if time.monotonic() - self.moved > self.seconds:
                    store.set(ASKED, "1")
                if store.check([ASKED]):
                    self._tell(store, rank, world)

    def _tell(self, store: Any, rank: int, world: int) -> None:
        store.set(str(rank), json.dumps([self.count, self.place, socket.gethostname(), _stack()]))
        if rank == 0:
            found: list[Any] = [_answer(store, one) for one in range(world)]
            message = said(found, self.seconds / 60)
            print(f"error: {message}", file=sys.stderr, flush=True)
            with suppress(OSError):
                gave_up(self.folder, "StalledError", message)
        else:  # until the first process ends, which would take the end of another for the failure
            with suppress(RuntimeError):
                store.wait([ENDED], world * ANSWER)
        if hasattr(self.launcher, "kill"):
            self.launcher.kill(9)  # one that is stopped, and so does not end itself
        os._exit(1)

    # --- where it is -------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._move(trainer, "in the training")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._move(trainer, "between two batches of the training")

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._judges(trainer, "in the validation")

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._judges(trainer, "between two batches of the validation")

    def on_test_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._judges(trainer, "in the test")

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._judges(trainer, "between two batches of the test")

    def _judges(self, trainer: Trainer, place: str) -> None:
        """Of batches that are judged one process may have more than another: they are not counted."""
        self._move(trainer, place)
        self.count -= 1

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._move(trainer, "at the end of the validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._move(trainer, "at the end of the test")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._move(trainer, "after the validation")
        if trainer.state.fn != "fit":
            self._end()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()


def _stack() -> list[str]:
    """The main thread's lines of code, the innermost last."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return [f"{f.filename}:{f.lineno} in {f.name}" for f in traceback.extract_stack(frame)] if frame else []


def _answer(store: Any, rank: int) -> Any:
    try:
        store.wait([str(rank)], ANSWER)
        return json.loads(store.get(str(rank)))
    except RuntimeError:
        return None


def said(found: list[Any], minutes: float) -> str:
    """Of each process [count, place, host, stack], or None where it does not answer, the error that names the late."""
    answers = {rank: answer for rank, answer in enumerate(found) if answer}
    silent = [rank for rank in range(len(found)) if rank not in answers]
    first = min(answer[0] for answer in answers.values())
    late = [rank for rank, answer in answers.items() if answer[0] == first]
    head = f"nothing has moved for {minutes:g} minutes (trainer.timeout)."
    lines = [
        f"process {rank} of {len(found)} does not answer: stopped, or its machine is gone" for rank in silent
    ]
    if silent or len(late) < len(answers):
        for rank in late if len(late) < len(answers) else []:
            _, place, host, stack = answers[rank]
            where = "".join(f"\n    {line}" for line in stack[-12:])
            lines.append(f"process {rank} of {len(found)}, on {host}, is late: {place}, at{where}")
        places = Counter(answer[1] for rank, answer in answers.items() if rank not in late)
        lines += [f"{number} wait for it {place}" for place, number in places.items()]
    else:
        for rank, (_, place, host, stack) in answers.items():
            lines.append(f"process {rank}, on {host}: {place}, at {stack[-1] if stack else '?'}")
    return "\n  ".join([head, *lines])
