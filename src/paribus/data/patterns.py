"""Images by a pattern of their paths, ``leftImg8bit/train/*/*.png``: those that are there, or that a list names.

An image is known by what the pattern's stars stand for in its path, which fills the stars of its mask's.
"""

import glob
import re
from pathlib import Path

from paribus.data.files import SUFFIXES, read_list
from paribus.data.samples import DataError

Stars = tuple[str, ...]


def present(root: Path, pattern: str) -> list[Stars]:
    """The images below root that fit the pattern, sorted by path; hidden files are passed over."""
    paths = root.glob("*".join(glob.escape(part) for part in pattern.split("*")))
    names = sorted(
        path.relative_to(root).as_posix()
        for path in paths
        if path.name[0] != "." and path.suffix.lower() in SUFFIXES
    )
    return [known for name in names if (known := stars(pattern, name)) is not None]


def listed(path: Path, pattern: str) -> list[Stars]:
    """The images that a list file names: the first word of each line.

    Raises:
        DataError: there is no such file, or a line fits the pattern in none of the forms of `stars`.
    """
    lines = read_list(path)
    found = [stars(pattern, line.split()[0]) for line in lines]
    unfit = [line for line, known in zip(lines, found, strict=True) if known is None]
    if unfit:
        raise DataError(
            f"{path}: {len(unfit)} line(s) do not name an image of `data.reader.images` ({pattern}), "
            f"the first is {unfit[0]!r}: write file names, or correct the pattern."
        )
    return [known for known in found if known is not None]


def stars(pattern: str, name: str) -> Stars | None:
    """What the stars of the pattern stand for, from a path, a file name, or the stars themselves."""
    count = pattern.count("*")
    last = pattern.rpartition("/")[2]
    for form, text in ((pattern, name.removeprefix("./")), (last, name.rpartition("/")[2])):
        if form.count("*") == count:
            match = re.fullmatch("([^/]*)".join(map(re.escape, form.split("*"))), text)
            if match:
                return match.groups()
    parts = tuple(name.split("/"))
    return parts if len(parts) == count else None


def fill(pattern: str, stars: Stars) -> str:
    """The path that the pattern gives with these in place of its stars."""
    parts = pattern.split("*")
    return parts[0] + "".join(star + part for star, part in zip(stars, parts[1:], strict=False))


def folder(pattern: str) -> str:
    """The folder that all paths of a pattern lie in."""
    return pattern.split("*")[0].rpartition("/")[0]
