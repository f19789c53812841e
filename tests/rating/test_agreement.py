"""Agreement: published examples, an independent oracle that follows the definitions pair by pair, and the paradox."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fovea.rating.agreement import alpha, confusion, counts_of, gwet, percent_agreement, weights_of, with_interval

NAN = math.nan
# Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, section E: 4 observers, 12 units, 5 values.
FOUR = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
# Same paper, sections A (binary) and B (nominal).
MEG = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]], dtype=np.float64)
BEN = np.array([["abcde".index(c) for c in row] for row in ("aabbdcccedda", "babbbccceddd")], dtype=np.float64)


def value(statistic, ratings, n_points, *args):
    counts = counts_of(ratings, n_points)
    return float(statistic(counts, np.ones((1, len(counts))), *args)[0])


@pytest.mark.parametrize(("scale", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_krippendorffs_four_observers(scale, published):
    assert value(alpha, FOUR - 1, 5, scale) == pytest.approx(published, abs=5e-4)


def test_alpha_of_krippendorffs_binary_and_nominal_examples():
    assert value(alpha, MEG, 2, "nominal") == pytest.approx(0.095, abs=5e-4)
    assert value(alpha, BEN, 5, "nominal") == pytest.approx(0.692, abs=5e-4)


def from_table(table):
    """The two raters' ratings that make a contingency table."""
    pairs = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    return np.array(pairs, dtype=np.float64).T


def test_gwets_published_tables():
    # Gwet's irrCAC: cont3x3abstractors (Gwet 2014, table 6.1's study of pregnancies), and the 4 raters above.
    abstractors = from_table([[13, 0, 0], [0, 20, 7], [0, 4, 56]])
    assert value(gwet, abstractors, 3, "identity") == pytest.approx(0.8493305, abs=5e-8)
    assert value(alpha, abstractors, 3, "nominal") == pytest.approx(0.7972585, abs=5e-8)
    assert value(percent_agreement, abstractors, 3) == pytest.approx(0.89)
    assert value(gwet, FOUR - 1, 5, "identity") == pytest.approx(0.77544, abs=5e-6)


@pytest.mark.parametrize(
    ("kind", "published", "se", "low", "high"),
    [("identity", 0.84933, 0.04322, 0.76358, 0.93508), ("quadratic", 0.94024, 0.01792, 0.90468, 0.97579)],
)
def test_gwets_published_intervals(kind, published, se, low, high):
    """AC1 and AC2 with Gwet's own standard errors and 95% intervals (t of 99 degrees of freedom, closed form).

    Source: irrCAC, table cont3x3abstractors, weights none and quadratic, as Gwet's R package and its Python port print
    them. Ours is a bootstrap over items: its standard error lies within 3% of the closed form, and each end within
    a quarter of a standard error, being drawn towards the middle where the closed form is symmetrical near 1.
    """
    counts = counts_of(from_table([[13, 0, 0], [0, 20, 7], [0, 4, 56]]), 3)
    found = with_interval(counts, lambda c, d: gwet(c, d, kind), np.random.default_rng(0), n_resamples=10_000)
    assert found.value == pytest.approx(published, abs=5e-6)
    draws = np.random.default_rng(1).multinomial(100, np.full(100, 0.01), size=10_000).astype(np.float64)
    assert gwet(counts, draws, kind).std() == pytest.approx(se, rel=0.03)
    assert found.ci_low == pytest.approx(low, abs=se / 4)
    assert found.ci_high == pytest.approx(high, abs=se / 4)


def test_gwets_paradox_high_agreement_low_alpha():
    # Gwet 2002/2008: 125 subjects, 118 + 0 agreements; AC1 0.9408 where kappa is -0.0234.
    skewed = from_table([[118, 5], [2, 0]])
    assert value(gwet, skewed, 2, "identity") == pytest.approx(0.9408, abs=5e-5)
    assert value(alpha, skewed, 2, "nominal") < 0


def test_published_weights():
    # irrCAC, vignette "weighting", 3 categories.
    two_thirds = [[1, 2 / 3, 0], [2 / 3, 1, 2 / 3], [0, 2 / 3, 1]]
    np.testing.assert_allclose(weights_of(3, "ordinal"), two_thirds)
    np.testing.assert_allclose(weights_of(3, "quadratic")[0], [1, 0.75, 0])
    np.testing.assert_allclose(weights_of(3, "linear")[0], [1, 0.5, 0])


