"""The few firings of each latent that are kept while text streams by, each with all that its context showed.

    candidates --offer--> pending --(when there are many)--> merged: per latent, the `size` smallest keys

What is kept is a function of the set of candidates, not of their order. Only so many entries are ever held, whatever
the number of tokens: size x latents, and as many pending.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fovea.features.files import Ints, ragged_indices
from fovea.features.hashing import Hashes


class Entries(NamedTuple):
    """Firings, each with the activations of its context."""

    latent: Ints
    key: Hashes
    "The smaller, the sooner kept."
    location: Ints
    "Context in reading order x context size + position."
    around: Hashes
    value: NDArray[np.float32]
    lengths: Ints
    "How many of `positions` and `values` belong to each; 0 where the context is not kept."
    positions: NDArray[np.int32]
    values: NDArray[np.float32]

    def chosen(self, index: Ints, with_context: NDArray[np.bool_]) -> "Entries":
        """The entries at `index`, in that order, with the activations of their contexts where wanted."""
        starts = np.cumsum(self.lengths) - self.lengths
        lengths = np.where(with_context, self.lengths[index], 0)
        inner = ragged_indices(starts[index], lengths)
        return Entries(
            self.latent[index],
            self.key[index],
            self.location[index],
            self.around[index],
            self.value[index],
            lengths,
            self.positions[inner],
            self.values[inner],
        )


def no_entries() -> Entries:
    """None."""
    whole, keys, numbers = np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.float32)
    return Entries(whole, keys, whole, keys, numbers, whole, np.zeros(0, np.int32), numbers)


class Smallest:
    """Per latent the `size` entries with the smallest keys; ties by location.

    Args:
        n_contexts: Of these so many, smallest first, keep the activations of their context.
        distinct: Of entries with equal windows only the first is kept. Without it, keys must be hashes: ties are not
            looked at.
    """

    def __init__(self, d_sae: int, *, size: int, n_contexts: int, distinct: bool) -> None:
        self.size, self.n_contexts, self.distinct = size, n_contexts, distinct
        self.limits = np.full(d_sae, np.iinfo(np.uint64).max, dtype=np.uint64)
        "Keys above a latent's limit have no chance."
        self.context_limits = self.limits.copy()
        self._kept = no_entries()
        self._pending: list[Entries] = []
        self._n_pending = 0

    @property
    def n_held(self) -> int:
        """Entries in memory, and the activations of their contexts."""
        return sum(len(part.latent) + len(part.positions) for part in (self._kept, *self._pending))

    def offer(self, entries: Entries) -> None:
        """Consider candidates, of each latent not many more than `size`."""
        self._pending.append(entries)
        self._n_pending += len(entries.latent)
        if self._n_pending > max(len(self._kept.latent) // 2, 32 * len(self.limits)):
            self._merge()

    def result(self) -> Entries:
        """What is kept, ordered by latent, then key."""
        self._merge()
        return self._kept

    def _merge(self) -> None:
        if not self._pending:
            return
        self._kept = self._best(joined([self._kept, *self._pending]))
        self._pending, self._n_pending = [], 0
        ranks = ranks_of(self._kept.latent)
        for limits, n in ((self.limits, self.size), (self.context_limits, self.n_contexts)):
            last = ranks == n - 1
            limits[self._kept.latent[last]] = self._kept.key[last]

    def _best(self, entries: Entries) -> Entries:
        order = np.lexsort((entries.location, entries.key)) if self.distinct else np.argsort(entries.key)
        order = order[order_of(entries.latent[order])]
        if self.distinct:
            order = order[_first_of_each(entries.latent[order], entries.around[order])]
        ranks = ranks_of(entries.latent[order])
        kept = ranks < self.size
        return entries.chosen(order[kept], ranks[kept] < self.n_contexts)


def joined(parts: list[Entries]) -> Entries:
    """All entries of several."""
    columns: list[Any] = [np.concatenate(found) for found in zip(*parts, strict=True)]
    return Entries(*columns)


def ranks_of(sorted_latents: Ints) -> Ints:
    """Place of each entry among those of its latent."""
    n = len(sorted_latents)
    begins = np.flatnonzero(np.diff(sorted_latents, prepend=-1))
    return np.arange(n) - np.repeat(begins, np.diff(begins, append=n))


def order_of(latents: Ints) -> Ints:
    """Stable order by latent; numpy sorts 16 bits in linear time, so it is done by 16 bits at a time."""
    order = np.argsort((latents & 0xFFFF).astype(np.uint16), kind="stable")
    if len(latents) and int(latents.max()) > 0xFFFF:
        order = order[np.argsort((latents[order] >> 16).astype(np.uint16), kind="stable")]
    return order


def _first_of_each(latents: Ints, windows: Hashes) -> NDArray[np.bool_]:
    """True for the first entry of each (latent, around); entries are in the order in which they are preferred."""
    order = np.argsort(windows, kind="stable")
    order = order[order_of(latents[order])]
    same = (np.diff(latents[order]) == 0) & (np.diff(windows[order]) == 0)
    first = np.ones(len(latents), dtype=np.bool_)
    first[order[1:][same]] = False
    return first
