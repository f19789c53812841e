"""Methods compared at equal L0: each method's curve is read by linear interpolation between its sparsity points.

    value of method a at l0  -  value of method b at l0, in the corpus split and in each resample of its documents

A method is never read outside the L0 range that it was measured at. Jobs that differ in their seed only form one point,
the mean of theirs; its interval covers documents, not seeds.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from fovea.atomic import write_text
from fovea.eval.bootstrap import Draws, Estimate, Resampled, difference, estimate
from fovea.eval.metrics import METRICS
from fovea.eval.scoring import Part, why_undefined

_MAX_LOST = 0.05
"Share of resamples in which the L0 may fall outside a curve before the interval is withheld."


class Curve(NamedTuple):
    """A method's sparsity points: for each, the candidates (seeds) that make it up."""

    method: str
    points: tuple[tuple[str, ...], ...]


class Comparison(NamedTuple):
    """One line of comparisons.jsonl: two methods at one L0; `difference` is a's value less b's."""

    domain: str | None
    corpus: str
    split: str
    metric: str
    method_a: str
    method_b: str
    l0: float | None
    value_a: float | None
    a_ci_low: float | None
    a_ci_high: float | None
    value_b: float | None
    b_ci_low: float | None
    b_ci_high: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    n_documents: int
    reason: str | None


class _Pair(NamedTuple):
    """What a comparison is about; the first fields of a Comparison."""

    domain: str | None
    corpus: str
    split: str
    metric: str
    method_a: str
    method_b: str


def read_at(resampled: Resampled, curve: Curve, *, l0: float, metric: str) -> Draws:
    """`metric` of a curve at `l0`, as it is and in each resample; NaN where l0 is outside the curve's range."""
    l0s, values = (_points(resampled, curve, metric=name) for name in ("l0", metric))
    read = np.array([_interpolate(l0, l0s=x, values=y) for x, y in zip(l0s, values, strict=True)])
    return Draws(float(read[0]), read[1:])


def l0_range(resampled: Resampled, curve: Curve) -> tuple[float, float]:
    """Smallest and largest L0 of a curve's points."""
    l0s = _points(resampled, curve, metric="l0")[0]
    return float(l0s.min()), float(l0s.max())


def shared_l0s(resampled: Resampled, curves: Sequence[Curve], *, n: int = 3) -> list[float]:
    """`n` L0 values, evenly spaced inside the range that all curves share, whole numbers where the range allows.

    Empty when no range is shared.
    """
    ranges = [l0_range(resampled, curve) for curve in curves]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    if low >= high:
        return []
    inner = [low + (high - low) * (i + 1) / (n + 1) for i in range(n)]
    rounded = [float(round(l0)) for l0 in inner]
    usable = len(set(rounded)) == n and rounded[0] > low and rounded[-1] < high
    return rounded if usable else inner


def compare(
    resampled: Resampled,
    curves: Sequence[Curve],
    *,
    metric: str,
    part: Part,
    domain: str | None,
    at: Sequence[int | float] | None = None,
) -> list[Comparison]:
    """Every pair of curves at each L0 of `at` (default: where each pair overlaps), `metric` being a key of METRICS."""
    undefined = why_undefined(resampled, metric)
    found: list[Comparison] = []
    common = shared_l0s(resampled, curves) if at is None and len(curves) > 1 else list(at or [])
    for a, b in itertools.combinations(curves, 2):
        l0s = [float(l0) for l0 in common] or shared_l0s(resampled, [a, b])
        pair = _Pair(domain, part.corpus, part.split, metric, a.method, b.method)
        if undefined is not None or not l0s:
            nothing = Estimate(None, reason=undefined or _apart(resampled, a, b))
            told = (nothing, nothing, nothing)
            found.append(_comparison(pair, None, told=told, n_documents=resampled.n_documents))
            continue
        for l0 in l0s:
            draws = (read_at(resampled, a, l0=l0, metric=metric), read_at(resampled, b, l0=l0, metric=metric))
            read = (
                _estimate_inside(draws[0], resampled, curve=a, l0=l0),
                _estimate_inside(draws[1], resampled, curve=b, l0=l0),
            )
            gap = _estimate_difference(draws, read, n_documents=resampled.n_documents)
            found.append(_comparison(pair, l0, told=(*read, gap), n_documents=resampled.n_documents))
    return found