def slow_alpha(ratings, n_points, scale):
    """By its definition: every ordered pair, one after the other."""
    units = [[int(v) for v in column if np.isfinite(v)] for column in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    everything = [v for unit in units for v in unit]
    n_of = [everything.count(point) for point in range(n_points)]

    def apart(c, k):
        if scale == "nominal":
            return float(c != k)
        if scale == "interval":
            return float(c - k) ** 2
        low, high = min(c, k), max(c, k)
        return (sum(n_of[low : high + 1]) - (n_of[c] + n_of[k]) / 2) ** 2

    n = len(everything)
    observed = sum(apart(c, k) / (len(unit) - 1) for unit in units for c, k in permutations(unit, 2)) / max(n, 1)
    expected = sum(apart(c, k) for c, k in permutations(everything, 2)) / max(n * (n - 1), 1)
    return 1 - observed / expected if expected else NAN


def slow_gwet(ratings, n_points, kind):
    """By its definition: every ordered pair of raters of each item."""
    weights = weights_of(n_points, kind)
    agreed, shares = [], np.zeros(n_points)
    units = [[int(v) for v in column if np.isfinite(v)] for column in ratings.T]
    for unit in units:
        for v in unit:
            shares[v] += 1 / len(unit)
        if len(unit) > 1:
            agreed.append(np.mean([weights[c, k] for c, k in permutations(unit, 2)]))
    if not agreed:
        return NAN
    shares /= sum(bool(unit) for unit in units)
    chance = weights.sum() / (n_points * (n_points - 1)) * (shares * (1 - shares)).sum()
    return (np.mean(agreed) - chance) / (1 - chance)


SHAPES = st.tuples(st.integers(2, 4), st.integers(1, 9))
RATINGS = arrays(np.float64, SHAPES, elements=st.sampled_from([NAN, 0.0, 1.0, 2.0, 3.0]))


@settings(max_examples=150, deadline=None)
@given(RATINGS, st.sampled_from(["nominal", "ordinal", "interval"]))
def test_alpha_equals_its_definition(ratings, scale):
    np.testing.assert_allclose(value(alpha, ratings, 4, scale), slow_alpha(ratings, 4, scale), atol=1e-10)


@settings(max_examples=150, deadline=None)
@given(RATINGS, st.sampled_from(["identity", "linear", "quadratic", "ordinal"]))
def test_gwet_equals_its_definition(ratings, kind):
    np.testing.assert_allclose(value(gwet, ratings, 4, kind), slow_gwet(ratings, 4, kind), atol=1e-10)


def test_one_draw_equals_that_sample_and_perfect_agreement_is_one():
    counts = counts_of(FOUR - 1, 5)
    draw = np.zeros((1, 12))
    draw[0, [1, 5, 5, 9]] = [1, 2, 2, 3]
    repeated = counts[np.repeat(np.arange(12), draw[0].astype(int))]
    for statistic, kind in ((alpha, "ordinal"), (gwet, "ordinal")):
        assert statistic(counts, draw, kind) == pytest.approx(statistic(repeated, np.ones((1, len(repeated))), kind))
    same = np.array([[0, 1, 2, 3], [0, 1, 2, 3]], dtype=np.float64)
    assert value(alpha, same, 4, "ordinal") == 1
    assert value(gwet, same, 4, "ordinal") == pytest.approx(1)


def test_what_is_not_defined_is_none_with_its_reason():
    rng = np.random.default_rng(0)
    same = with_interval(counts_of(np.ones((2, 9)), 4), lambda c, d: alpha(c, d, "ordinal"), rng)
    assert same.value is None
    assert "all ratings are equal" in str(same.reason)
    few = with_interval(counts_of(MEG[:, :4], 2), lambda c, d: alpha(c, d, "nominal"), rng)
    assert few.value is not None
    assert few.ci_low is None
    assert "4 items" in str(few.reason)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered, truth = 0, 0.0
    studies = []
    for _ in range(120):
        true = rng.standard_normal(80)
        ratings = np.searchsorted([-0.7, 0, 0.7], true + 0.7 * rng.standard_normal((2, 80))).astype(np.float64)
        studies.append(counts_of(ratings, 4))
    truth = float(alpha(np.concatenate(studies), np.ones((1, 9600)), "ordinal")[0])
    for counts in studies:
        found = with_interval(counts, lambda c, d: alpha(c, d, "ordinal"), rng, n_resamples=300)
        covered += found.ci_low <= truth <= found.ci_high
    assert 105 <= covered <= 120


def test_confusion_counts_pairs():
    first, second = np.array([0, 1, NAN, 3.0]), np.array([0, 2, 1, NAN])
    assert confusion(first, second, 4) == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
