"""What was found out about a set's files, kept for later runs until one of the files changes."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from paribus.data.limits import MAX_PIXELS
from paribus.data.samples import Reader, Split

log = logging.getLogger(__name__)


def remembered(what: str, reader: Reader, split: Split, find: Callable[[], Any], notice: str) -> Any:
    """What ``find`` returns, or has returned before for the same reader and files; as JSON gives it back.

    Kept in the user's cache folder, below ``what``; files are known by name, size and time. Of a split without
    files (generated samples) nothing is kept. ``notice`` is logged before files are read.
    """
    if not hasattr(split, "files"):
        return find()

    def read() -> Any:
        log.info(notice)
        return find()

    return kept(what, content(reader, split).hexdigest(), read)


def kept(what: str, key: str, find: Callable[[], Any]) -> Any:
    """What ``find`` returns, or has returned before for the same key; as JSON gives it back."""
    known = cache_folder(what) / f"{key[:32]}.json"
    if not known.is_file():
        found = json.dumps(find())
        known.parent.mkdir(parents=True, exist_ok=True)
        part = known.with_suffix(f".{os.getpid()}")
        part.write_text(found)
        part.replace(known)
    return json.loads(known.read_text())


def content(reader: Reader, split: Split) -> Any:
    """A hash of what the reader was asked for and, of files, their names, sizes and times; to be updated further."""
    key = hashlib.sha256(type(reader).__qualname__.encode())
    key.update(repr(sorted((k, v) for k, v in vars(reader).items() if _plain(v))).encode())
    for file in split.files() if hasattr(split, "files") else ():
        known = None
        with suppress(OSError):
            state = os.stat(file)
            known = state.st_size, state.st_mtime_ns
        key.update(f"{file}{known}".encode())
    key.update(os.environ.get(MAX_PIXELS, "").encode())  # by which a file may be read or not (limits.py)
    return key


def cache_folder(what: str) -> Path:
    """The user's, as the XDG base directory specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "paribus", what)


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | None | tuple | list | dict)
