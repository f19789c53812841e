"""The job as unit: exact small cases, what few jobs can show, and its level where jobs differ by chance."""

import numpy as np
import pytest

from fovea.rating.clusters import clusters
from fovea.rating.differences import permutation_p


def made(n_jobs, *, n=20, seed=0, shift=0.0, spread=0.0):
    """Values, arms, strata and jobs of n_jobs = (a's, b's) jobs, each with an effect of its own."""
    rng = np.random.default_rng(seed)
    jobs = np.repeat(np.arange(sum(n_jobs)), n)
    is_a = jobs < n_jobs[0]
    values = spread * rng.normal(size=sum(n_jobs))[jobs] + shift * is_a + rng.normal(size=len(jobs))
    return values, is_a, np.zeros(len(jobs), np.int64), jobs


def told(n_jobs, **how):
    values, is_a, strata, jobs = made(n_jobs, **how)
    return clusters(values, is_a, strata, jobs=jobs, rng=np.random.default_rng(1))


@pytest.mark.parametrize(
    ("n_jobs", "smallest"), [((2, 2), 2 / 6), ((3, 3), 2 / 20), ((2, 1), 1 / 3), ((1, 4), 1 / 5), ((4, 4), 2 / 70)]
)
def test_p_cannot_be_below_what_the_jobs_permit(n_jobs, smallest):
    found = told(n_jobs, shift=100.0)
    assert found.p == pytest.approx(smallest)
    assert found.p_smallest == pytest.approx(smallest)
    assert (found.n_jobs_a, found.n_jobs_b) == n_jobs
    assert f"with {n_jobs[0]} and {n_jobs[1]} jobs p cannot be below" in found.caution
    assert ("no difference can be shown" in found.caution) == (smallest > 0.05)
    assert "too narrow" in found.caution


def test_one_job_each_is_nothing_to_permute():
    assert told((1, 1)) is None


def test_the_difference_is_of_jobs_not_of_features():
    """One job with many features counts as one job."""
    jobs = np.repeat([0, 1, 2, 3], [90, 10, 10, 10])
    values = np.repeat([3.0, 1.0, 1.0, 1.0], [90, 10, 10, 10])
    found = clusters(values, jobs < 2, np.zeros(120, np.int64), jobs=jobs, rng=np.random.default_rng(0))
    assert found.difference.value == pytest.approx((3 + 1) / 2 - 1)


def test_strata_are_permuted_within():
    values, is_a, _, jobs = made((4, 4), shift=100.0)
    strata = (jobs % 2).astype(np.int64)
    found = clusters(values + 1000 * strata, is_a, strata, jobs=jobs, rng=np.random.default_rng(0))
    assert found.p == pytest.approx(2 / 36)
    assert found.difference.value == pytest.approx(100, abs=1)


def test_many_jobs_are_drawn_and_p_is_never_zero():
    found = told((9, 9), shift=100.0, n=6)
    assert found.p == found.p_smallest == 1 / 10_001
    assert "too narrow" not in found.caution


def test_false_positives_are_nominal_where_seeds_differ_and_the_test_of_features_is_not():
    """No method is better, but every seed has an effect: the feature as unit finds "differences" far too often."""
    by_job, by_feature = 0, 0
    for seed in range(200):
        values, is_a, strata, jobs = made((4, 4), seed=seed, spread=0.5)
        rng = np.random.default_rng(seed)
        by_job += clusters(values, is_a, strata, jobs=jobs, rng=rng).p <= 0.05
        by_feature += permutation_p(values, is_a, strata, rng=rng, n_permutations=199) <= 0.05
    assert by_job / 200 <= 0.08
    assert by_feature / 200 > 0.2


def test_the_interval_is_wider_than_that_of_features_where_seeds_differ():
    found = told((4, 4), spread=1.0, seed=3)
    alone = told((4, 4), spread=0.0, seed=3)
    assert found.difference.ci_high - found.difference.ci_low > 1.5 * (
        alone.difference.ci_high - alone.difference.ci_low
    )
