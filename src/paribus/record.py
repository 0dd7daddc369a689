"""A run's claim on its folder and its entry in it: who trains here, what was found, how it ended."""

import fcntl
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from paribus import results
from paribus.config import ConfigError, TrainConfig


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; the system lets go of it when the process dies, however."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"{folder}: another process is training this run now; wait for it, or give a name="
            ) from None
        yield


def known_result(folder: Path, config: TrainConfig) -> dict[str, Any] | None:
    """What the folder already holds of this run; None if it is new. Refuses another config's folder."""
    if not (folder / "config.yaml").is_file():
        return None
    run = results.Run.read(folder)
    changed = results.differences(run.config, asdict(config))
    if changed:
        lines = [f"  {key}: {was} there, {now} now" for key, was, now in changed]
        raise ConfigError(
            "\n".join(
                [
                    f"{folder} holds a run with another config:",
                    *lines,
                    "Give this one a name (name=...), or remove the folder to train anew.",
                ]
            )
        )
    return run.result


class Record:
    """Writes config.yaml and result.json: ``running`` now, and at the end how it ended."""

    def __init__(self, folder: Path, config: TrainConfig, choices: dict[str, str]):
        self.path, self.start = folder / "result.json", time.perf_counter()
        factors = {}
        if config.ablation:
            flat = results.flatten(asdict(config))
            factors = {key: flat.get(key, choices.get(key)) for key in config.ablation.factors}
        self.result: dict[str, Any] = {
            "status": "running",
            "error": None,
            "name": config.name,
            "job": folder.name,
            "factors": factors,
            "seed": config.seed,
            **results.environment(),
            "started": results.utc_now(),
        }
        results.write_text(
            folder / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)
        )
        results.write_json(self.path, self.result)

    def done(self, found: dict[str, Any]) -> None:
        self._end("done", found)

    def failed(self, error: BaseException) -> None:
        """``interrupted`` for Ctrl-C and signals, which can be resumed; ``failed`` for the rest."""
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self._end("interrupted", {})
            return
        text = "".join(traceback.format_exception(error))
        self._end(
            "failed", {"error": {"type": type(error).__name__, "message": str(error), "traceback": text}}
        )

    def _end(self, status: str, found: dict[str, Any]) -> None:
        seconds = {"seconds": time.perf_counter() - self.start}
        self.result |= {"status": status, "finished": results.utc_now(), **seconds, **found}
        results.write_json(self.path, self.result)
