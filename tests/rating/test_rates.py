"""Rates, Fisher, Holm and the blinding index against published numbers and a brute force."""

from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.rating.intervals import wilson
from fovea.rating.rates import (
    Table,
    blinding_index,
    compare_rates,
    fisher_exact,
    holm,
    mantel_haenszel,
    odds_ratio,
    rate_difference,
)


def test_the_posts_nice_features():
    nice = compare_rates(Table(22, 200, 7, 200))
    assert nice.p == pytest.approx(0.006, abs=5e-4)
    assert nice.odds_ratio.value == pytest.approx(3.408, abs=5e-4)
    assert nice.odds_ratio.ci_low > 1
    assert nice.difference.value == pytest.approx(0.075)
    assert nice.difference.ci_low > 0


def test_fishers_tea():
    assert fisher_exact(Table(3, 4, 1, 4)) == pytest.approx(0.4857, abs=5e-5)


def test_newcombes_published_example():
    # Newcombe 1998, table II, example (a), method 10: 56/70 against 48/80.
    difference = rate_difference(Table(56, 70, 48, 80))
    assert difference.value == pytest.approx(0.2)
    assert difference.ci_low == pytest.approx(0.0524, abs=5e-5)
    assert difference.ci_high == pytest.approx(0.3339, abs=5e-5)


def test_newcombes_published_wilson_intervals():
    # Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20.
    for (yes, n), (low, high) in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
    }.items():
        assert wilson(yes, n).ci_low == pytest.approx(low, abs=5e-5)
        assert wilson(yes, n).ci_high == pytest.approx(high, abs=5e-5)


def test_bangs_published_trial():
    # Bang 2004's CRISP trial: drug arm guessed 82 drug, 25 placebo, 170 unsure; placebo arm 29 placebo, 27 drug, 83.
    drug = blinding_index(82, 25, n_unsure=170, n_arms=2)
    placebo = blinding_index(29, 27, n_unsure=83, n_arms=2)
    assert drug.value == pytest.approx(0.21, abs=5e-3)
    assert placebo.value == pytest.approx(0.01, abs=5e-3)
    assert drug.ci_low > 0
    assert placebo.ci_low < 0 < placebo.ci_high


def test_blinding_index_of_three_arms_is_zero_at_chance_and_one_unblinded():
    assert blinding_index(10, 20, n_unsure=0, n_arms=3).value == pytest.approx(0)
    assert blinding_index(10, 0, n_unsure=0, n_arms=3).value == 1
    assert blinding_index(0, 0, n_unsure=0, n_arms=3).value is None


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 25), st.integers(1, 25), st.integers(0, 25), st.integers(1, 25))
def test_fisher_equals_whole_number_arithmetic(yes_a, n_a, yes_b, n_b):
    yes_a, yes_b = min(yes_a, n_a), min(yes_b, n_b)
    n_yes = yes_a + yes_b
    ways = [comb(n_a, k) * comb(n_b, n_yes - k) for k in range(max(0, n_yes - n_b), min(n_yes, n_a) + 1)]
    seen = comb(n_a, yes_a) * comb(n_b, yes_b)
    assert fisher_exact(Table(yes_a, n_a, yes_b, n_b)) == pytest.approx(
        sum(way for way in ways if way <= seen) / comb(n_a + n_b, n_yes), rel=1e-9
    )


@pytest.mark.parametrize(("n_a", "n_b", "rate"), [(200, 200, 0.07), (100, 100, 0.2), (40, 20, 0.5), (30, 90, 0.1)])
def test_fishers_false_positives_are_never_above_the_level(n_a, n_b, rate):
    """Exactly, over all tables that one rate gives: the chance of p <= 0.05 is at most 0.05, and not far below 0."""

    def chance(k, n):
        return comb(n, k) * rate**k * (1 - rate) ** (n - k)

    few = range(0, 61)
    rejected = sum(
        chance(a, n_a) * chance(b, n_b)
        for a in few
        for b in few
        if a <= n_a and b <= n_b and fisher_exact(Table(a, n_a, b, n_b)) <= 0.05
    )
    assert 0.005 < rejected <= 0.05


def test_zero_counts_have_intervals_and_reasons():
    ratio = odds_ratio(Table(5, 50, 0, 50))
    assert ratio.value is None
    assert ratio.ci_low is not None
    assert "one half" in str(ratio.reason)
    assert odds_ratio(Table(0, 0, 1, 5)).reason == "a group is empty"


def test_mantel_haenszel_equals_the_odds_ratio_of_one_stratum_and_resists_simpson():
    assert mantel_haenszel([Table(22, 200, 7, 200)]) == pytest.approx(3.408, abs=5e-4)
    # two strata without any difference, of unequal rates and sizes: pooled, a difference appears
    strata = [Table(8, 10, 80, 100), Table(10, 100, 1, 10)]
    assert mantel_haenszel(strata) == pytest.approx(1)
    assert mantel_haenszel([Table(0, 0, 1, 5)]) is None


def test_holm():
    # Holm's steps by hand: 0.01 x 4, 0.013 x 3 (kept monotone), 0.03 x 2, 0.2 x 1
    assert holm([0.03, 0.01, 0.2, 0.013]) == pytest.approx([0.06, 0.04, 0.2, 0.04])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
