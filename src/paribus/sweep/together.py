"""The runs of a level in one process, their networks side by side; see paribus.stacked."""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from paribus.autotune import tuned
from paribus.batch_size import resolved
from paribus.checks import check
from paribus.config import TrainConfig
from paribus.record import BusyError, Record, claimed, known_result
from paribus.results import differences
from paribus.stacked.refused import why_not

log = logging.getLogger(__name__)

Answer = tuple[str | None, list[tuple[Any] | None]]


class ApartError(Exception):
    """The runs are to be made one by one; the message says why."""


def together(composed: Sequence[DictConfig]) -> Answer:
    """Trains, judges and records the runs, whose configs differ in the seed alone.

    Returns the value of each in a tuple, None for one that is to be made alone, and why; what a stack that failed has
    kept of a run, that goes on from. Without a reason they are to be looked at again: another process has one.
    """
    values: list[tuple[Any] | None] = [None] * len(composed)
    folders = [Path(str(one.hydra.runtime.output_dir)) for one in composed]
    try:
        configs = [_checked(one, folder) for one, folder in zip(composed, folders, strict=True)]
        if words := why_not(configs[0]) or _unequal(configs):
            return words, values
        with ExitStack() as held:
            for folder in folders:
                held.enter_context(claimed(folder))
            if any(
                (known_result(folder, config) or {}).get("status") == "done"
                for folder, config in zip(folders, configs, strict=True)
            ):
                return None, values
            _make(composed, configs, folders, values)
    except BusyError:
        return None, values
    except ApartError as error:
        return str(error), values
    except Exception as error:  # whatever it is: alone the run that it is about says it in its own name
        log.warning("the stack has failed", exc_info=error)
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", values
    return None, values


def _checked(composed: DictConfig, folder: Path) -> TrainConfig:
    HydraConfig.instance().set_config(composed)
    plain = composed.copy()
    with read_write(plain), open_dict(plain):
        del plain["hydra"]
    return check(tuned(resolved(plain, folder), folder))


def _unequal(configs: Sequence[TrainConfig]) -> str | None:
    first = asdict(configs[0])
    changed = [key for one in configs[1:] for key, _, _ in differences(first, asdict(one), ignore=("seed",))]
    return f"not only seeds differ: {', '.join(sorted({*changed}))}" if changed else None


def _make(
    composed: Sequence[DictConfig],
    configs: Sequence[TrainConfig],
    folders: Sequence[Path],
    values: list[tuple[Any] | None],
) -> None:
    """Fills in the values, one after the other as the runs end."""
    from paribus.stacked.fit import Training
    from paribus.train import choices, concluded

    training = Training(configs, folders)
    if training.unfit:
        raise ApartError(training.unfit)
    records = []
    for one, config, folder in zip(composed, configs, folders, strict=True):
        HydraConfig.instance().set_config(one)
        record = Record(folder, config, choices(), stacked_with=[c.seed for c in configs if c is not config])
        records.append(record)
    start = time.perf_counter()
    try:
        training.fit()
        spent = time.perf_counter() - start
        for record in records:
            record.alone(spent / len(records))
        for place, record in enumerate(records):
            record.start = time.perf_counter()
            found = concluded(*training.ended(place))
            record.done(found)
            values[place] = (found["metrics"].get(configs[place].metric),)
    except BaseException as error:
        for place, record in enumerate(records):
            if values[place] is None:
                record.interrupted()
        if isinstance(error, KeyboardInterrupt | SystemExit):
            log.info("interrupted; the same command resumes it")
            raise SystemExit(143 if type(error).__name__ == "SIGTERMException" else 130) from None
        raise
    finally:
        training.close()
