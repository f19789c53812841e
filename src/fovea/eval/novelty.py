"""How new a latent's directions are: the largest cosine with any of g's, and what chance would give.

    rows [n d], g's rows [m d] --chunked cosine--> MaxCosine(value, nearest)
    as many random directions, and directions from a Gaussian with the moments of g's --> Baselines

Used for decoder rows and, apart from them, encoder columns. A vector of norm 0 has no direction: NaN, nearest -1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int32
from torch import Tensor

MATCHED = 0.9
"A latent whose max cosine reaches this is one that g has already."
_CHUNK = 1024
N_QUANTILES = 201
"Values kept of a baseline: the quantiles 0, 0.5%, ..., 100%."


class MaxCosine(NamedTuple):
    """For each row, the largest cosine with a reference row and its index (the lowest of equals); on the CPU."""

    value: Float32[Tensor, " rows"]
    nearest: Int32[Tensor, " rows"]


class Novelty(NamedTuple):
    """Decoder rows against g's decoder rows, encoder columns against g's encoder columns."""

    decoder: MaxCosine
    encoder: MaxCosine


class Baseline(NamedTuple):
    """Quantiles (evenly spaced from 0 to 1) of the max cosine with g's rows that as many drawn directions have."""

    random: Float64[Tensor, " quantiles"]
    "Uniform on the sphere."
    moment: Float64[Tensor, " quantiles"]
    "Gaussian with the mean and covariance of g's rows, normalised."


class NoveltyCounts(NamedTuple):
    """Summary over the latents that fired."""

    median: float | None
    n_matched: int
    n_above_random: int
    n_above_moment: int


def max_cosine(rows: Float[Tensor, "rows d_in"], reference: Float[Tensor, "m_rows d_in"]) -> MaxCosine:
    """Largest cosine of each row with a row of `reference`; at most 1,024 x m_rows values in memory."""
    unit = unit_rows(reference.float())
    unit = torch.where(unit.isnan(), 0.0, unit)
    values: list[Tensor] = [rows.new_zeros(0, dtype=torch.float32)]
    nearest: list[Tensor] = [torch.zeros(0, dtype=torch.int64, device=rows.device)]
    for chunk in rows.float().split(_CHUNK):
        best = (unit_rows(chunk) @ unit.T).max(dim=1)
        values.append(best.values.clamp(-1.0, 1.0))
        nearest.append(torch.where(best.values.isnan(), -1, best.indices))
    return MaxCosine(torch.cat(values).cpu(), torch.cat(nearest).int().cpu())


def novelty(
    W_enc: Float[Tensor, "d_in d_sae"],
    W_dec: Float[Tensor, "d_sae d_in"],
    *,
    general_W_enc: Float[Tensor, "d_in d_general"],
    general_W_dec: Float[Tensor, "d_general d_in"],
) -> Novelty:
    """Max cosines of an SAE's latents with those of g."""
    return Novelty(max_cosine(W_dec, general_W_dec), max_cosine(W_enc.T, general_W_enc.T))


def baseline(reference: Float[Tensor, "m_rows d_in"], *, n_rows: int, generator: torch.Generator) -> Baseline:
    """What `n_rows` directions that know nothing of the domain have for a max cosine with g's rows."""
    d_in = reference.shape[1]
    random = torch.randn(n_rows, d_in, generator=generator)
    drawn = gaussian_like(unit_rows(reference.float().cpu()), n_rows=n_rows, generator=generator)
    return Baseline(
        _quantiles(max_cosine(random, reference.cpu()).value), _quantiles(max_cosine(drawn, reference.cpu()).value)
    )


def gaussian_like(
    rows: Float[Tensor, "m_rows d_in"], *, n_rows: int, generator: torch.Generator
) -> Float32[Tensor, "n_rows d_in"]:
    """Rows drawn from a Gaussian with the mean and covariance of the finite rows of `rows`."""
    rows = rows[rows.isfinite().all(dim=1)].double()
    mean = rows.mean(dim=0)
    noise = torch.randn(n_rows, len(mean), generator=generator, dtype=torch.float64)
    return (mean + noise @ _square_root((rows - mean).T @ (rows - mean) / max(len(rows) - 1, 1))).float()


def unit_rows(rows: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_in"]:
    """Rows of norm 1; a row of norm 0 becomes NaN."""
    return rows / rows.norm(dim=1, keepdim=True)


def summarise(found: MaxCosine, reference: Baseline, *, alive: Bool[Tensor, " rows"]) -> NoveltyCounts:
    """Counts over the latents in `alive`: already in g, and closer to g than the baselines' 99th percentiles."""
    value = found.value[alive & ~found.value.isnan()].double()
    at_99 = round(0.99 * (N_QUANTILES - 1))

    def count(passes: Callable[[Tensor], Tensor]) -> int:
        return int(passes(value).sum())

    return NoveltyCounts(
        value.quantile(0.5).item() if len(value) else None,
        count(lambda v: v.float() >= MATCHED),
        count(lambda v: v > reference.random[at_99]),
        count(lambda v: v > reference.moment[at_99]),
    )


def _quantiles(values: Float32[Tensor, " rows"]) -> Float64[Tensor, " quantiles"]:
    return values.double().quantile(torch.linspace(0, 1, N_QUANTILES, dtype=torch.float64))


def _square_root(covariance: Float64[Tensor, "d_in d_in"]) -> Float64[Tensor, "d_in d_in"]:
    """The symmetric square root; rounding below zero is cut off."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