def write_comparisons(path: Path, comparisons: Iterable[Comparison]) -> None:
    """Write comparisons.jsonl: sorted, one json object per line, atomically."""
    ordered = sorted(
        comparisons, key=lambda c: (c.corpus, c.split, c.metric, c.domain or "", c.method_a, c.method_b, c.l0 or 0.0)
    )
    write_text(path, "".join(json.dumps(c._asdict(), allow_nan=False) + "\n" for c in ordered))


def _points(resampled: Resampled, curve: Curve, *, metric: str) -> Float64[np.ndarray, "columns points"]:
    """Row 0: the points' values as they are; one further row per resample. A point is the mean of its candidates."""
    columns: list[np.ndarray] = []
    for names in curve.points:
        draws = [resampled.draws(name, METRICS[metric]) for name in names]
        columns.append(np.mean([np.concatenate([[d.point], d.resampled]) for d in draws], axis=0))
    return np.stack(columns, axis=1)


def _interpolate(l0: float, *, l0s: Float64[np.ndarray, " points"], values: Float64[np.ndarray, " points"]) -> float:
    order = np.argsort(l0s, kind="stable")
    return float(np.interp(l0, l0s[order], values[order], left=np.nan, right=np.nan))


def _estimate_inside(draws: Draws, resampled: Resampled, *, curve: Curve, l0: float) -> Estimate:
    """As `estimate`, but resamples in which l0 falls outside the curve are left out while they are few."""
    if not np.isfinite(draws.point):
        low, high = l0_range(resampled, curve)
        if low <= l0 <= high:
            return Estimate(None, reason=f"{curve.method} has a value that is not a finite number next to L0 {l0:.4g}")
        return Estimate(None, reason=f"{curve.method} was measured at L0 {low:.4g} to {high:.4g}, not at {l0:.4g}")
    inside = np.isfinite(draws.resampled)
    if (~inside).mean() > _MAX_LOST:
        return Estimate(
            draws.point, reason=f"no interval: L0 {l0:.4g} is too close to the end of {curve.method}'s range"
        )
    return estimate(Draws(draws.point, draws.resampled[inside]), resampled.n_documents)


def _estimate_difference(draws: tuple[Draws, Draws], told: tuple[Estimate, Estimate], *, n_documents: int) -> Estimate:
    both = difference(draws[0], draws[1])
    reason = next((each.reason for each in told if each.reason), None)
    if reason is not None:
        return Estimate(both.point if np.isfinite(both.point) else None, reason=reason)
    inside = np.isfinite(both.resampled)
    return estimate(Draws(both.point, both.resampled[inside]), n_documents)


def _comparison(
    pair: _Pair, l0: float | None, *, told: tuple[Estimate, Estimate, Estimate], n_documents: int
) -> Comparison:
    a, b, gap = told
    return Comparison(
        **pair._asdict(),
        l0=l0,
        value_a=a.value,
        a_ci_low=a.ci_low,
        a_ci_high=a.ci_high,
        value_b=b.value,
        b_ci_low=b.ci_low,
        b_ci_high=b.ci_high,
        difference=gap.value,
        ci_low=gap.ci_low,
        ci_high=gap.ci_high,
        n_documents=n_documents,
        reason=gap.reason,
    )


def _apart(resampled: Resampled, *curves: Curve) -> str:
    spans = [(curve.method, *l0_range(resampled, curve)) for curve in curves]
    told = " and ".join(
        f"{method} at L0 {low:.4g}" + (f" to {high:.4g}" if high > low else "") for method, low, high in spans
    )
    return f"no shared L0: {told} were measured; sweep their sparsity further"
