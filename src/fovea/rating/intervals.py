"""A number with its interval, or the reason why there is none."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

CONFIDENCE = 0.95
N_RESAMPLES = 2000
MIN_ITEMS = 5
"Fewer items say too little about how items differ: no interval."
Z = 1.959963984540054
"97.5% point of the normal distribution."


class Estimate(NamedTuple):
    """A value with its 95% interval; what is missing is None and `reason` says why."""

    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    reason: str | None = None


def percentiles(value: float, resampled: Float64[np.ndarray, " resamples"], *, n_items: int) -> Estimate:
    """`value` with the 95% percentile interval of its bootstrap resamples (those that exist)."""
    if not math.isfinite(value):
        return Estimate(None, reason="not defined: all ratings are equal, or nothing was rated twice")
    if n_items < MIN_ITEMS:
        return Estimate(value, reason=f"no interval: {n_items} items, at least {MIN_ITEMS} are needed")
    finite = resampled[np.isfinite(resampled)]
    if len(finite) < 0.9 * len(resampled):
        return Estimate(value, reason="no interval: the value does not exist in many of the resamples")
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))


def wilson(n_yes: int, n: int) -> Estimate:
    """A share with Wilson's score interval.

    Source: Wilson 1927; Newcombe 1998 (Statistics in Medicine 17:857), method 3.
    """
    if n == 0:
        return Estimate(None, reason="nothing was counted")
    share = n_yes / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return Estimate(share, 0.0 if n_yes == 0 else centre - half, 1.0 if n_yes == n else centre + half)
