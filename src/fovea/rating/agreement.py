"""Do raters agree? Krippendorff's alpha and Gwet's AC1/AC2, missing ratings allowed, with intervals over items.

    ratings [raters items] --> counts [items points] --alpha, gwet--> value; items drawn again --> interval

Both are 1 for perfect agreement and 0 for what chance gives; they differ in what they call chance. alpha falls towards
0 when nearly all ratings are alike, however well raters agree (the paradox); AC2 does not. Read them together.

Legend: ratings = positions on the scale (0 ... n_points - 1) as float64, NaN where an item was not rated.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float64

from fovea.rating.intervals import N_RESAMPLES, Estimate, percentiles

Scale = Literal["nominal", "ordinal", "interval"]
Weights = Literal["identity", "linear", "quadratic", "ordinal"]
Ratings = Float64[np.ndarray, "raters items"]
Counts = Float64[np.ndarray, "items points"]
Draws = Float64[np.ndarray, "draws items"]
"How often each item was drawn."
_BLOCK = 200
"Resamples computed at once; bounds memory."


def counts_of(ratings: Ratings, n_points: int) -> Counts:
    """Number of raters who gave each item each point."""
    assert not (ratings[np.isfinite(ratings)] % 1).any(), "ratings are positions on the scale"
    return (ratings[:, :, None] == np.arange(n_points)).sum(axis=0).astype(np.float64)


def alpha(counts: Counts, draws: Draws, scale: Scale) -> Float64[np.ndarray, " draws"]:
    """1 - observed / expected disagreement, NaN where all pairable ratings are equal or none is.

    D_o = sum over items of the disagreement of their pairs / (m - 1); D_e the same over all pairs of pairable ratings.
    Ordinal: squared number of ratings between two points, their own halved; interval: squared difference.

    Source: Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, section E (missing data, any metric).
    """
    n_raters = counts.sum(axis=1)
    used = counts * (n_raters > 1)[:, None]
    pairs = used[:, :, None] * used[:, None, :] - np.eye(counts.shape[1]) * used[:, :, None]
    coincidences = pairs / np.maximum(n_raters - 1, 1)[:, None, None]
    observed = np.tensordot(draws, coincidences, axes=1)
    totals = draws @ used
    between = _squared(totals, scale)
    n = totals.sum(axis=1)
    expected = (totals[:, :, None] * totals[:, None, :] * between).sum(axis=(1, 2))
    disagreement = (n - 1) * (observed * between).sum(axis=(1, 2))
    return 1 - np.divide(disagreement, expected, out=np.full(len(draws), np.nan), where=expected > 0)


def _squared(totals: Float64[np.ndarray, "draws points"], scale: Scale) -> Float64[np.ndarray, "draws points points"]:
    """Squared difference of two points, for each draw."""
    n_points = totals.shape[1]
    if scale == "ordinal":
        centre = np.cumsum(totals, axis=1) - totals / 2
        return (centre[:, :, None] - centre[:, None, :]) ** 2
    points = np.arange(n_points, dtype=np.float64)
    between = (points[:, None] - points) ** 2 if scale == "interval" else 1.0 - np.eye(n_points)
    return np.broadcast_to(between, (len(totals), n_points, n_points))


def weights_of(n_points: int, kind: Weights) -> Float64[np.ndarray, "points points"]:
    """Partial credit for two different points: 1 on the diagonal.

    Source: Gwet 2014, Handbook of Inter-Rater Reliability, 4th edition, section 3.5.
    """
    points = np.arange(n_points, dtype=np.float64)
    apart = np.abs(points[:, None] - points)
    widest = max(n_points - 1, 1)
    if kind == "identity":
        return np.eye(n_points)
    if kind == "linear":
        return 1 - apart / widest
    if kind == "quadratic":
        return 1 - (apart / widest) ** 2
    return 1 - apart * (apart + 1) / (widest * (widest + 1))


def gwet(counts: Counts, draws: Draws, kind: Weights) -> Float64[np.ndarray, " draws"]:
    """Gwet's AC1 (identity weights) or AC2: (p_a - p_e) / (1 - p_e), NaN where no item has two ratings.

    p_a = mean over items rated twice of the weighted share of agreeing pairs; p_e = T_w / (q (q - 1)) sum pi (1 - pi).

    Source: Gwet 2008 (British J. Math. Stat. Psych. 61:29); Gwet 2014, chapter 5, for missing ratings and weights.
    """
    weights, n_points = weights_of(counts.shape[1], kind), counts.shape[1]
    n_raters = counts.sum(axis=1)
    credit = (counts * (counts @ weights - 1)).sum(axis=1) / np.maximum(n_raters * (n_raters - 1), 1)
    is_pairable, is_rated = (n_raters > 1).astype(np.float64), (n_raters > 0).astype(np.float64)
    n_pairable = draws @ is_pairable
    none = np.full(len(draws), np.nan)
    agreed = np.divide(draws @ (credit * is_pairable), n_pairable, out=none.copy(), where=n_pairable > 0)
    shares = counts / np.maximum(n_raters, 1)[:, None]
    prevalence = (draws @ shares) / np.maximum(draws @ is_rated, 1)[:, None]
    chance = weights.sum() / (n_points * (n_points - 1)) * (prevalence * (1 - prevalence)).sum(axis=1)
    return np.divide(agreed - chance, 1 - chance, out=none, where=chance < 1)


def percent_agreement(counts: Counts, draws: Draws) -> Float64[np.ndarray, " draws"]:
    """Share of pairs of ratings of an item that are equal, averaged over items."""
    n_raters = counts.sum(axis=1)
    equal = (counts * (counts - 1)).sum(axis=1) / np.maximum(n_raters * (n_raters - 1), 1)
    n_pairable = draws @ (n_raters > 1).astype(np.float64)
    out = np.full(len(draws), np.nan)
    return np.divide(draws @ (equal * (n_raters > 1)), n_pairable, out=out, where=n_pairable > 0)


def with_interval(
    counts: Counts,
    statistic: Callable[[Counts, Draws], Float64[np.ndarray, " draws"]],
    rng: np.random.Generator,
    *,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """`statistic` of the items as they are, with the percentile interval over items drawn with replacement."""
    n_items = len(counts)
    if n_items == 0:
        return Estimate(None, reason="nothing was rated")
    value = float(statistic(counts, np.ones((1, n_items)))[0])
    blocks: list[Float64[np.ndarray, " draws"]] = []
    for start in range(0, n_resamples, _BLOCK):
        size = min(_BLOCK, n_resamples - start)
        draws = rng.multinomial(n_items, np.full(n_items, 1 / n_items), size=size).astype(np.float64)
        blocks.append(statistic(counts, draws))
    return percentiles(value, np.concatenate(blocks), n_items=int((counts.sum(axis=1) > 1).sum()))


def confusion(
    first: Float64[np.ndarray, " items"], second: Float64[np.ndarray, " items"], n_points: int
) -> list[list[int]]:
    """How often the first rater gave row's point where the second gave column's."""
    both = np.isfinite(first) & np.isfinite(second)
    table = np.zeros((n_points, n_points), dtype=np.int64)
    np.add.at(table, (first[both].astype(np.int64), second[both].astype(np.int64)), 1)
    return table.tolist()
