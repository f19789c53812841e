"""Would the methods differ if they were trained again? The job, one training seed, is the unit: a sensitivity analysis.

    values, arm, stratum, job [features] --mean of each job--> difference, permutation of whole jobs, two-stage interval

    difference = sum over strata s of (n_s / n) (mean over a's jobs of their means - the same of b), n counts features
    p          = share of all labellings of jobs within strata with |difference| as large; drawn where there are many
    interval   = jobs drawn again within arm and stratum, then features within each drawn job

Features of one SAE share its seed, so the test with the feature as unit says nothing of another seed. With few jobs p
cannot be small, whatever the difference, and percentile intervals are too narrow: both are said with the result.
"""

from collections.abc import Iterator
from itertools import combinations, product
from math import comb, prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from fovea.rating.differences import N_PERMUTATIONS, IsA, Strata, Values
from fovea.rating.intervals import N_RESAMPLES, Estimate, percentiles

FEW = 6
"Fewer jobs than this in an arm: the interval is called too narrow."


class Clusters(NamedTuple):
    """Two arms compared over training jobs."""

    n_jobs_a: int
    n_jobs_b: int
    difference: Estimate
    p: float
    p_smallest: float
    "What p is at the least with so many jobs, however large the difference."
    caution: str


class _Stratum(NamedTuple):
    """The jobs of one domain."""

    weight: float
    jobs: list[Values]
    is_a: Bool[np.ndarray, " jobs"]


def clusters(
    values: Values, is_a: IsA, strata: Strata, *, jobs: Int64[np.ndarray, " features"], rng: np.random.Generator
) -> Clusters | None:
    """a - b with the job as unit; None where no arm has two jobs in a stratum, or a stratum lacks an arm."""
    cells = _cells(values, is_a, strata, jobs)
    n_a, n_b = (sum(int((cell.is_a == arm).sum()) for cell in cells) for arm in (True, False))
    sizes = [(int(cell.is_a.sum()), len(cell.jobs)) for cell in cells]
    if not cells or any(a in (0, n) for a, n in sizes) or all(n == 2 for _, n in sizes):
        return None
    n_labellings = prod(comb(n, a) for a, n in sizes)
    smallest = (2 if all(2 * a == n for a, n in sizes) else 1) / n_labellings
    if n_labellings > N_PERMUTATIONS:
        smallest = 1 / (1 + N_PERMUTATIONS)
    value = _difference(cells, [cell.is_a for cell in cells])
    drawn = sum((_resampled(cell, rng) for cell in cells), np.zeros(N_RESAMPLES))
    n_least = min(len(job) for cell in cells for job in cell.jobs)
    return Clusters(
        n_a,
        n_b,
        percentiles(value, drawn, n_items=n_least),
        _p(cells, abs(value), n_labellings, rng),
        smallest,
        _caution(n_a, n_b, smallest),
    )


def _cells(values: Values, is_a: IsA, strata: Strata, jobs: Int64[np.ndarray, " features"]) -> list[_Stratum]:
    found: list[_Stratum] = []
    for stratum in np.unique(strata):
        inside = strata == stratum
        own = np.unique(jobs[inside])
        members = [values[inside & (jobs == job)] for job in own]
        labels = np.array([bool(is_a[inside & (jobs == job)][0]) for job in own])
        found.append(_Stratum(float(inside.sum()) / len(values), members, labels))
    return found


def _difference(cells: list[_Stratum], labels: list[Bool[np.ndarray, " jobs"]]) -> float:
    total = 0.0
    for cell, is_a in zip(cells, labels, strict=True):
        means = np.array([job.mean() for job in cell.jobs])
        total += cell.weight * float(means[is_a].mean() - means[~is_a].mean())
    return total


def _p(cells: list[_Stratum], observed: float, n_labellings: int, rng: np.random.Generator) -> float:
    if n_labellings <= N_PERMUTATIONS:
        differences = [_difference(cells, labels) for labels in _labellings(cells)]
        return float(np.mean(np.abs(differences) >= observed - 1e-12))
    n_extreme = 0
    for _ in range(N_PERMUTATIONS):
        drawn = [rng.permutation(cell.is_a) for cell in cells]
        n_extreme += abs(_difference(cells, drawn)) >= observed - 1e-12
    return (1 + n_extreme) / (1 + N_PERMUTATIONS)


def _labellings(cells: list[_Stratum]) -> Iterator[list[Bool[np.ndarray, " jobs"]]]:
    """Every way to call as many jobs of each stratum a."""
    places = [combinations(range(len(cell.jobs)), int(cell.is_a.sum())) for cell in cells]
    for chosen in product(*places):
        yield [np.isin(np.arange(len(cell.jobs)), own) for cell, own in zip(cells, chosen, strict=True)]


def _resampled(cell: _Stratum, rng: np.random.Generator) -> Float64[np.ndarray, " draws"]:
    """The stratum's part of the difference, with jobs and then their features drawn again."""
    means = np.zeros((2, N_RESAMPLES))
    for arm in (True, False):
        own = [job for job, label in zip(cell.jobs, cell.is_a, strict=True) if label == arm]
        for _ in own:
            drawn = np.stack([rng.choice(job, (N_RESAMPLES, len(job))).mean(axis=1) for job in own])
            means[int(arm)] += drawn[rng.integers(len(own), size=N_RESAMPLES), np.arange(N_RESAMPLES)] / len(own)
    return cell.weight * (means[1] - means[0])


def _caution(n_a: int, n_b: int, smallest: float) -> str:
    told = f"with {n_a} and {n_b} jobs p cannot be below {smallest:.2g}, however large the difference"
    if smallest > 0.05:
        told += ", so that no difference can be shown at 5%"
    return told + (", and the interval is too narrow" if min(n_a, n_b) < FEW else "")
