"""Two jobs side by side: what share of their latents is alive, rare, new; and the distributions of the columns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fovea.app.calls import number
from fovea.app.table import Table

N_BINS = 36
_EDGES: dict[str, tuple[float, float, bool]] = {
    "density_domain": (-6.0, 0.0, True),
    "density_general": (-6.0, 0.0, True),
    "ratio": (-3.0, 4.0, True),
    "novelty_decoder": (0.0, 1.0, False),
    "novelty_encoder": (0.0, 1.0, False),
}
"Column -> where its axis begins and ends, and whether it is logarithmic (then the ends are exponents of 10)."


def compare(table: Table, jobs: tuple[str, str]) -> dict[str, Any]:
    """Summary and histograms of two jobs, as json. Histograms count latents that fired on D; the rest is told apart."""
    for job in jobs:
        table.row(job, 0)
    return {
        "axes": {name: {"low": low, "high": high, "log": log} for name, (low, high, log) in _EDGES.items()},
        "jobs": [_job(table, job) for job in jobs],
    }


def _job(table: Table, job: str) -> dict[str, Any]:
    c = {name: values[table.job_rows[job]] for name, values in table.columns.items()}
    alive = c["n_fired_domain"] > 0
    return {
        "job": job,
        "n_latents": len(alive),
        "n_alive": int(alive.sum()),
        "n_only": _known(int(c["is_bound"].sum()), c["n_fired_general"]),
        "n_dead": int((~alive & ~(c["n_fired_general"] > 0)).sum()),
        "n_specific": _known(int((c["ratio"] > 100).sum()), c["n_fired_general"]),
        "n_new": _known(int((alive & (c["novelty_decoder"] < 0.9)).sum()), c["novelty_decoder"]),
        "medians": {name: _median(c[name][alive]) for name in _EDGES},
        "histograms": {name: _histogram(c[name][alive], *_EDGES[name]) for name in _EDGES},
    }


def _known(count: int, values: NDArray[np.float64]) -> int | None:
    """A count of latents; None where what is counted is known of no latent."""
    return None if np.isnan(values).all() else count


def _median(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return number(float(np.median(known))) if known.size else None


def _histogram(values: NDArray[np.float64], low: float, high: float, log: bool) -> dict[str, Any]:
    """Counts in equal bins; zeros, which a logarithm cannot show, and what lies beyond the ends are told apart."""
    known = values[~np.isnan(values)]
    shown = np.log10(known[known > 0]) if log else known
    counts, _ = np.histogram(np.clip(shown, low, high), bins=N_BINS, range=(low, high))
    return {
        "counts": counts.tolist(),
        "n_zero": int((known == 0).sum()) if log else 0,
        "n_unknown": int(np.isnan(values).sum()),
        "n_beyond": int(((shown < low) | (shown > high)).sum()),
    }
