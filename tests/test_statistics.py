import itertools

import numpy as np
import pytest
import scipy.stats

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


@pytest.mark.parametrize("n", [3, 5])
def test_the_interval_covers_the_mean_as_often_as_it_says_and_the_bootstrap_does_not(n):
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(4000, n))
    found = [summary(list(sample)) for sample in samples]
    assert np.mean([abs(s.mean) <= s.half for s in found]) == pytest.approx(0.95, abs=0.01)
    means = samples[:, generator.integers(0, n, (300, n))].mean(2)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.86


def test_no_effect_is_called_one_in_one_family_of_twenty():
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(1500):
        base = by_seed(generator.normal(size=4))
        ps = holm([paired(by_seed(generator.normal(size=4)), base).p for _ in range(3)])
        wrong += any(verdict(1.0, p) != "no difference shown" for p in ps)
    assert 0.02 < wrong / 1500 < 0.06


# --- how many seeds --------------------------------------------------------------------------------


def test_the_power_of_the_paired_t_test_is_what_simulation_finds():
    draw = np.random.default_rng(0)
    for effect, n in ((0.8, 5), (2.0, 3), (0.5, 20)):
        differences = draw.normal(effect, 1, (4000, n))
        seen = (scipy.stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05).mean()
        assert power(effect, n) == pytest.approx(seen, abs=0.03)


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
