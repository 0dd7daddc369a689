"""Several factors: what each does by itself, averaged over the others, and where two do more together than apart.

Every effect is a contrast that each seed gives by itself, from its own full table of levels; so its interval and its
test are the paired ones of statistics.py, with the seeds as pairs (repeated measures).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from paribus.report.statistics import Paired, holm, paired

Key = tuple[str, ...]  # one value for each factor


@dataclass(frozen=True)
class Effect:
    """A main effect of one level, or an interaction of two.

    factors, levels: whose it is, one or two. to: the levels that they are compared with.
    paired: the contrast over the seeds with a whole table; None if there is none. p: its Holm-corrected p, over all
    effects of the table.
    """

    factors: tuple[str, ...]
    levels: tuple[str, ...]
    to: tuple[str, ...]
    paired: Paired | None
    p: float | None


def effects(
    factors: Sequence[str], values: Mapping[Key, Mapping[int, float]], baseline: Mapping[str, str]
) -> list[Effect]:
    """Main effects of every level beside its factor's baseline, then interactions of every two levels of two factors.

    A main effect is the mean over the other factors' levels of the difference to the baseline's level. An
    interaction is how much the difference that one factor makes changes with the other:
    (a1 b1 - a0 b1) - (a1 b0 - a0 b0), the mean over the levels of the rest; 0 where effects add up.

    factors: two or more. values: of each cell the metric by seed. baseline: of each factor its level.
    Empty for one factor, or where a cell of the full table is missing altogether.
    """
    order = [list(dict.fromkeys(key[i] for key in values)) for i in range(len(factors))]
    if len(factors) < 2 or any(cell not in values for cell in product(*order)):
        return []
    seeds = set.intersection(*(set(values[cell]) for cell in product(*order)))
    first = {factor: baseline.get(factor, order[i][0]) for i, factor in enumerate(factors)}

    def mean(fixed: Mapping[int, str], seed: int) -> float:
        """Over the cells with these levels, by the factor's place."""
        cells = [c for c in product(*order) if all(c[i] == level for i, level in fixed.items())]
        return sum(values[cell][seed] for cell in cells) / len(cells)

    found: list[tuple[tuple[int, ...], tuple[str, ...], dict[int, float]]] = []
    others = [[level for level in order[i] if level != first[factor]] for i, factor in enumerate(factors)]
    for i, factor in enumerate(factors):
        for level in others[i]:
            contrast = {s: mean({i: level}, s) - mean({i: first[factor]}, s) for s in seeds}
            found.append(((i,), (level,), contrast))
    for i, j in combinations(range(len(factors)), 2):
        a0, b0 = first[factors[i]], first[factors[j]]
        for a, b in product(others[i], others[j]):
            contrast = {
                s: mean({i: a, j: b}, s)
                - mean({i: a0, j: b}, s)
                - mean({i: a, j: b0}, s)
                + mean({i: a0, j: b0}, s)
                for s in seeds
            }
            found.append(((i, j), (a, b), contrast))
    tests = [paired(contrast, dict.fromkeys(contrast, 0.0)) for _, _, contrast in found]
    corrected = holm([test.p if test else None for test in tests])
    return [
        Effect(tuple(factors[i] for i in places), levels, tuple(first[factors[i]] for i in places), test, p)
        for (places, levels, _), test, p in zip(found, tests, corrected, strict=True)
    ]
