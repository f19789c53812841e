"""How often each latent fires: integer counts with their totals, for all SAEs in one pass over the activations.

chunks of x --encode, each SAE--> latents > 0 --int64 sums--> FiringCounts(counts, n_tokens, n_documents)
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fovea.errors import SAEError
from fovea.foreign import DAMAGED, damage
from fovea.ranks import ALONE, Ranks, union
from fovea.tensorfile import read_checked, write_checked

_ROWS = 4096
"Rows encoded at once; bounds memory to _ROWS x d_sae latents."


@runtime_checkable
class ActivationRows(Protocol):
    """The part of a chunk (fovea.data.activations.Chunk) that counting needs."""

    @property
    def x(self) -> Float[Tensor, "tokens d_in"]: ...

    @property
    def documents(self) -> Int64[Tensor, " tokens"]: ...


class FiringCounts(NamedTuple):
    """Of n_tokens kept tokens of n_documents documents, how many each latent fired on."""

    counts: Int64[Tensor, " d_sae"]
    n_tokens: int
    n_documents: int

    @property
    def alive(self) -> Tensor:
        """True for latents that fired at least once."""
        return self.counts > 0


def count_firing(
    chunks: Iterable[ActivationRows],
    encoders: Mapping[str, Callable[[Tensor], Tensor]],
    *,
    device: torch.device | str = "cpu",
    observe: Callable[[int], None] | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, FiringCounts]:
    """Firing counts of every SAE over all rows of `chunks` of all ranks; a latent fires where it is above zero.

    Args:
        encoders: SAE name -> encode in inference form, x [tokens d_in] -> latents [tokens d_sae].
        device: Where the SAEs lie.
        observe: Called after each chunk with the number of tokens done, the other ranks' taken to be as many.

    Raises:
        SAEError: a latent is not a number.
    """
    counts: dict[str, Tensor] = {}
    documents: set[int] = set()
    n_tokens = 0
    with torch.inference_mode():
        for chunk in chunks:
            for rows in chunk.x.to(device).split(_ROWS):
                for name, encode in encoders.items():
                    fired = _fired(name, encode(rows))
                    counts[name] = counts[name] + fired if name in counts else fired
            documents.update(chunk.documents.unique().tolist())
            n_tokens += len(chunk.x)
            if observe is not None:
                observe(n_tokens * ranks.size)
    n_documents, n_tokens = len(union(ranks, documents)), ranks.total(n_tokens)
    return {name: FiringCounts(ranks.sum(found.clone()), n_tokens, n_documents) for name, found in counts.items()}


def _fired(name: str, latents: Float[Tensor, "tokens d_sae"]) -> Int64[Tensor, " d_sae"]:
    if latents.isnan().any():
        raise SAEError(
            f"SAE {name!r} gives latents that are not numbers; its weights are damaged, train or fetch it again"
        )
    return (latents > 0).sum(dim=0).cpu()


def merge_counts(first: FiringCounts, second: FiringCounts) -> FiringCounts:
    """Counts over two sets of different documents."""
    return FiringCounts(
        first.counts + second.counts, first.n_tokens + second.n_tokens, first.n_documents + second.n_documents
    )


def save_counts(path: Path, counts: Mapping[str, FiringCounts]) -> None:
    """Write the counts of all SAEs as one safetensors file, atomically."""
    totals = {f"{name}.totals": torch.tensor([c.n_tokens, c.n_documents]) for name, c in counts.items()}
    write_checked(path, {f"{name}.counts": c.counts for name, c in counts.items()} | totals)


def load_counts(path: Path) -> dict[str, FiringCounts]:
    """What `save_counts` wrote.

    Raises:
        DamagedError: the file is not that any more.
    """
    tensors = read_checked(path).tensors
    with damage(path, DAMAGED):
        names = [key.removesuffix(".counts") for key in tensors if key.endswith(".counts")]
        for name in names:
            counts, totals = tensors[f"{name}.counts"], tensors[f"{name}.totals"]
            if counts.ndim != 1 or totals.shape != (2,) or {counts.dtype, totals.dtype} != {torch.int64}:
                raise ValueError(f"counts of {name!r:.100} are no counts")
        return {
            name: FiringCounts(tensors[f"{name}.counts"], *tensors[f"{name}.totals"].tolist()) for name in sorted(names)
        }


def density_bound(n_tokens: int, *, confidence: float = 0.95) -> float | None:
    """Largest density that is compatible with not firing once on n_tokens tokens: 1 - 0.05^(1/n), about 3/n.

    None when there are no tokens. Tokens count as independent; firing comes in bursts, so the true bound is larger.
    """
    return (
        None
        if n_tokens == 0
        else -torch.expm1(torch.tensor(1 - confidence, dtype=torch.float64).log() / n_tokens).item()
    )


def median_density(counts: FiringCounts) -> float | None:
    """Median of count / n_tokens over the latents that fired, None if none did; the middle two are averaged."""
    fired = counts.counts[counts.alive].double()
    return None if len(fired) == 0 else (fired.quantile(0.5) / counts.n_tokens).item()
