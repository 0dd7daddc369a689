"""The door of every script: a user's mistake ends as one message and exit code 1, ours as a traceback."""

import glob
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from paribus.checks import near
from paribus.config import CONF, register
from paribus.garbage import end_at_once

SPECIAL = re.compile(r"[=,\[\](){}: ]")  # means something in Hydra's overrides
# What brings the plugin that an option of hydra/launcher or hydra/sweeper is for.
EXTRAS = {
    "joblib": "joblib",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
    "ray": "ray",
    "optuna": "optuna",
}


def door(main: Callable[[], Any]) -> None:
    """Runs a script's Hydra main; a user's mistake ends as one message and exit code 1, no traceback."""
    if {"--help", "-h"} & {*sys.argv[1:]}:
        print(help_of(Path(sys.argv[0]).stem))
        return
    register()
    end_at_once()
    # Scripts are not for import, and scripts/profile.py would hide the standard library's, which torch imports.
    scripts = os.path.dirname(os.path.realpath(sys.argv[0]))
    sys.path[:] = [path for path in sys.path if os.path.realpath(path or os.curdir) != scripts]
    # Between overrides Hydra's parser takes no flag.
    flags = [argument for argument in sys.argv[1:] if argument in ("-m", "--multirun")]
    sys.argv[1:] = flags + [quoted(argument) for argument in sys.argv[1:] if argument not in flags]
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network for news
    full = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises its errors and does not print them
    try:
        try:
            main()
        finally:
            if board := sys.modules.get("paribus.sweep.board"):
                board.close()
    except KeyboardInterrupt:  # before a run has begun, or after it
        sys.exit(130)
    except Exception as error:
        # Not imported for a wrong key's sake, which it would make a tenth slower.
        if (standing := sys.modules.get("paribus.sweep.standing")) and standing.FAILED:
            sys.exit(standing.failures())
        shown = (
            full == "1" and "LOCAL_RANK" not in os.environ
        )  # which a process of DDP inherits from its first
        if shown or not (message := explain(error)):
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)


def help_of(script: str) -> str:
    """What Hydra would say, which takes three times as long: it reads every plugin's configs for the groups."""
    template = yaml.safe_load((CONF / f"{script}.yaml").read_text())["hydra"]["help"]["template"]
    groups = sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    options = (
        f"{path.name}: {', '.join(sorted(file.stem for file in path.glob('*.yaml')))}" for path in groups
    )
    return template.replace("$APP_CONFIG_GROUPS", "\n".join(options) + "\n")


def quoted(argument: str) -> str:
    """``run=runs/a/b=1,seed=0`` with its value quoted, if that is a path, and so each path of a list,
    ``run=[runs/a/b=1,seed=0,runs/c]``: Hydra reads = and , in them.

    A ``run``, ``weights`` or ``teacher`` that leads nowhere is quoted too: then it is said to be no folder, and not to be no grammar. And
    ``backbone.init=he,normal(0.01)``, which to Hydra is a call.
    """
    argument = re.sub(r"(?<=[=,])normal\([^()']*\)", r"'\g<0>'", argument)
    key, sign, value = argument.partition("=")
    if not sign or not SPECIAL.search(value) or "'" in value or '"' in value:
        return argument
    whole = f"{key}='{value}'"
    if os.path.exists(value):
        return whole
    if value.startswith("[") and value.endswith("]"):
        paths = _paths(value[1:-1]) or []
        if any(map(SPECIAL.search, paths)):
            listed = ",".join(f"'{path}'" for path in paths)
            return f"{key}=[{listed}]"
        return whole if key == "run" and "=" in value and not paths else argument
    path = key == "run" or key.endswith((".weights", ".teacher"))
    return whole if path or glob.glob(value) else argument


def _paths(text: str) -> list[str] | None:
    """Paths and globs with commas between them, and perhaps in them; None where one leads nowhere."""
    parts = text.split(",")
    for end in range(len(parts), 0, -1):
        head = ",".join(parts[:end]).strip()
        if head and (os.path.exists(head) or glob.glob(head)):
            rest = _paths(",".join(parts[end:])) if end < len(parts) else []
            if rest is not None:
                return [head, *rest]
    return None


def explain(error: BaseException) -> str | None:
    """A user's mistake in words; None for an error of ours, which deserves its traceback."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for cause in chain:
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return _explain_key(chain[0], cause)
    for cause in chain:
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            group, _, choice = cause.missing_cfg_file.rpartition("/")
            if group.startswith("hydra/") and choice in EXTRAS:
                return f"{group}={choice}: its plugin is not installed: pip install -e .[{EXTRAS[choice]}]"
            if options := sorted(cause.options or ()):
                return f"{group}={choice}: no such option{near(choice, options)}; available: {', '.join(options)}"
    for cause in reversed(chain):  # the innermost says it plainest
        if isinstance(cause, HydraException | OmegaConfBaseException | ValueError | FileNotFoundError):
            return str(cause)
    return None


def _explain_key(error: BaseException, cause: OmegaConfBaseException) -> str:
    """Hydra's refusal of a key, with the nearest one that exists and all that would be valid."""
    key = cause.full_key or ""
    parent, _, name = key.rpartition(".")
    node = cause.parent_node
    head = str(error).splitlines()[0].removesuffix(".")
    if "To append to your config use" in str(error) or "not in" in (cause.msg or ""):
        valid: list[str] = []
        if isinstance(node, DictConfig):
            valid = [str(k) for k in node if not str(k).startswith("_")]
        where = f" of `{parent}`" if parent else ""
        return f"{head}: `{key}` is no key{near(name, valid)}; valid keys{where}: {', '.join(valid)}"
    return f"{head}: `{key}`: {(cause.msg or str(cause)).splitlines()[0]}"
