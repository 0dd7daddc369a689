"""Statistics by hand, against scipy and brute force, and by simulation: they err as often as they say."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from paribus.report.factorial import effects
from paribus.report.images import OF_PIXELS
from paribus.report.statistics import (
    Paired,
    Summary,
    detectable,
    holm,
    paired,
    power,
    seeds_needed,
    sign_flip,
    summary,
    verdict,
)
from paribus.report.test_set import draws, interval, mcnemar


def by_seed(values):
    return dict(enumerate(values))


def test_the_summary_is_scipys():
    values = [0.91, 0.94, 0.9, 0.97]
    found = summary(values)
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    assert (found.n, found.mean, found.std) == (
        4,
        pytest.approx(np.mean(values)),
        pytest.approx(np.std(values, ddof=1)),
    )
    assert (found.mean - found.half, found.mean + found.half) == (pytest.approx(low), pytest.approx(high))


def test_a_summary_by_hand():
    # 1, 2, 3: mean 2, standard deviation 1, t(0.975; 2) = 4.303 over the root of 3
    assert summary([1, 2, 3]).half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert summary([1, 2, 3], confidence=0.9).half == pytest.approx(2.919986 / 3**0.5, rel=1e-6)


def test_one_value_has_no_interval_and_none_is_refused():
    assert summary([0.5]) == Summary(1, 0.5, None, None)
    with pytest.raises(ValueError, match="at least one value"):
        summary([])


def test_the_paired_test_is_scipys_over_the_seeds_both_have():
    a, b = {0: 0.90, 1: 0.93, 2: 0.91, 7: 0.1}, {2: 0.88, 1: 0.89, 0: 0.89, 5: 0.99}
    test = scipy.stats.ttest_rel([0.90, 0.93, 0.91], [0.89, 0.89, 0.88])
    found = paired(a, b)
    assert (found.n, found.p, found.p_sign_flip) == (3, pytest.approx(test.pvalue), 0.25)
    interval = test.confidence_interval(0.95)
    assert found.difference - found.half == pytest.approx(interval.low)
    assert found.difference + found.half == pytest.approx(interval.high)


def test_pairing_by_seed_takes_out_the_luck_that_levels_share():
    luck = [0.05, -0.04, 0.01, -0.02]
    a = by_seed([0.8 + x + noise for x, noise in zip(luck, [0.011, 0.009, 0.012, 0.008], strict=True)])
    b = by_seed([0.8 + x for x in luck])
    assert paired(a, b).p < 0.01 < 0.5 < scipy.stats.ttest_ind(list(a.values()), list(b.values())).pvalue


def test_what_the_t_test_cannot_judge_has_no_p():
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({0: 0.75}, {0: 0.5}) == Paired(1, 0.25, None, None, 1.0)
    # 0.91 - 0.9 and 0.81 - 0.8 differ by rounding alone
    same_step = paired(by_seed([0.91, 0.81, 0.71]), by_seed([0.9, 0.8, 0.7]))
    assert (same_step.half, same_step.p, same_step.p_sign_flip) == (None, None, 0.25)
    assert paired(by_seed([0.5, 0.6]), by_seed([0.5, 0.6])) == Paired(2, 0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("n", "p"), [(1, 1.0), (3, 0.25), (4, 0.125), (5, 0.0625), (6, 0.03125), (8, 0.0078125)]
)
def test_the_smallest_p_of_the_sign_flip_test(n, p):
    assert sign_flip([0.1 + 0.01 * i for i in range(n)]) == p
    assert sign_flip([-0.1 - 0.01 * i for i in range(n)]) == p


@pytest.mark.parametrize("n", [2, 3, 6, 9])
def test_the_sign_flip_test_counts_like_brute_force_and_scipy(n):
    generator = np.random.default_rng(n)
    for differences in (generator.normal(0.5, 1, n), generator.integers(-2, 4, n) / 10):  # with ties too
        sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=n)]
        expected = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-9)
        assert sign_flip(list(differences)) == pytest.approx(expected)
        test = scipy.stats.permutation_test(
            (differences,), np.sum, permutation_type="samples", n_resamples=np.inf
        )
        assert sign_flip(list(differences)) == pytest.approx(min(1, test.pvalue))


def test_the_sign_flip_test_is_exact_for_many_pairs_and_refuses_more():
    assert sign_flip([1.0] * 36 + [-1.0]) == pytest.approx(scipy.stats.binomtest(1, 37).pvalue)
    with pytest.raises(ValueError, match="at most 40 pairs, not 41"):
        sign_flip([1.0] * 41)
    assert paired(by_seed(np.arange(41.0) + 1), by_seed(np.arange(41.0) ** 0.5)).p_sign_flip is None


def test_holm_by_hand():
    # Holm 1979: the smallest times m, the next times m - 1, never falling, at most 1
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, None, 0.6]) == [1.0, None, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("difference", "p", "mode", "said"),
    [
        (0.1, 0.049, "max", "better"),
        (-0.1, 0.049, "max", "worse"),
        (0.1, 0.049, "min", "worse"),
        (-0.1, 0.049, "min", "better"),
        (0.1, 0.05, "max", "no difference shown"),
        (0.1, None, "max", "not tested"),
    ],
)
def test_verdicts(difference, p, mode, said):
    assert verdict(difference, p, mode) == said


# --- how many seeds --------------------------------------------------------------------------------


def test_power_by_a_published_table():
    # Cohen 1988, table 2.4.1 gives n = 34 pairs for d = 0.5, power 0.80, two-sided 5 % (one sample: 34)
    assert power(0.5, 34) == pytest.approx(0.80, abs=0.01)
    assert power(0.0, 10) == pytest.approx(0.05)
    assert power(3.0, 1) == 0


def test_the_seeds_that_are_needed_are_the_fewest_that_suffice():
    needed = seeds_needed(0.02, 0.04)
    assert needed == 34
    assert power(0.5, needed) >= 0.8 > power(0.5, needed - 1)
    assert seeds_needed(-0.02, 0.04) == needed
    assert seeds_needed(0.0, 0.04) is None
    assert seeds_needed(1e-6, 1.0) is None
    assert seeds_needed(0.1, 0.0) == 2


def test_what_is_detectable_needs_the_seeds_there_are():
    for n in (2, 3, 5, 10):
        smallest = detectable(0.04, n)
        assert power(smallest / 0.04, n) == pytest.approx(0.8, abs=1e-6)
    assert detectable(0.04, 1) is None


# --- by simulation ---------------------------------------------------------------------------------
# Seeds are fixed. What is allowed beside the right value is 3.5 standard deviations of a share of so many draws:
# one right formula in two thousand would miss it by luck, and the wrong ones tried miss it by far.


def luck(share, draws):
    return 3.5 * math.sqrt(share * (1 - share) / draws)


def chance(share, draws):
    """What a share that is seen in ``draws`` draws may be."""
    return pytest.approx(share, abs=luck(share, draws))


# REFERENCE: what the percentile bootstrap of a mean of n seeds covers
@pytest.mark.parametrize(("n", "bootstrapped"), [(3, 0.743), (5, 0.830), (10, 0.895)])
def test_the_interval_covers_the_mean_as_often_as_it_says_and_the_bootstrap_does_not(n, bootstrapped):
    generator = np.random.default_rng(n)
    samples = generator.normal(0.3, 0.1, size=(10_000, n))
    found = [summary(sample) for sample in samples.tolist()]
    assert np.mean([abs(s.mean - 0.3) <= s.half for s in found]) == chance(0.95, 10_000)
    counts = np.concatenate(list(draws(n, 1000)))
    low, high = np.quantile(counts @ samples[:4000].T / n, [0.025, 0.975], axis=0)
    assert np.mean((low <= 0.3) & (high >= 0.3)) == pytest.approx(bootstrapped, abs=0.025)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_paired_interval_covers_the_difference_whatever_luck_the_seeds_share(n):
    generator, covered, trials = np.random.default_rng(n), 0, 8000
    base = 0.7 + 0.05 * generator.normal(size=(trials, n))
    levels = base + generator.normal(0.02, 0.01, size=(trials, n))
    for level, baseline in zip(levels.tolist(), base.tolist(), strict=True):
        found = paired(by_seed(level), by_seed(baseline))
        covered += abs(found.difference - 0.02) <= found.half
    assert covered / trials == chance(0.95, trials)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_without_an_effect_the_paired_t_test_shows_one_in_twenty(n):
    generator, trials = np.random.default_rng(n), 8000
    tables = generator.normal(0.7, 0.1, size=(trials, 2, n)).tolist()
    ps = np.array([paired(by_seed(a), by_seed(b)).p for a, b in tables])
    for significant in (0.01, 0.05, 0.2):
        assert (ps < significant).mean() == chance(significant, trials)


@pytest.mark.parametrize(("n", "size"), [(5, 0), (6, 1 / 32), (8, 6 / 128), (10, 25 / 512)])
@pytest.mark.parametrize("kind", ["normal", "standard_cauchy"])
def test_without_an_effect_the_sign_flip_test_shows_as_many_as_its_steps_allow(n, size, kind):
    """Its p are multiples of 2 / 2^n; of any symmetric spread, without an assumption on its shape."""
    trials = 3000
    differences = getattr(np.random.default_rng(n), kind)(size=(trials, n))
    assert np.mean([sign_flip(row) < 0.05 for row in differences.tolist()]) == chance(size, trials)


def test_holm_keeps_one_family_in_twenty_and_no_more_is_lost_than_needed():
    generator, families = np.random.default_rng(0), 20_000
    ps = generator.random((families, 4))
    wrong = [min(holm(row)) < 0.05 for row in ps.tolist()]
    assert np.mean(wrong) == chance(1 - (1 - 0.05 / 4) ** 4, families)
    # With three effects found, the fourth test stands alone: Bonferroni's would show 1.25 %.
    ps[:, :3] = 1e-9
    assert np.mean([holm(row)[3] < 0.05 for row in ps.tolist()]) == chance(0.05, families)


def test_levels_that_share_a_baseline_are_wrong_in_one_family_of_twenty():
    generator, families, n = np.random.default_rng(1), 4000, 5
    wrong, uncorrected, beside = 0, 0, 0
    for table in generator.normal(size=(families, 5, n)):
        base = by_seed(table[0].tolist())
        ps = [paired(by_seed(row.tolist()), base).p for row in table[1:]]
        uncorrected += min(ps) < 0.05
        wrong += any(verdict(1.0, p) != "no difference shown" for p in holm(ps))
        beside += min(holm([1e-9, 1e-9, *ps[2:]])[2:]) < 0.05  # two levels are better
    assert uncorrected / families > 0.12
    assert 0.02 < wrong / families < 0.05 + luck(0.05, families)
    assert 0.03 < beside / families < 0.05 + luck(0.05, families)


def simulated(effect, n, trials=20_000):
    """How often the paired t test shows an effect, in standard deviations."""
    differences = np.random.default_rng(n).normal(effect, 1, (trials, n))
    return (scipy.stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05).mean()


@pytest.mark.parametrize(
    ("effect", "n"), [(0.0, 4), (0.8, 5), (2.0, 3), (-2.0, 3), (0.5, 20), (4.0, 2), (1.5, 6)]
)
def test_the_power_of_the_paired_t_test_is_what_simulation_finds(effect, n):
    assert simulated(effect, n) == chance(power(effect, n), 20_000)


@pytest.mark.parametrize("effect", [0.6, 1.0, 2.0])
def test_the_seeds_that_are_needed_show_the_difference_four_times_in_five(effect):
    needed = seeds_needed(0.01 * effect, 0.01)
    assert simulated(effect, needed) >= 0.8 - luck(0.8, 20_000)
    assert simulated(effect, needed - 1) < 0.8


@pytest.mark.parametrize("n", [3, 5, 10])
def test_what_is_detectable_is_shown_four_times_in_five(n):
    assert simulated(detectable(0.04, n) / 0.04, n) == chance(0.8, 20_000)


def test_effects_of_two_factors_are_found_where_they_were_put():
    """In tables of the seeds' own luck and of noise: each interval covers its effect, and so often."""
    generator, tables, n = np.random.default_rng(2), 4000, 4
    put = {("20", "none"): 0.5, ("56", "none"): 0.4, ("20", "A"): 0.6, ("56", "A"): 0.7}
    truth = {"depth": 0.0, "shortcut": 0.2, "both": 0.2}
    seen, covered = np.zeros(3), np.zeros(3)
    for _ in range(tables):
        of_seed = generator.normal(0, 0.3, n)
        values = {
            cell: by_seed((score + of_seed + generator.normal(0, 0.05, n)).tolist())
            for cell, score in put.items()
        }
        found = effects(["depth", "shortcut"], values, {"depth": "20", "shortcut": "none"})
        for i, (effect, true) in enumerate(zip(found, truth.values(), strict=True)):
            seen[i] += effect.paired.difference / tables
            covered[i] += abs(effect.paired.difference - true) <= effect.paired.half
    # A main effect is of 2 against 2 cells, an interaction of 4: noise of 0.05 and 0.1 a seed.
    assert seen == pytest.approx(np.array([*truth.values()]), abs=3.5 * 0.1 / math.sqrt(n * tables))
    assert (covered / tables).tolist() == [chance(0.95, tables)] * 3


