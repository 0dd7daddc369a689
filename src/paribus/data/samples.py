"""What a reader yields: one sample, one split, and what is wrong with it."""

from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

Target = Literal["label", "labels", "mask", "boxes"]  # the kinds of target
IGNORE = 255  # the one mask value that is neither learned nor judged


class Sample(NamedTuple):
    """An image, its target and a name.

    image: uint8 ``[H, W, 3]``, RGB. id: the file it came from, relative to the set's root.
    target, by kind: ``label`` int; ``labels`` float32 ``[C]`` of 1 (there), 0 (not there) and NaN (neither
    learned nor judged); ``mask`` integer ``[H, W]`` with 255 ignored; ``boxes`` a dict of ``boxes`` float32
    ``[N, 4]`` (x1, y1, x2, y2, pixels), ``labels`` int64 ``[N]`` from 0, and optionally ``masks`` uint8
    ``[N, H, W]``, ``iscrowd`` and ``difficult`` int64 ``[N]``, ``area`` float32 ``[N]``.
    """

    image: np.ndarray
    target: Any
    id: str


class Problem(NamedTuple):
    """Something wrong with one sample: which, the file, what is wrong, and how to mend it."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody wants here
    file: str
    what: str
    fix: str


class Split(Protocol):
    """The samples of ``train``, ``val`` or ``test``, in a fixed order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def problems(self) -> list[Problem]:
        """Reads every sample; empty if all is well."""
        ...

    def without(self, indices: set[int]) -> "Split":
        """The same split, those samples left out."""
        ...


class Reader(Protocol):
    """A data set: its kind of target, its classes, their colours, and its splits."""

    target: Target
    classes: tuple[str, ...]
    palette: list[tuple[int, int, int]] | None

    def split(self, name: str) -> Split: ...


class Known:
    """What is left of a reader where only its answers matter: prediction needs no data set."""

    def __init__(
        self, *, target: Target, classes: list[str], palette: list[tuple[int, int, int]] | None = None
    ):
        self.target, self.classes, self.palette = target, tuple(classes), palette

    def split(self, name: str) -> Split:
        raise DataError(f"this run was restored without its data set, so there is no {name} split")


class DataError(ValueError):
    """The data does not hold what the config says. The message lists the files and the fix."""

    def __init__(self, problems: list[Problem] | str, shown: int = 20):
        if isinstance(problems, str):
            super().__init__(problems)
            return
        lines = [f"{len(problems)} sample(s) cannot be used:"]
        lines += [f"  {p.file}: {p.what}" for p in problems[:shown]]
        if len(problems) > shown:
            lines.append(f"  … and {len(problems) - shown} more")
        lines += [f"Fix: {fix}" for fix in dict.fromkeys(p.fix for p in problems)]
        lines.append("Or leave these samples out: `data.on_error=skip`.")
        super().__init__("\n".join(lines))
