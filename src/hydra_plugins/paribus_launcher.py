"""Where Hydra looks for launchers, and nowhere else; what this one does is in paribus/sweep/launcher.py."""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from paribus.config import LauncherConfig

ConfigStore.instance().store(group="hydra/launcher", name="paribus", node=LauncherConfig, provider="paribus")


class ParibusLauncher(Launcher):
    """hydra/launcher=paribus, the default: see LauncherConfig for its keys."""

    def __init__(self, **keys: Any):
        self.keys = LauncherConfig(**keys)

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from paribus.sweep.launcher import launch

        return launch(
            self.config, self.context.config_loader, self.task, self.keys, job_overrides, initial_job_idx
        )
