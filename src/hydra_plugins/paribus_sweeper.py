"""Where Hydra looks for sweepers, and nowhere else."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore


@dataclass
class SweeperConfig(BasicSweeperConf):
    _target_: str = "hydra_plugins.paribus_sweeper.ParibusSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="paribus", node=SweeperConfig, provider="paribus")


class ParibusSweeper(BasicSweeper):
    """hydra/sweeper=paribus, the default: Hydra's own, which composes every job before the first begins, 0.1 s each.

    Whether a job can be composed depends on what is chosen, and not on how large a number is: of those that differ in
    numbers alone, seeds above all, the first is tried. The launcher composes each again when its turn comes.
    """

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        first: dict[tuple, Sequence[str]] = {}
        for job in batch:
            first.setdefault(tuple(map(_kind, job)), job)
        super().validate_batch_is_legal([*first.values()])


def _kind(override: str) -> tuple[str, str]:
    """An override's key and value, or the kind of number that it is."""
    key, _, value = override.partition("=")
    for kind in (int, float):
        try:
            kind(value)
            return key, kind.__name__
        except ValueError:
            pass
    return key, value
