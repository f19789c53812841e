"""The test between methods: exact small cases, nominal error on null data, strata, effect size, power."""

from itertools import combinations

import numpy as np
import pytest

from fovea.rating.differences import cliffs_delta, contrast, difference, omnibus_p, paired_mean, permutation_p
from fovea.rating.power import power_of


def arms(n_a, n_b):
    return np.repeat([True, False], [n_a, n_b])


ONE = np.zeros(8, dtype=np.int64)


def test_p_is_the_share_of_labellings_at_least_as_far():
    values, is_a = np.array([3.0, 2.5, 3.0, 1.0, 0.0, 1.0, 0.5, 2.0]), arms(4, 4)
    observed = difference(values, is_a, ONE)
    exact = []
    for chosen in combinations(range(8), 4):
        labels = np.isin(np.arange(8), chosen)
        exact.append(abs(difference(values, labels, ONE)) >= abs(observed) - 1e-12)
    p = permutation_p(values, is_a, ONE, rng=np.random.default_rng(0), n_permutations=20_000)
    assert p == pytest.approx(np.mean(exact), abs=0.01)


def test_p_is_never_zero():
    values = np.concatenate([np.full(50, 3.0), np.zeros(50)])
    p = permutation_p(values, arms(50, 50), np.zeros(100, np.int64), rng=np.random.default_rng(0), n_permutations=999)
    assert p == 1 / 1000


def test_false_positives_on_null_data_are_nominal():
    rng = np.random.default_rng(20)
    strata = np.repeat([0, 1], [40, 20])
    is_a = np.concatenate([arms(20, 20), arms(14, 6)])
    rejected = 0
    for _ in range(600):
        values = rng.integers(0, 7, 60) / 2 + strata  # strata differ, arms do not
        rejected += permutation_p(values, is_a, strata, rng=rng, n_permutations=199) <= 0.05
    assert 0.03 <= rejected / 600 <= 0.07


def test_raters_of_one_feature_do_not_count_twice():
    """Ten raters who copy each other must not make a difference: the unit is the feature."""
    rng = np.random.default_rng(4)
    values = rng.integers(0, 4, 20).astype(np.float64)
    strata = np.zeros(20, np.int64)
    p_feature = permutation_p(values, arms(10, 10), strata, rng=np.random.default_rng(0))
    averaged = np.tile(values, (10, 1)).mean(axis=0)
    assert permutation_p(averaged, arms(10, 10), strata, rng=np.random.default_rng(0)) == p_feature


def test_strata_remove_a_difference_between_domains():
    """Arm a has more features of the domain that scores high (Simpson): within domains there is no difference."""
    strata = np.repeat([0, 1], [60, 60])
    is_a = np.concatenate([arms(50, 10), arms(10, 50)])
    values = np.where(strata == 0, 3.0, 1.0) + np.tile([0.0, 0.5], 60)
    assert values[is_a].mean() - values[~is_a].mean() > 1
    found = contrast(values, is_a, strata, rng=np.random.default_rng(0))
    assert found.difference.value == pytest.approx(0, abs=1e-12)
    assert found.p > 0.5


def test_cliffs_delta_equals_its_definition():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 4, 13).astype(float), rng.integers(0, 4, 9).astype(float)
    slow = np.mean([np.sign(x - y) for x in a for y in b])
    assert cliffs_delta(np.concatenate([a, b]), arms(13, 9), np.zeros(22, np.int64)) == pytest.approx(slow)


def test_the_interval_of_a_known_difference_covers_it():
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(20):
        values = np.concatenate([rng.normal(0.5, 1, 60), rng.normal(0, 1, 60)])
        found = contrast(values, arms(60, 60), np.zeros(120, np.int64), rng=rng)
        covered += found.difference.ci_low <= 0.5 <= found.difference.ci_high
    assert covered >= 17


def test_a_stratum_with_one_arm_and_an_empty_arm_are_said():
    values = np.array([1.0, 2.0, 3.0])
    none = contrast(values, np.array([True, True, True]), np.zeros(3, np.int64), rng=np.random.default_rng(0))
    assert none.p is None
    assert none.difference.reason == "an arm has no rated feature"
    assert none.mean_a == 2
    assert none.mean_b is None


def test_omnibus_finds_a_third_arm_and_is_nominal_without():
    rng = np.random.default_rng(2)
    labels, strata = np.repeat([0, 1, 2], 40), np.tile([0, 1], 60)
    values = rng.normal(size=120)
    assert omnibus_p(values + (labels == 2), labels, strata, rng=rng) < 0.01
    assert omnibus_p(values, labels, strata, rng=rng) > 0.05


def test_omnibus_false_positives_on_null_data_are_nominal():
    rng = np.random.default_rng(21)
    labels, strata = np.repeat([0, 1, 2], 20), np.tile([0, 1], 30)
    rejected = 0
    for _ in range(400):
        values = rng.integers(0, 7, 60) / 2 + strata
        rejected += omnibus_p(values, labels, strata, rng=rng, n_permutations=199) <= 0.05
    assert 0.025 <= rejected / 400 <= 0.08


def test_paired_mean_of_nothing_says_so():
    assert paired_mean(np.array([]), np.random.default_rng(0)).value is None
    assert paired_mean(np.full(20, 0.5), np.random.default_rng(0)).ci_low == 0.5


def test_power_is_that_of_the_table():
    """Two raters, 4 points, two-sided 5%: within Monte-Carlo error of the published table."""
    table = {50: (13, 24, 39, 56), 100: (23, 42, 67, 83), 200: (39, 71, 92, 99)}
    for n_per_arm, percents in table.items():
        found = power_of(n_per_arm, 2, n_simulations=3000)
        assert [100 * p for p in found.power[:4]] == pytest.approx(percents, abs=3.5)


def test_power_without_a_shift_would_be_the_level_and_the_sentence_says_what_is_found():
    found = power_of(100, 2, n_simulations=500)
    assert found.detectable == 0.5
    assert "100 features per arm and 2 raters" in found.sentence
    assert "a shift of 0.5 SD or more" in found.sentence
    assert power_of(5, 1, n_simulations=200).detectable is None