def test_without_effects_one_table_of_two_factors_in_twenty_shows_one():
    generator, tables, n = np.random.default_rng(3), 4000, 4
    wrong = 0
    for table in generator.normal(size=(tables, 4, n)).tolist():
        values = dict(zip(itertools.product("ab", "cd"), map(by_seed, table), strict=True))
        wrong += any(e.p < 0.05 for e in effects(["x", "y"], values, {"x": "a", "y": "c"}))
    assert wrong / tables == chance(1 - (1 - 0.05 / 3) ** 3, tables)  # three contrasts, independent


# --- over images -----------------------------------------------------------------------------------


def covers(differences, true):
    return np.mean([low <= true <= high for low, high in map(interval, differences.T)])


def test_the_bootstrap_over_images_covers_the_difference_in_accuracy():
    generator, sets, images = np.random.default_rng(4), 5000, 100
    gained = generator.choice([1, 0, -1], p=[0.2, 0.7, 0.1], size=(images, sets))
    drawn = np.concatenate(list(draws(images, 1000)))
    # A little less than it says: of n = 100 the spread is that of 99, and 1.96 is not t's 1.98.
    covered = covers(drawn @ gained / images, 0.1)
    assert 0.945 - luck(0.945, sets) < covered < 0.95 + luck(0.95, sets)
    # Not paired, two sets of images that are right as often, and the interval is far too wide.
    shared = (gained == 0) & (generator.random((images, sets)) < 0.5)
    base, level = shared | (gained < 0), shared | (gained > 0)
    apart = drawn @ level / images - np.roll(drawn, 1, axis=0) @ base / images
    assert covers(apart, 0.1) > 0.98


