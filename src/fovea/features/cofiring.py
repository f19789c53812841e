"""Which latents fire together, counted on a sample of tokens that is the same for every SAE of a run.

    tokens with the smallest hashes, up to 65,536 --> their firings --> pairs of each latent --> the best few

value = tokens on which both fire / tokens on which either fires (Jaccard): a latent that always fires is near to none.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fovea.features.files import Ints, LinkLists, ragged_indices
from fovea.features.hashing import mixed

N_TOKENS = 65_536
"Tokens on which co-firing is counted; fewer where very many latents fire on each."
_MAX_PAIRS = 20_000_000
_BLOCK_PAIRS = 4_000_000


class CoFiring(NamedTuple):
    """The latents that a latent fires with most."""

    links: LinkLists
    counts: Ints
    "[d_sae n] tokens on which both fire; -1 where there is none."
    n_tokens: int


class TokenSample:
    """The firings on a share of the tokens, chosen by hash of their locations; bounded by the share."""

    def __init__(self, n_tokens: int) -> None:
        self.share = min(1.0, N_TOKENS / max(n_tokens, 1))
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []

    def add(self, locations: Ints, latents: Ints) -> None:
        """Keep what belongs to the sample."""
        kept = _below(locations, self.share)
        self._parts.append((locations[kept], latents[kept].astype(np.int32)))

    def result(self) -> tuple[Ints, NDArray[np.int32]]:
        """Location and latent of every firing on the sampled tokens, ordered by location."""
        locations = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in self._parts)])
        latents = np.concatenate([np.zeros(0, np.int32), *(part[1] for part in self._parts)])
        order = np.lexsort((latents, locations))
        return locations[order], latents[order]


def _below(locations: Ints, share: float) -> NDArray[np.bool_]:
    return np.ones(len(locations), np.bool_) if share >= 1 else mixed(locations) < np.uint64(int(share * 2**64))


def count_pairs(locations: Ints, latents: NDArray[np.int32], *, d_sae: int, n_best: int) -> CoFiring:
    """The `n_best` latents that fire most with each latent; ties go to the lower index.

    Args:
        locations: Ascending; with `latents` what `TokenSample.result` gives.
    """
    locations, latents = _affordable(locations, latents)
    _, token, l0 = np.unique(locations, return_inverse=True, return_counts=True)
    starts = np.cumsum(l0) - l0
    order = np.argsort(latents, kind="stable")
    fired = np.bincount(latents, minlength=d_sae)
    ends = np.cumsum(fired)
    pairs_until = np.cumsum(l0[token[order]]) if len(order) else np.zeros(0, np.int64)
    ids = np.full((d_sae, n_best), -1, dtype=np.int64)
    values, counts = np.zeros((d_sae, n_best), np.float32), np.full((d_sae, n_best), -1, dtype=np.int64)
    first = 0
    while first < d_sae:
        last = _block_end(first, ends, pairs_until, d_sae)
        own = order[ends[first] - fired[first] : ends[last - 1]]
        others = latents[ragged_indices(starts[token[own]], l0[token[own]])]
        own_latents = np.repeat(latents[own], l0[token[own]]).astype(np.int64) - first
        both = np.bincount(own_latents * d_sae + others, minlength=(last - first) * d_sae).reshape(-1, d_sae)
        both[np.arange(last - first), np.arange(first, last)] = 0
        _fill(slice(first, last), both, fired, (ids, values, counts))
        first = last
    return CoFiring(LinkLists(ids, values), counts, len(l0))


def _affordable(locations: Ints, latents: NDArray[np.int32]) -> tuple[Ints, NDArray[np.int32]]:
    """The sample, thinned by hash until its pairs can be counted in seconds."""
    share = 1.0
    while True:
        _, l0 = np.unique(locations, return_counts=True)
        if int((l0**2).sum()) <= _MAX_PAIRS:
            return locations, latents
        share /= 2
        kept = mixed(~mixed(locations)) < np.uint64(int(share * 2**64))
        locations, latents = locations[kept], latents[kept]


def _block_end(first: int, ends: Ints, pairs_until: Ints, d_sae: int) -> int:
    """Latents `first` to the returned one have few enough pairs, and cells, to be counted at once; one at least."""
    before = int(pairs_until[ends[first - 1] - 1]) if first and ends[first - 1] else 0
    done = np.where(ends > 0, pairs_until[np.maximum(ends - 1, 0)] if len(pairs_until) else 0, 0)
    last = int(np.searchsorted(done, before + _BLOCK_PAIRS, side="right"))
    return min(max(last, first + 1), first + max(1, _BLOCK_PAIRS // d_sae), d_sae)


def _fill(block: slice, both: Ints, fired: Ints, out: tuple[Ints, NDArray[np.float32], Ints]) -> None:
    ids, values, counts = out
    either = fired[block][:, None] + fired[None, :] - both
    jaccard = both / np.maximum(either, 1)
    best = np.argsort(-jaccard, axis=1, kind="stable")[:, : ids.shape[1]]
    n = best.shape[1]
    together = np.take_along_axis(both, best, axis=1)
    ids[block, :n] = np.where(together > 0, best, -1)
    values[block, :n] = np.take_along_axis(jaccard, best, axis=1)
    counts[block, :n] = np.where(together > 0, together, -1)
