"""What a design can find before it is started: power of the permutation test, by simulation.

    feature's value ~ N(shift of its arm, 1); a rater sees value + noise, cut at the quartiles into the scale's points;
    raters are averaged; the test rejects where (n - 1) r^2 > 1.96^2 (the permutation test's own large-sample form)

The noise is such that two raters correlate at 2/3 before the cut. The shift is in standard deviations between features
of one arm. Power is what such features and raters would give, not a promise about these.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from fovea.rating.intervals import Z

SHIFTS = (0.2, 0.3, 0.4, 0.5, 0.8)
RATERS_CORRELATE = 2 / 3
TARGET = 0.8
N_SIMULATIONS = 2000
_BLOCK = 250


class Power(NamedTuple):
    """Power of one design at each shift."""

    n_per_arm: int
    n_raters: int
    n_points: int
    shifts: tuple[float, ...]
    power: tuple[float, ...]

    @property
    def detectable(self) -> float | None:
        """Smallest of the shifts that is found with 80% power; None where none is."""
        return next((s for s, p in zip(self.shifts, self.power, strict=True) if p >= TARGET), None)

    @property
    def sentence(self) -> str:
        """The line shown before a study is started."""
        told = ", ".join(f"{100 * p:.0f}% at {s:g} SD" for s, p in zip(self.shifts, self.power, strict=True))
        found = (
            "none of these shifts is" if self.detectable is None else f"a shift of {self.detectable:g} SD or more is"
        )
        return (
            f"With {self.n_per_arm} features per arm and {self.n_raters} rater{'s' * (self.n_raters > 1)}, the chance "
            f"to find a true difference (two-sided 5%) is {told}; {found} found with at least 80%."
        )


def power_of(
    n_per_arm: int, n_raters: int, *, n_points: int = 4, seed: int = 0, n_simulations: int = N_SIMULATIONS
) -> Power:
    """Power at each of SHIFTS."""
    rng = np.random.default_rng(seed)
    found = [_power(shift, (n_per_arm, n_raters, n_points), rng, n_simulations) for shift in SHIFTS]
    return Power(n_per_arm, n_raters, n_points, SHIFTS, tuple(found))


def _power(shift: float, design: tuple[int, int, int], rng: np.random.Generator, n_simulations: int) -> float:
    n_per_arm, n_raters, n_points = design
    noise = (1 / RATERS_CORRELATE - 1) ** 0.5
    spread = (1 + noise**2) ** 0.5
    cuts = spread * np.sort(_normal_quantiles(n_points))
    sign = np.repeat([1.0, -1.0], n_per_arm)
    n_rejected = 0
    for start in range(0, n_simulations, _BLOCK):
        values = rng.standard_normal((min(_BLOCK, n_simulations - start), 2 * n_per_arm))
        values[:, :n_per_arm] += shift
        means = np.zeros_like(values)
        for _ in range(n_raters):
            means += np.searchsorted(cuts, values + noise * rng.standard_normal(values.shape)) / n_raters
        n_rejected += _rejected(means, sign)
    return n_rejected / n_simulations


def _rejected(means: Float64[np.ndarray, "studies features"], sign: Float64[np.ndarray, " features"]) -> int:
    """Studies in which the test rejects."""
    n = means.shape[1]
    centred = means - means.mean(axis=1, keepdims=True)
    squares = (centred**2).sum(axis=1) * n
    squared_r = np.divide((centred @ sign) ** 2, squares, out=np.zeros(len(means)), where=squares > 0)
    return int(((n - 1) * squared_r > Z * Z).sum())


def _normal_quantiles(n_points: int) -> Float64[np.ndarray, " cuts"]:
    """Cut points that make all points equally likely where there is no shift."""
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf(i / n_points) for i in range(1, n_points)], dtype=np.float64)