def test_the_bootstrap_over_images_covers_the_difference_in_miou():
    """Of large and small objects: a ratio of sums, whose true value is that of all images there are."""
    generator, sets, images = np.random.default_rng(5), 1000, 100
    drawn = np.concatenate(list(draws(images, 1000)))
    miou = OF_PIXELS["miou"]

    def counted(sets, images):
        truth = generator.gamma(1.0, 100, size=(sets, images, 2))
        hard = generator.uniform(0, 0.3, size=truth.shape)
        return [(truth * (good - hard), truth, truth * (good - hard) + 10) for good in (0.9, 0.85)]

    def of_sums(counts):
        return [miou(*(part.sum(1) for part in level)) for level in counts]

    (whole,) = np.subtract(*of_sums(counted(1, 1_000_000)))
    differences = np.empty((1000, sets))
    levels = counted(sets, images)
    for i in range(sets):
        a, b = (miou(*(drawn @ part[i] for part in level)) for level in levels)
        differences[:, i] = a - b
    assert 0.935 - luck(0.935, sets) < covers(differences, whole) < 0.95 + luck(0.95, sets)


def test_mcnemars_test_is_wrong_in_one_of_twenty_at_most_and_sees_what_is_there():
    generator, sets = np.random.default_rng(6), 20_000

    def shown(gained, lost):
        counts = generator.multinomial(100, [gained, lost, 1 - gained - lost], size=sets)[:, :2]
        pairs, times = np.unique(counts, axis=0, return_counts=True)
        return times[[mcnemar(*pair) < 0.05 for pair in pairs.tolist()]].sum() / sets

    def size(pairs):  # exact, and so below 5 %: p has steps
        seen = [scipy.stats.binomtest(k, pairs).pvalue < 0.05 for k in range(pairs + 1)]
        return scipy.stats.binom.pmf(np.arange(pairs + 1), pairs, 0.5)[seen].sum()

    known = sum(scipy.stats.binom.pmf(pairs, 100, 0.2) * size(pairs) for pairs in range(1, 50))
    assert 0.02 < known < 0.05
    assert shown(0.1, 0.1) == chance(known, sets)
    assert shown(0.25, 0.05) > 0.9
