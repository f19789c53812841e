"""Do two methods differ? The feature is the unit: one value per feature, labels permuted and features drawn in strata.

    values [features], arm [features], stratum [features] --> difference, interval, p, Cliff's delta

    difference = sum over strata s of (n_s / n) (mean of a in s - mean of b in s)
    p          = (1 + labellings with |difference| as large) / (1 + labellings drawn), labels permuted in strata
    delta      = P(a > b) - P(a < b) = 2 A - 1, with A of Vargha and Delaney; stratum by stratum like the difference

Ratings of one feature by several raters, or of its two panels, are not independent: they are averaged before they come
here. Strata are domains.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from fovea.rating.intervals import N_RESAMPLES, Estimate, percentiles

N_PERMUTATIONS = 10_000
_BLOCK = 500

Values = Float64[np.ndarray, " features"]
IsA = Bool[np.ndarray, " features"]
Strata = Int64[np.ndarray, " features"]


class Contrast(NamedTuple):
    """Two arms compared on one outcome."""

    n_a: int
    n_b: int
    mean_a: float | None
    mean_b: float | None
    difference: Estimate
    p: float | None
    delta: Estimate
    "Cliff's delta; Vargha and Delaney's A is (delta + 1) / 2."


class _Drawn(NamedTuple):
    """Both statistics in each resample."""

    difference: Float64[np.ndarray, " draws"]
    delta: Float64[np.ndarray, " draws"]


def contrast(values: Values, is_a: IsA, strata: Strata, *, rng: np.random.Generator) -> Contrast:
    """a - b with everything that is said about it. Strata that lack one of the arms are left out of the difference."""
    both = np.isin(strata, _shared(is_a, strata))
    mean_a, mean_b = (float(values[where].mean()) if where.any() else None for where in (is_a, ~is_a))
    n_a, n_b = int(is_a.sum()), int((~is_a).sum())
    if not both.any():
        none = Estimate(None, reason="an arm has no rated feature")
        return Contrast(n_a, n_b, mean_a, mean_b, none, None, none)
    values, is_a, strata = values[both], is_a[both], strata[both]
    drawn = _resampled(values, is_a, strata, rng=rng)
    n_least = min(int((is_a & (strata == s)).sum()) for s in np.unique(strata))
    n_least = min(n_least, *(int((~is_a & (strata == s)).sum()) for s in np.unique(strata)))
    return Contrast(
        n_a,
        n_b,
        mean_a,
        mean_b,
        percentiles(difference(values, is_a, strata), drawn.difference, n_items=n_least),
        permutation_p(values, is_a, strata, rng=rng),
        percentiles(cliffs_delta(values, is_a, strata), drawn.delta, n_items=n_least),
    )


def _shared(is_a: IsA, strata: Strata) -> Int64[np.ndarray, " shared"]:
    """Strata that hold both arms."""
    return np.intersect1d(strata[is_a], strata[~is_a])


def difference(values: Values, is_a: IsA, strata: Strata) -> float:
    """Stratum-weighted difference of means; every stratum holds both arms."""
    return float(_differences(values[None, :], is_a[None, :], strata)[0])


def _differences(
    values: Float64[np.ndarray, "#draws features"], is_a: Bool[np.ndarray, "#draws features"], strata: Strata
) -> Float64[np.ndarray, " draws"]:
    total = np.zeros(max(len(values), len(is_a)))
    for stratum in np.unique(strata):
        inside = strata == stratum
        x, a = values[:, inside], is_a[:, inside].astype(np.float64)
        n_a = a.sum(axis=1)
        n = a.shape[1]
        sum_a = (x * a).sum(axis=1)
        total += n / len(strata) * (sum_a / n_a - (x.sum(axis=1) - sum_a) / (n - n_a))
    return total


def permutation_p(
    values: Values, is_a: IsA, strata: Strata, *, rng: np.random.Generator, n_permutations: int = N_PERMUTATIONS
) -> float:
    """Two-sided p of the difference, labels permuted within strata, with the +1 correction (never 0).

    Source: Phipson and Smyth 2010 (Stat. Appl. Genet. Mol. Biol. 9:39).
    """
    observed = abs(difference(values, is_a, strata))
    n_extreme = 0
    for start in range(0, n_permutations, _BLOCK):
        labels = permuted(is_a, strata, rng, n=min(_BLOCK, n_permutations - start))
        n_extreme += int((np.abs(_differences(values[None, :], labels, strata)) >= observed - 1e-12).sum())
    return (1 + n_extreme) / (1 + n_permutations)


def permuted(
    labels: Shaped[np.ndarray, " features"], strata: Strata, rng: np.random.Generator, *, n: int
) -> Shaped[np.ndarray, "n features"]:
    """n copies of the labels [n features], each permuted within strata."""
    copies = np.tile(labels, (n, 1))
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        copies[:, inside] = rng.permuted(copies[:, inside], axis=1)
    return copies


def omnibus_p(
    values: Values,
    arms: Int64[np.ndarray, " features"],
    strata: Strata,
    *,
    rng: np.random.Generator,
    n_permutations: int = N_PERMUTATIONS,
) -> float:
    """p of "all arms have equal means", for three and more: weighted spread of the means, permuted within strata."""
    observed = float(_spread(values, arms[None, :], strata)[0])
    n_extreme = 0
    for start in range(0, n_permutations, _BLOCK):
        labels = permuted(arms, strata, rng, n=min(_BLOCK, n_permutations - start))
        n_extreme += int((_spread(values, labels, strata) >= observed - 1e-12).sum())
    return (1 + n_extreme) / (1 + n_permutations)


def _spread(values: Values, arms: Int64[np.ndarray, "draws features"], strata: Strata) -> Float64[np.ndarray, " draws"]:
    """Sum over strata and arms of n (mean - mean of the stratum)^2."""
    total = np.zeros(len(arms))
    for stratum in np.unique(strata):
        inside = strata == stratum
        x, labels = values[inside] - values[inside].mean(), arms[:, inside]
        for arm in np.unique(labels[0]):
            is_arm = labels == arm
            total += (x * is_arm).sum(axis=1) ** 2 / is_arm.sum(axis=1)
    return total


def cliffs_delta(values: Values, is_a: IsA, strata: Strata) -> float:
    """Stratum-weighted P(a > b) - P(a < b).

    Source: Cliff 1993 (Psychological Bulletin 114:494); Vargha and Delaney 2000 (J. Educ. Behav. Stat. 25:101).
    """
    total = 0.0
    for stratum in np.unique(strata):
        a, b = values[is_a & (strata == stratum)], values[~is_a & (strata == stratum)]
        ordered = np.sort(b)
        above = np.searchsorted(ordered, a, side="left") - (len(b) - np.searchsorted(ordered, a, side="right"))
        total += float(above.mean()) / len(b) * (len(a) + len(b)) / len(values)
    return total


def _resampled(values: Values, is_a: IsA, strata: Strata, *, rng: np.random.Generator) -> _Drawn:
    """Difference and delta with features drawn again within each arm of each stratum.

    n features drawn from a cell are a multinomial draw of its distinct values.
    """
    levels = np.unique(values)
    differences, deltas = np.zeros(N_RESAMPLES), np.zeros(N_RESAMPLES)
    for stratum in np.unique(strata):
        cells = [values[(strata == stratum) & (is_a == arm)] for arm in (True, False)]
        a, b = (_drawn_counts(cell, levels, rng) for cell in cells)
        n_a, n_b = (len(cell) for cell in cells)
        weight = (n_a + n_b) / len(values)
        differences += weight * (a @ levels / n_a - b @ levels / n_b)
        below = np.cumsum(b, axis=1) - b
        above = n_b - below - b
        deltas += weight * (a * (below - above)).sum(axis=1) / (n_a * n_b)
    return _Drawn(differences, deltas)


def _drawn_counts(
    cell: Float64[np.ndarray, " cell"], levels: Float64[np.ndarray, " levels"], rng: np.random.Generator
) -> Float64[np.ndarray, "draws levels"]:
    counts = np.bincount(np.searchsorted(levels, cell), minlength=len(levels))
    return rng.multinomial(len(cell), counts / len(cell), size=N_RESAMPLES).astype(np.float64)


def paired_mean(differences: Values, rng: np.random.Generator) -> Estimate:
    """Mean of differences within features, with a bootstrap interval over features."""
    if len(differences) == 0:
        return Estimate(None, reason="no feature was rated on both")
    drawn = rng.choice(differences, (N_RESAMPLES, len(differences))).mean(axis=1)
    return percentiles(float(differences.mean()), drawn, n_items=len(differences))
