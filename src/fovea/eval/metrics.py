"""Metrics as pure functions of totals: sums over documents in, ratios out.

    Sums --weights [resamples documents]--> Totals of one candidate --METRICS[id]--> value per resample

Weights of 1 give the point estimate; multinomial weights a bootstrap resample (fovea.eval.bootstrap). A value that does
not exist (0 / 0) is NaN here and null in a record. Definitions, with formulae: fovea.eval.definitions.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from fovea.eval.candidates import GENERAL, MEAN, ZERO
from fovea.eval.sums import Sums


class Totals(NamedTuple):
    """Weighted sums over documents for one candidate and what it is compared with; one entry per resample."""

    n_tokens: Float64[np.ndarray, " resamples"]
    n_scored: Float64[np.ndarray, " resamples"]
    variance: Float64[np.ndarray, " resamples"]
    "sum |x - mean|^2, the mean being the resample's own."
    ce_clean: Float64[np.ndarray, " resamples"]
    ce_g: Float64[np.ndarray, " resamples"]
    ce_zero: Float64[np.ndarray, " resamples"]
    ce_mean: Float64[np.ndarray, " resamples"]
    gap_masked: Float64[np.ndarray, " resamples"]
    error_sq_g: Float64[np.ndarray, " resamples"]
    ce: Float64[np.ndarray, " resamples"]
    kl: Float64[np.ndarray, " resamples"]
    gain_masked: Float64[np.ndarray, " resamples"]
    error_sq: Float64[np.ndarray, " resamples"]
    l0_general: Float64[np.ndarray, " resamples"]
    l0_domain: Float64[np.ndarray, " resamples"]


def totals(sums: Sums, weights: Float64[np.ndarray, "resamples documents"]) -> dict[str, Totals]:
    """Totals of each candidate under each row of document weights. Without g, what refers to it is NaN."""
    n_tokens = _total(sums.corpus.n_tokens.numpy(), weights)
    sum_x = weights @ sums.corpus.sum_x.numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = _total(sums.corpus.sum_x_sq.numpy(), weights) - np.square(sum_x).sum(axis=1) / n_tokens
    missing = np.full(len(weights), np.nan)
    each = {
        name: {field: _total(values.numpy(), weights) for field, values in candidate._asdict().items()}
        for name, candidate in sums.candidates.items()
    }
    has_g = GENERAL in each
    shared = {
        "n_tokens": n_tokens,
        "n_scored": _total(sums.corpus.n_scored.numpy(), weights),
        "variance": variance,
        "ce_clean": _total(sums.corpus.ce_clean.numpy(), weights),
        "ce_g": each[GENERAL]["ce"] if has_g else missing,
        "ce_zero": each[ZERO]["ce"],
        "ce_mean": each[MEAN]["ce"],
        "gap_masked": _total(sums.corpus.gap_masked.numpy(), weights) if has_g else missing,
        "error_sq_g": each[GENERAL]["error_sq"] if has_g else missing,
    }
    return {name: Totals(**shared, **own) for name, own in each.items()}


def point_totals(sums: Sums) -> dict[str, Totals]:
    """Totals of each candidate with every document counted once; arrays of length 1."""
    return totals(sums, np.ones((1, len(sums.documents))))


def gap(baseline: str) -> Callable[[Totals], Float64[np.ndarray, " resamples"]]:
    """CE_baseline - CE_clean in nats, baseline one of "g", "zero", "mean": the denominator of loss recovered."""
    return lambda t: ratio(getattr(t, f"ce_{baseline}") - t.ce_clean, t.n_scored)


def _recovered(baseline: str) -> Callable[[Totals], Float64[np.ndarray, " resamples"]]:
    return lambda t: ratio(getattr(t, f"ce_{baseline}") - t.ce, getattr(t, f"ce_{baseline}") - t.ce_clean)


METRICS: dict[str, Callable[[Totals], Float64[np.ndarray, " resamples"]]] = {
    "ce": lambda t: ratio(t.ce, t.n_scored),
    "delta_ce": lambda t: ratio(t.ce - t.ce_clean, t.n_scored),
    "kl": lambda t: ratio(t.kl, t.n_scored),
    "loss_recovered_gap": _recovered("g"),
    "loss_recovered_gap_masked": lambda t: ratio(t.gain_masked, t.gap_masked),
    "loss_recovered_zero": _recovered("zero"),
    "loss_recovered_mean": _recovered("mean"),
    "fvu": lambda t: ratio(t.error_sq, t.variance),
    "fvu_recovered": lambda t: ratio(t.error_sq_g - t.error_sq, t.error_sq_g),
    "l0": lambda t: ratio(t.l0_general + t.l0_domain, t.n_tokens),
    "l0_general": lambda t: ratio(t.l0_general, t.n_tokens),
    "l0_domain": lambda t: ratio(t.l0_domain, t.n_tokens),
}
"Metrics of one candidate, by id."

LM_METRICS: dict[str, Callable[[Totals], Float64[np.ndarray, " resamples"]]] = {
    "ce_clean": lambda t: ratio(t.ce_clean, t.n_scored),
    "ce_zero": lambda t: ratio(t.ce_zero, t.n_scored),
    "ce_mean": lambda t: ratio(t.ce_mean, t.n_scored),
    "ce_g": lambda t: ratio(t.ce_g, t.n_scored),
}
"Metrics of the corpus split, the same for every candidate, by id."

PER_KEPT_TOKEN = frozenset({"fvu", "fvu_recovered", "l0", "l0_general", "l0_domain"})
"Metrics whose n_tokens are the kept tokens; the others' are the scored ones."

GAP_BASELINE = {"loss_recovered_gap": "g", "loss_recovered_zero": "zero", "loss_recovered_mean": "mean"}
"Metrics that divide by a gap, and the baseline that opens it."


def ratio(
    numerator: Float64[np.ndarray, " resamples"], denominator: Float64[np.ndarray, " resamples"]
) -> Float64[np.ndarray, " resamples"]:
    """numerator / denominator, NaN where the denominator is 0."""
    quotient = np.full_like(numerator, np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator != 0)


def _total(
    values: Float64[np.ndarray, " documents"], weights: Float64[np.ndarray, "resamples documents"]
) -> Float64[np.ndarray, " resamples"]:
    return weights @ values
