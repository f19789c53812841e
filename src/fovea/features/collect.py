"""One pass over a corpus for all SAEs: what every latent fires on, in memory that does not grow with the corpus.

    Reading(chunks of each split, in order) --> x once --> each SAE's encoder --> Firings
        --> counts, maxima, histogram      integers
        --> Smallest by -activation        the largest activation of each context, windows distinct
        --> Smallest by hash               a uniform sample of all firings
        --> TokenSample                    for co-firing

The result is a function of the firings, whatever the size and order of the chunks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fovea.data.activations import ActivationChunks, Chunk
from fovea.errors import SAEError
from fovea.features.cofiring import TokenSample
from fovea.features.files import Ints, ragged_indices
from fovea.features.hashing import Hashes, firing_keys, window_hashes
from fovea.features.histogram import Histograms
from fovea.features.kept import Entries, Smallest, order_of, ranks_of
from fovea.ranks import Ranks

SAMPLE = 256
"Firings of each latent whose activations tell the ranks; exact for latents that fire no more often."
WITH_CONTEXT = 96
"Of these, so many may become examples."
_ROWS = 2048


class Firings(NamedTuple):
    """All firings of one SAE in some whole contexts, ordered by latent, then location."""

    latent: Ints
    location: Ints
    value: NDArray[np.float32]


class Reading:
    """The text of one corpus as it is read: whole contexts of each split in turn, up to a number of tokens.

    Args:
        splits: Held-out text first; the next is read only when those before it are not enough.
        n_tokens: At least one context is read.
    """

    def __init__(self, splits: Sequence[ActivationChunks], *, n_tokens: int) -> None:
        self.context_size = splits[0].packed.context_size
        left = max(1, n_tokens // self.context_size)
        self.parts: list[tuple[ActivationChunks, int]] = []
        for chunks in splits:
            n = min(left, chunks.packed.n_contexts)
            if n:
                self.parts.append((chunks, n))
            left -= n
        self.n_contexts = sum(n for _, n in self.parts)

    @property
    def split(self) -> str:
        """Names of the splits that are read, like heldout+train."""
        return "+".join(chunks.packed.split for chunks, _ in self.parts)

    def chunks(self) -> Iterator[Chunk]:
        """The rows that count, contexts and documents numbered in reading order."""
        first_context = first_document = 0
        for chunks, n_contexts in self.parts:
            for index in range(-(-n_contexts // chunks.contexts_per_chunk)):
                chunk = chunks.chunk(index)
                kept = chunk.contexts < n_contexts
                chunk = Chunk(*(field[kept] for field in chunk))
                yield chunk._replace(
                    contexts=chunk.contexts + first_context, documents=chunk.documents + first_document
                )
            first_context += n_contexts
            first_document += chunks.packed.n_documents

    def prefetch(self, ranks: Ranks) -> None:
        """Of several ranks each makes its share of the chunks, which the others find in the store, if there is one."""
        if ranks.size > 1:
            for chunks, n_contexts in self.parts:
                for index in range(ranks.rank, -(-n_contexts // chunks.contexts_per_chunk), ranks.size):
                    if chunks.is_kept:
                        chunks.chunk(index)
            ranks.barrier()

    def tokens(self, first: int, last: int) -> NDArray[np.uint32]:
        """[contexts pos] the tokens of contexts `first` to before `last` in reading order."""
        found: list[NDArray[np.uint32]] = []
        begin = 0
        for chunks, n_contexts in self.parts:
            wanted = range(max(first, begin) - begin, min(last, begin + n_contexts) - begin)
            if len(wanted):
                found.append(chunks.packed.batch(wanted).tokens.numpy().astype(np.uint32))
            begin += n_contexts
        return np.concatenate(found)


class Gathered(NamedTuple):
    """What one SAE did on one corpus, before examples are chosen."""

    n_fired: Ints
    maxima: NDArray[np.float32]
    fine_counts: Ints
    fine_exponents: Ints
    top: Entries
    sample: Entries
    sampled_locations: Ints
    sampled_latents: NDArray[np.int32]


class Gatherer:
    """Counts, samples and largest activations of one SAE; grows with its latents, not with the text.

    Args:
        n_top: Largest activations kept of each latent.
        n_tokens: Tokens that will be read, at most.
    """

    def __init__(self, d_sae: int, *, n_top: int, n_tokens: int, context_size: int) -> None:
        self.context_size = context_size
        self.n_fired = np.zeros(d_sae, dtype=np.int64)
        self.maxima = np.zeros(d_sae, dtype=np.float32)
        self.histograms = Histograms(d_sae)
        self.top = Smallest(d_sae, size=n_top, n_contexts=n_top, distinct=True)
        self.sample = Smallest(d_sae, size=SAMPLE, n_contexts=WITH_CONTEXT, distinct=False)
        self.token_sample = TokenSample(n_tokens)

    def add(self, firings: Firings, windows: Callable[[Ints], Hashes]) -> None:
        """Take in the firings of whole contexts; `windows` gives the hash of the tokens around each location."""
        if len(firings.latent) == 0:
            return
        begins = np.flatnonzero(np.diff(firings.latent, prepend=-1))
        latents, largest = firings.latent[begins], np.maximum.reduceat(firings.value, begins)
        self.n_fired += np.bincount(firings.latent, minlength=len(self.n_fired))
        self.maxima[latents] = np.maximum(self.maxima[latents], largest)
        self.histograms.add(firings.latent, firings.value, largest=self.maxima)
        self.token_sample.add(firings.location, firings.latent)
        pairs = _pairs(firings, self.context_size)
        self._offer_top(firings, pairs, windows)
        self._offer_sample(firings, pairs)

    def result(self) -> Gathered:
        """What was gathered."""
        sampled = self.token_sample.result()
        return Gathered(
            self.n_fired,
            self.maxima,
            self.histograms.counts,
            self.histograms.exponents,
            self.top.result(),
            self.sample.result(),
            *sampled,
        )

    def _offer_top(self, firings: Firings, pairs: "_Pairs", windows: Callable[[Ints], Hashes]) -> None:
        """The largest activation of each latent in each context, the first of equals."""
        largest = np.maximum.reduceat(firings.value, pairs.starts)
        is_largest = firings.value == np.repeat(largest, pairs.lengths)
        places = np.where(is_largest, np.arange(len(is_largest)), len(is_largest))
        peaks = np.minimum.reduceat(places, pairs.starts)
        # Positive floats sort as their bits do.
        keys = np.uint64(2**32) - largest.view(np.uint32).astype(np.uint64)
        pair = np.flatnonzero(keys <= self.top.limits[firings.latent[peaks]])
        chosen = peaks[pair]
        candidates = _Candidates(chosen, keys[pair], windows(firings.location[chosen]), pair)
        self.top.offer(_entries(firings, pairs, candidates, self.context_size))

    def _offer_sample(self, firings: Firings, pairs: "_Pairs") -> None:
        """Firings with small keys; the context of those with the smallest."""
        keys = firing_keys(firings.location, firings.latent)
        chosen = np.flatnonzero(keys <= self.sample.limits[firings.latent])
        chosen = chosen[np.argsort(keys[chosen])]
        chosen = chosen[order_of(firings.latent[chosen])]
        ranks = ranks_of(firings.latent[chosen])
        chosen, ranks = chosen[ranks < SAMPLE], ranks[ranks < SAMPLE]
        shown = (ranks < WITH_CONTEXT) & (keys[chosen] <= self.sample.context_limits[firings.latent[chosen]])
        pair = np.where(shown, pairs.of_firing[chosen], -1)
        candidates = _Candidates(chosen, keys[chosen], np.zeros(len(chosen), dtype=np.uint64), pair)
        self.sample.offer(_entries(firings, pairs, candidates, self.context_size))


class _Pairs(NamedTuple):
    """Runs of firings of one latent in one context."""

    starts: Ints
    lengths: Ints
    of_firing: Ints


class _Candidates(NamedTuple):
    """Firings that may be kept, by their index; pair -1 leaves the context out."""

    chosen: Ints
    keys: Hashes
    windows: Hashes
    pair: Ints


def _pairs(firings: Firings, context_size: int) -> _Pairs:
    contexts = firings.location // context_size
    begins = (np.diff(firings.latent, prepend=-1) != 0) | (np.diff(contexts, prepend=-1) != 0)
    starts = np.flatnonzero(begins)
    return _Pairs(starts, np.diff(starts, append=len(begins)), np.cumsum(begins) - 1)


def _entries(firings: Firings, pairs: _Pairs, candidates: _Candidates, context_size: int) -> Entries:
    chosen, keys, windows, pair = candidates
    lengths = np.where(pair >= 0, pairs.lengths[pair], 0)
    inner = ragged_indices(pairs.starts[pair], lengths)
    positions = (firings.location[inner] % context_size).astype(np.int32)
    outer = (firings.latent[chosen], keys, firings.location[chosen], windows, firings.value[chosen])
    return Entries(*outer, lengths, positions, firings.value[inner])


def gather(
    reading: Reading,
    encoders: Mapping[str, Callable[[Tensor], Tensor]],
    *,
    n_top: int,
    device: torch.device | str = "cpu",
    observe: Callable[[int], None] | None = None,
) -> tuple[dict[str, Gathered], "Totals"]:
    """Read a corpus once and gather what every SAE does on it.

    Args:
        encoders: SAE name -> encode in inference form.
        n_top: Largest activations kept of each latent.
        device: Where the SAEs lie.
        observe: Called after each chunk with the number of contexts read so far.

    Raises:
        SAEError: a latent is not a number.
    """
    size = reading.context_size
    gatherers: dict[str, Gatherer] = {}
    n_tokens, documents = 0, set[int]()
    with torch.inference_mode():
        for chunk in reading.chunks():
            if len(chunk.x) == 0:
                continue
            first, last = int(chunk.contexts.min()), int(chunk.contexts.max()) + 1
            windows = _windows_from(window_hashes(reading.tokens(first, last)), first * size)
            locations = (chunk.contexts * size + chunk.positions).numpy()
            x = chunk.x.to(device)
            for name, encode in encoders.items():
                firings, d_sae = _firings(name, encode, x, locations)
                if name not in gatherers:
                    gatherers[name] = Gatherer(
                        d_sae, n_top=n_top, n_tokens=reading.n_contexts * size, context_size=size
                    )
                gatherers[name].add(firings, windows)
            n_tokens += len(chunk.x)
            documents.update(chunk.documents.unique().tolist())
            if observe is not None:
                observe(last)
    return {name: one.result() for name, one in gatherers.items()}, Totals(n_tokens, len(documents))


class Totals(NamedTuple):
    """How much was read: tokens that count, and their documents."""

    n_tokens: int
    n_documents: int


def _windows_from(hashes: Hashes, offset: int) -> Callable[[Ints], Hashes]:
    flat = hashes.reshape(-1)
    return lambda locations: flat[locations - offset]


def _firings(
    name: str, encode: Callable[[Tensor], Tensor], x: Float[Tensor, "tokens d_in"], locations: Ints
) -> tuple[Firings, int]:
    """Firings of one SAE, and its width; always all latents at once: some compete with each other."""
    rows: list[Tensor] = []
    latents: list[Tensor] = []
    values: list[Tensor] = []
    d_sae = 0
    for start in range(0, len(x), _ROWS):
        found = encode(x[start : start + _ROWS])
        if found.isnan().any():
            raise SAEError(
                f"SAE {name!r} gives latents that are not numbers; its weights are damaged, train or fetch it again"
            )
        d_sae = found.shape[1]
        row, latent = (found > 0).nonzero(as_tuple=True)
        values.append(found[row, latent].cpu())
        rows.append(row.cpu() + start)
        latents.append(latent.cpu())
    latent, order = torch.cat(latents).sort(stable=True)
    at = locations[torch.cat(rows)[order].numpy()]
    return Firings(latent.numpy(), at, torch.cat(values)[order].float().numpy()), d_sae
