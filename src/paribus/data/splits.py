"""Which samples are train, val and test: by the set's own names, or by a seed."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from paribus.data.samples import DataError

SPLITS = ("train", "val", "test")

Item = TypeVar("Item")


class Splits:
    """Which part of a set is `train`, `val` and `test`.

    names: the set's own name (a folder, a list) for each of our splits. Two of ours may share one:
    `test: val` tests on the validation part. Default: each under its own name.
    fractions: splits that the set lacks and that are taken from train, `{val: 0.1, test: 0.1}`; the same
    samples whenever `seed` is the same, whatever the machine, and as good as the same when files are added.
    """

    def __init__(self, names: Mapping[str, str] | None, fractions: Mapping[str, float] | None, seed: int):
        self.fractions, self.seed = dict(fractions or {}), seed
        default = {name: name for name in SPLITS if name not in self.fractions}
        self.names = dict(default if names is None else names)
        for name in (*self.names, *self.fractions):
            if name not in SPLITS:
                raise ValueError(f"data.reader: {name!r} is no split; the splits are {', '.join(SPLITS)}.")
        both = set(self.names) & set(self.fractions)
        if both:
            name = min(both)
            raise ValueError(
                f"data.reader: `splits.{name}` and `split.{name}` both say where {name} comes from; "
                "remove one."
            )
        values = self.fractions.values()
        if "train" in self.fractions or any(f <= 0 for f in values) or sum(values) >= 1:
            raise ValueError(
                f"data.reader.split={self.fractions}: give val and test fractions above 0 that "
                "leave some of train."
            )
        if "train" not in self.names and (self.fractions or not self.names):
            raise ValueError("data.reader.splits: name `train`, which `split` takes the others from.")

    def items(
        self,
        name: str,
        listing: Callable[[str], list[Item]],
        key: Callable[[Item], str],
        group: Callable[[Item], Hashable] = lambda item: 0,
    ) -> list[Item]:
        """The items of one of our splits; `listing` gives those of one of the set's own.

        key names an item for good; group is what the fractions are stratified by.
        """
        items = listing(self.source(name))
        if self.fractions and (name == "train" or name in self.fractions):
            parts = partition([key(i) for i in items], [group(i) for i in items], self.fractions, self.seed)
            items = [items[i] for i in parts[name]]
        if not items:
            raise DataError(
                f"The split {name!r} is empty: no sample was found for it; put some there, or give it more."
            )
        return items

    def source(self, name: str) -> str:
        """The set's own name for the part that holds one of our splits."""
        if name in self.fractions:
            return self.names["train"]
        if name not in self.names:
            raise DataError(
                f"This set has no {name!r} split ({', '.join((*self.names, *self.fractions))}): "
                f"set `data.reader.split={{{name}: 0.1}}` to take a tenth of train, or say what the set "
                f"calls it: `data.reader.splits={{{name}: val}}` takes the validation images."
            )
        return self.names[name]

    def own(self) -> list[str]:
        """Those of ours with samples of their own: where `test: val`, val and not test."""
        sources = [self.names.get(name, name if name in self.fractions else None) for name in SPLITS]
        return [
            name
            for place, (name, source) in enumerate(zip(SPLITS, sources, strict=True))
            if source is not None and (name in self.fractions or source not in sources[:place])
        ]

    @property
    def first(self) -> str:
        """The part that says what the classes are: train's, where the set has one."""
        return self.names.get("train") or next(iter(self.names.values()))


def partition(
    keys: Sequence[str], groups: Sequence[Hashable], fractions: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Indices by split, stratified: each split has its fraction of every group, to within one sample.

    The order of draw is a hash of (seed, key), so neither numpy's generator nor the order of the files
    matters, and a file more moves at most a few others. Every group keeps a sample in train.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    result: dict[str, list[int]] = {"train": [], **{name: [] for name in fractions}}
    owed = dict.fromkeys(fractions, 0.0)  # carries the rounding, so that the totals are right as well
    for group in sorted(members, key=str):
        order = sorted(members[group], key=lambda i: hashlib.sha256(f"{seed}:{keys[i]}".encode()).digest())
        start, last = 0, len(order) - 1
        for name, fraction in fractions.items():
            owed[name] += fraction * len(order)
            end = min(start + max(round(owed[name]), 0), last)
            result[name] += order[start:end]
            owed[name] = min(owed[name] - (end - start), 0.5)  # a group that could not pay leaves no debt
            start = end
        result["train"] += order[start:]
    return {name: sorted(indices) for name, indices in result.items()}
