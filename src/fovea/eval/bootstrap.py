"""Intervals by bootstrap over documents: percentiles of a metric over resamples of whole documents.

    Sums --(point, then n_resamples draws of documents with replacement)--> Resampled --metric--> Estimate

Tokens of a document are not independent, so documents are drawn, not tokens. All candidates and all metrics of a corpus
split see the same draws: differences between methods, and metrics read at matched L0, are paired. The generator is
seeded from a hash of the corpus and split, so equal sums give equal bytes.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from fovea.eval.metrics import Totals, point_totals, totals
from fovea.eval.sums import Sums

CONFIDENCE = 0.95
N_RESAMPLES = 1000
MIN_DOCUMENTS = 5
"Fewer documents say too little about how documents differ: no interval."
_BLOCK = 100
"Resamples drawn at once; bounds memory to _BLOCK x n_documents weights."


class Estimate(NamedTuple):
    """A value with its interval; what is missing is None and `reason` says why."""

    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    reason: str | None = None


class Draws(NamedTuple):
    """A statistic's point estimate and its value in each resample."""

    point: float
    resampled: Float64[np.ndarray, " resamples"]


class Resampled(NamedTuple):
    """Totals of every candidate: as they are, and in each resample of the documents."""

    n_documents: int
    point: dict[str, Totals]
    resampled: dict[str, Totals]

    def draws(self, name: str, metric: Callable[[Totals], Float64[np.ndarray, " resamples"]]) -> Draws:
        """`metric` of candidate `name`."""
        return Draws(float(metric(self.point[name])[0]), metric(self.resampled[name]))


def seed_of(*parts: str) -> int:
    """A seed that depends on the strings only, the same in every process and version."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "little")


def resample(sums: Sums, *, corpus: str, split: str, n_resamples: int = N_RESAMPLES) -> Resampled:
    """Point totals and `n_resamples` multinomial resamples of the documents of `sums`."""
    rng = np.random.default_rng(seed_of(corpus, split))
    n = len(sums.documents)
    blocks: list[dict[str, Totals]] = []
    for start in range(0, n_resamples, _BLOCK):
        size = min(_BLOCK, n_resamples - start)
        blocks.append(totals(sums, rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)))
    joined = {
        name: Totals(*(np.concatenate(column) for column in zip(*(block[name] for block in blocks), strict=True)))
        for name in sums.candidates
    }
    return Resampled(sums.n_documents, point_totals(sums), joined)


def estimate(draws: Draws, n_documents: int) -> Estimate:
    """The point estimate with its 95% percentile interval."""
    if not np.isfinite(draws.point):
        return Estimate(None, reason="not a finite number: nothing to divide by, or a reconstruction is not finite")
    if n_documents < MIN_DOCUMENTS:
        return Estimate(
            draws.point, reason=f"no interval: {n_documents} documents, at least {MIN_DOCUMENTS} are needed"
        )
    if not np.isfinite(draws.resampled).all():
        return Estimate(draws.point, reason="no interval: the value does not exist in every resample of the documents")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws.resampled, [tail, 1 - tail])
    return Estimate(draws.point, float(low), float(high))


def difference(first: Draws, second: Draws) -> Draws:
    """first - second, resample by resample."""
    return Draws(first.point - second.point, first.resampled - second.resampled)


def paired_difference(
    resampled: Resampled, first: str, second: str, *, metric: Callable[[Totals], Float64[np.ndarray, " resamples"]]
) -> Estimate:
    """metric(first) - metric(second) with an interval from the same resamples of both."""
    both = difference(resampled.draws(first, metric), resampled.draws(second, metric))
    return estimate(both, resampled.n_documents)
