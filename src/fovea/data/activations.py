"""Rows of activations: the lm on packed contexts, and the one place that says which tokens count.

    PackedTokens.batch --> lm.activations at the hook point --> TokenFilter.keep --> Chunk

Chunk i is a function of i alone: the same contexts in batches of the same shape, whoever asks and in whatever order.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fovea.atomic import read_checked_json
from fovea.data.precision import Precision, bytes_per_value, dtype_of, fvu, pack, unpack
from fovea.data.store import ChunkStore
from fovea.data.tokens import PackedTokens, TokenBatch
from fovea.errors import ConfigError, CorpusError, DamagedError
from fovea.foreign import Refusal, damage
from fovea.lm.hookpoint import HookPoint
from fovea.lm.model import LM
from fovea.profile import span

ANEW = Refusal(DamagedError, "when the run is resumed, it is measured again")
"Of what a run measures before its first step."


@dataclass(frozen=True)
class TokenFilter:
    """Which tokens are trained on, measured and patched: not special, not at the start of a context, not massive.

    Args:
        skip_first: Positions at the start of each context that are left out; BOS counts as one.
        max_norm: Largest norm of x that is kept, usually 10 x the median norm (attention sinks: 100 to 1,000 x).
            None keeps all.
    """

    special_ids: frozenset[int]
    skip_first: int = 1
    max_norm: float | None = None

    def __post_init__(self) -> None:
        if self.skip_first < 0:
            raise ConfigError(f"skip_first = {self.skip_first}, but it counts positions; give 0 or more")
        if self.max_norm is not None and not 0 < self.max_norm < math.inf:
            raise ConfigError(
                f"max_norm = {self.max_norm}, but it must be above 0 and finite; leave it out to keep all"
            )

    @classmethod
    def of(cls, lm: LM, *, skip_first: int = 1, max_norm: float | None = None) -> "TokenFilter":
        """The filter for an lm: its special tokens, BOS and separator are dropped."""
        added = {lm.separator_id} if lm.bos_id is None else {lm.separator_id, lm.bos_id}
        return cls(frozenset(lm.special_ids | added), skip_first, max_norm)

    def keep(self, tokens: Int64[Tensor, "batch pos"], x: Float[Tensor, "batch pos d_in"]) -> Bool[Tensor, "batch pos"]:
        """True where a token counts."""
        specials = torch.tensor(sorted(self.special_ids), dtype=tokens.dtype, device=tokens.device)
        kept = ~torch.isin(tokens, specials)
        kept[:, : self.skip_first] = False
        kept = kept.to(x.device)
        if self.max_norm is not None:
            kept &= x.float().norm(dim=-1) <= self.max_norm
        return kept

    def to_dict(self) -> dict[str, Any]:
        """The filter as json holds it."""
        return {"special_ids": sorted(self.special_ids), "skip_first": self.skip_first, "max_norm": self.max_norm}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "TokenFilter":
        """The filter that `to_dict` wrote."""
        return cls(frozenset(value["special_ids"]), value["skip_first"], value["max_norm"])

    @classmethod
    def read(cls, path: Path, run: Path) -> "TokenFilter":
        """The filter that the run in folder `run` measured and wrote to `path`.

        Raises:
            DamagedError: the file is missing or damaged.
        """
        with damage(path, ANEW):
            stored = read_checked_json(path, ANEW.again, within=run)["filter"]
            for number in (*stored["special_ids"], stored["skip_first"]):
                if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**31:
                    raise ValueError(f"{number!r:.100} is no id and no position")
            if isinstance(stored["max_norm"], bool):
                raise ValueError("max_norm is no number")
            try:
                return cls.from_dict(stored)
            except ConfigError as error:
                raise ANEW.of(f"{path} is damaged ({error})") from None


class Chunk(NamedTuple):
    """The rows of a few contexts that the filter keeps, in reading order."""

    x: Float[Tensor, "tokens d_in"]
    documents: Int64[Tensor, " tokens"]
    positions: Int64[Tensor, " tokens"]
    contexts: Int64[Tensor, " tokens"]
    "Number of the context in its split."


def rows_of(batch: TokenBatch, x: Float[Tensor, "batch pos d_in"], token_filter: TokenFilter) -> Chunk:
    """The rows of x that count, contexts numbered from 0 in the batch; x as the lm gives it, so finite."""
    kept = token_filter.keep(batch.tokens, x)
    rows, kept = x[kept], kept.cpu()
    documents = batch.documents[kept]
    assert bool((documents >= 0).all()), "a BOS or separator passed the filter"
    return Chunk(rows, documents, batch.positions[kept], kept.nonzero()[:, 0])


@torch.no_grad()
def sample_rows(
    lm: LM, hook_point: HookPoint, packed: PackedTokens, *, token_filter: TokenFilter, n_contexts: int
) -> Float[Tensor, "tokens d_in"]:
    """The rows that count of `n_contexts` contexts spread evenly over the split, so that every part of it has a say."""
    found: list[Tensor] = []
    for batch in _batches(packed, spread(packed.n_contexts, n_contexts), 16):
        x = lm.activations(batch.tokens.to(lm.device), hook_point)
        found.append(rows_of(batch, x, token_filter).x.cpu())
    return torch.cat(found)


def spread(n_available: int, n_wanted: int) -> list[int]:
    """min(n_wanted, n_available) indices below n_available, at even distances."""
    n = min(n_wanted, n_available)
    return [index * n_available // n for index in range(n)]


def median_norm(rows: Float[Tensor, "tokens d_in"], *, corpus: str) -> float:
    """Median length of rows.

    Raises:
        CorpusError: there is none.
    """
    if len(rows) == 0:
        raise CorpusError(f"corpus {corpus!r}: no token counts, all are special or within skip_first; lower skip_first")
    return rows.norm(dim=-1).median().item()


class ActivationChunks:
    """The activations of one split, in chunks of some contexts; kept in a store or made anew, with equal values.

    Args:
        contexts_per_chunk: The last chunk may have fewer.
        contexts_per_batch: How many the lm sees at once; in bf16 the values depend on it, so it is part of the key.
    """

    def __init__(
        self,
        lm: LM,
        hook_point: HookPoint,
        *,
        packed: PackedTokens,
        token_filter: TokenFilter,
        contexts_per_chunk: int = 64,
        contexts_per_batch: int = 16,
    ) -> None:
        lm.check(hook_point)
        self.lm, self.hook_point, self.packed, self.token_filter = lm, hook_point, packed, token_filter
        self.contexts_per_chunk, self.contexts_per_batch = contexts_per_chunk, contexts_per_batch
        self.n_chunks = -(-packed.n_contexts // contexts_per_chunk)
        self.d_in, self.dtype = lm.d_model, lm.dtype
        self.precision: Precision = "exact"
        self._store: ChunkStore | None = None

    @property
    def key(self) -> str:
        """All that decides the values of the chunks, for the store."""
        parts = {
            "lm": self.lm.fingerprint,
            "dtype": self.lm.computation,
            "hook_point": str(self.hook_point),
            "tokens": self.packed.fingerprint,
            "filter": self.token_filter.to_dict(),
            "contexts": [self.contexts_per_chunk, self.contexts_per_batch],
            "columns": list(Chunk._fields),
        }
        if self.precision != "exact":
            parts["precision"] = self.precision
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def round_to(self, precision: Precision) -> None:
        """Round every x to `precision` from now on, kept or not, so that a store changes nothing."""
        assert self._store is None, "rounding is part of the key; choose it before the store"
        self.precision, self.dtype = precision, dtype_of(precision, dtype=self.lm.dtype)

    def remember(self, store: ChunkStore) -> None:
        """Read chunks from `store` from now on, and keep there what it lacks."""
        assert store.precision == self.precision, "the store keeps another precision"
        self._store = store

    @property
    def is_kept(self) -> bool:
        """Whether chunks are kept in a store."""
        return self._store is not None

    def harvest(self, observe: Callable[[int], None]) -> None:
        """Make and keep every chunk that the store lacks, calling `observe(1)` after each chunk.

        Nothing happens without a store, or where the store has no room for all: what does not stay is not made twice.
        """
        n_bytes = self.packed.n_tokens * self.d_in * bytes_per_value(self.precision, dtype=self.lm.dtype)
        if self._store is None or (self._store.max_bytes is not None and n_bytes > self._store.max_bytes):
            return
        for index in range(self.n_chunks):
            if not self._store.holds(index):
                self.chunk(index)
            observe(1)

    def chunk(self, index: int) -> Chunk:
        """Chunk number `index`, x in fp32."""
        if not 0 <= index < self.n_chunks:
            raise IndexError(f"chunk {index} of {self.n_chunks}")
        with span("activation cache"):
            kept = self._store.get(index) if self._store else None
        if kept is not None:
            return Chunk(unpack(kept), *(kept[name].long() for name in Chunk._fields[1:]))
        made = self._made(index)
        packed = pack(made.x, self.precision)
        rounded = made if self.precision == "exact" else made._replace(x=unpack(packed))
        if self._store:
            self._store.put(index, packed | {name: getattr(made, name).int() for name in Chunk._fields[1:]})
            if self.precision != "exact":
                self._store.note_rounding(fvu(made.x, rounded.x), n_tokens=len(made.x))
        return rounded

    @torch.no_grad()
    def _made(self, index: int) -> Chunk:
        first = index * self.contexts_per_chunk
        contexts = range(first, min(first + self.contexts_per_chunk, self.packed.n_contexts))
        parts: list[Chunk] = []
        for batch in _batches(self.packed, contexts, self.contexts_per_batch):
            with span("lm to the hook point"):
                x = self.lm.activations(batch.tokens.to(self.lm.device), self.hook_point)
                rows = rows_of(batch, x, self.token_filter)
            parts.append(rows._replace(contexts=rows.contexts + first))
            first += len(batch.tokens)
        return Chunk(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _batches(packed: PackedTokens, contexts: list[int] | range, size: int) -> Iterator[TokenBatch]:
    return (packed.batch(contexts[start : start + size]) for start in range(0, len(contexts), size))
