"""Mixing buffer: chunks of rows in, batches of mixed rows out, each row exactly once an epoch.

    chunks in an order drawn from (seed, epoch) --> buffer of `rows` rows --> half of it, in an order drawn from
                                                          ^                   (seed, number of the filling)
                                                          +--- the freed half is filled again

At the end of an epoch the buffer runs empty before the next epoch's first chunk is read, so an epoch is a permutation
of the corpus, exactly. Where it is known how many rows are wanted, no more are read. No generator lives on: every order
is drawn from a seed and a count; the counts are the state.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fovea.data.activations import Chunk
from fovea.data.ahead import Ahead
from fovea.errors import ConfigError, CorpusError, ModelError, RunError


@runtime_checkable
class ChunkSource(Protocol):
    """Rows by chunk; a chunk is a function of its index alone."""

    n_chunks: int
    d_in: int
    dtype: torch.dtype
    "A dtype that holds every x exactly."

    def chunk(self, index: int) -> Chunk:
        """Chunk number `index`."""
        ...


class Rows(NamedTuple):
    """Mixed rows; their order carries no meaning."""

    x: Float[Tensor, "tokens d_in"]
    documents: Int64[Tensor, " tokens"]
    positions: Int64[Tensor, " tokens"]


@dataclass
class _Counts:
    """How far reading and giving out have come; with the waiting rows, the whole state."""

    n_rows_read: int = 0
    "Rows given out since the start."
    n_epochs: int = 0
    "Epochs given out completely."
    n_fillings: int = 0
    n_in: int = 0
    "Rows of this epoch that have entered the buffer."
    n_out: int = 0
    "Rows of this epoch that have left it."
    next_chunk: int = 0
    "Where reading goes on: place in the epoch's order of chunks."
    next_row: int = 0
    "The same: row of that chunk."
    rows_per_epoch: int = -1
    "-1 until an epoch has been read to its end."


class MixingBuffer:
    """Batches of rows, mixed within about `rows` rows; storage is allocated once.

    Args:
        rows: Size of the buffer; a corpus with fewer rows is mixed as a whole.
        max_epochs: End after so many; None for no end.
        device: Where the buffer lies.
        n_ahead: Chunks made in the background before they are read; changes no row.

    Raises:
        ConfigError: rows is below 2.
        CorpusError: the chunks hold no row.
        ModelError: a row is NaN or infinite.
    """

    def __init__(
        self,
        chunks: ChunkSource,
        *,
        rows: int,
        seed: int,
        max_epochs: int | None = None,
        device: str | torch.device = "cpu",
        n_ahead: int = 0,
    ) -> None:
        if rows < 2:
            raise ConfigError(f"buffer rows = {rows}, but mixing needs at least 2; 65536 is usual")
        if chunks.n_chunks < 1:
            raise CorpusError("there is no chunk of activations to read; give a corpus of at least one context")
        self.rows, self.seed, self.max_epochs, self._chunks = rows, seed, max_epochs, chunks
        self.n_wanted: int | None = None
        "Rows that will be asked for in all, where that is known: none beyond is read."
        self._x = torch.empty(rows, chunks.d_in, dtype=chunks.dtype, device=device)
        self._documents = torch.empty(rows, dtype=torch.long)
        self._positions = torch.empty(rows, dtype=torch.long)
        self._waiting = torch.arange(0)
        "Slots that hold rows, in the order in which these will leave."
        self._counts = _Counts()
        self._current: Chunk | None = None
        "The chunk being read."
        self._ahead = Ahead(chunks.chunk, n_ahead=n_ahead)

    @property
    def n_rows_read(self) -> int:
        """Rows given out since the start."""
        return self._counts.n_rows_read

    @property
    def exhausted(self) -> bool:
        """True when max_epochs are complete."""
        return self.max_epochs is not None and self._counts.n_epochs >= self.max_epochs

    @property
    def rows_per_epoch(self) -> int | None:
        """Rows that the filter keeps of the whole corpus; None until all chunks have been read once."""
        return None if self._counts.rows_per_epoch < 0 else self._counts.rows_per_epoch

    @property
    def epoch(self) -> float:
        """Epochs given out: the complete ones and the share of the present one.

        Exact once `rows_per_epoch` is known; before, the chunks not yet read are taken to be as full as those read.
        """
        counts = self._counts
        if counts.n_out == 0:
            return float(counts.n_epochs)
        if counts.rows_per_epoch >= 0:
            return counts.n_epochs + counts.n_out / counts.rows_per_epoch
        n_chunks_read = counts.next_chunk + (counts.next_row > 0)
        return counts.n_out / counts.n_in * n_chunks_read / self._chunks.n_chunks

    def next_batch(self, n: int) -> Rows:
        """The next n rows; fewer only where max_epochs end. A batch may span two epochs.

        The sequence of rows does not depend on the sizes in which it is asked for.
        """
        assert self.n_wanted is None or self.n_rows_read + n <= self.n_wanted, "more rows than were said to be wanted"
        parts: list[Rows] = []
        while n > 0 and not self.exhausted:
            if self._n_ready() <= 0:
                self._fill()
            n_now = min(n, self._n_ready())
            parts.append(self._rows_in(self._waiting[:n_now]))
            self._waiting = self._waiting[n_now:]
            self._count_out(n_now)
            n -= n_now
        return Rows(*map(torch.cat, zip(*(parts or [self._rows_in(self._waiting[:0])]), strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the rows to come: those that wait, in their order, and the counts."""
        rows = self._rows_in(self._waiting)
        tensors = {"x": rows.x.to(self._x.dtype).cpu(), "documents": rows.documents, "positions": rows.positions}
        return {**tensors, **asdict(self._counts), "seed": self.seed, "rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, to the bit.

        Raises:
            RunError: the state is of a buffer with another seed, size or width.
        """
        own = {"seed": self.seed, "rows": self.rows, "d_in": self._x.shape[1], "dtype": self._x.dtype}
        theirs = {"seed": state["seed"], "rows": state["rows"], "d_in": state["x"].shape[1], "dtype": state["x"].dtype}
        if own != theirs:
            raise RunError(
                f"the saved buffer has {theirs}, this one {own}; resume with the settings of the run's start"
            )
        n_waiting = len(state["x"])
        self._x[:n_waiting] = state["x"].to(self._x.device)
        self._documents[:n_waiting] = state["documents"]
        self._positions[:n_waiting] = state["positions"]
        self._waiting = torch.arange(n_waiting)
        self._counts = _Counts(**{field.name: state[field.name] for field in fields(_Counts)})
        self._current = None

    @property
    def _all_in(self) -> bool:
        """True when the present epoch's last row is in the buffer."""
        return self._counts.next_chunk == self._chunks.n_chunks

    @property
    def _is_enough(self) -> bool:
        """True when every row that is wanted has been read."""
        return self.n_wanted is not None and self.n_rows_read + len(self._waiting) >= self.n_wanted

    def _n_ready(self) -> int:
        """Rows that may leave before the buffer is filled again: half of it, or all if no more come in this epoch."""
        return len(self._waiting) - (0 if self._all_in or self._is_enough else self.rows // 2)

    def _fill(self) -> None:
        """Put the next rows into the free slots and draw the order of all that wait."""
        is_free = torch.ones(self.rows, dtype=torch.bool)
        is_free[self._waiting] = False
        free = is_free.nonzero().squeeze(1)
        if self.n_wanted is not None:
            free = free[: self.n_wanted - self.n_rows_read - len(self._waiting)]
        n_new = 0
        while n_new < len(free) and not self._all_in:
            n_new += self._read_into(free[n_new:])
        self._counts.n_in += n_new
        if self._all_in:
            self._check_epoch()
        slots = torch.cat([self._waiting, free[:n_new]])
        self._waiting = slots[_permutation(len(slots), f"{self.seed} filling {self._counts.n_fillings}")]
        self._counts.n_fillings += 1

    def _read_into(self, slots: Int64[Tensor, " slots"]) -> int:
        """Copy rows of the present chunk into slots, as many as both allow; the number copied."""
        counts = self._counts
        chunk = self._current if self._current is not None else self._read_chunk()
        n = min(len(slots), len(chunk.x) - counts.next_row)
        rows = slice(counts.next_row, counts.next_row + n)
        self._x[slots[:n].to(self._x.device)] = chunk.x[rows].to(self._x.device, self._x.dtype)
        self._documents[slots[:n]] = chunk.documents[rows]
        self._positions[slots[:n]] = chunk.positions[rows]
        counts.next_row += n
        self._current = chunk
        if counts.next_row == len(chunk.x):
            counts.next_chunk, counts.next_row, self._current = counts.next_chunk + 1, 0, None
        return n

    def _read_chunk(self) -> Chunk:
        index, *then = self._next_chunks(1 + self._ahead.n_ahead)
        chunk = self._ahead.chunk(index, then)
        if not bool(chunk.x.isfinite().all()):
            n_bad = int((~chunk.x.isfinite().all(dim=-1)).sum())
            raise ModelError(
                f"{n_bad} of the {len(chunk.x)} rows in chunk {index} are NaN or infinite; check the lm's "
                "weights, or use "
                "float32"
            )
        return chunk

    def _next_chunks(self, n: int) -> list[int]:
        """The next n chunks to be read, past the end of the epoch too; fewer where max_epochs end."""
        epoch, found = self._counts.n_epochs, list[int]()
        start = self._counts.next_chunk
        while len(found) < n and (self.max_epochs is None or epoch < self.max_epochs):
            order = _permutation(self._chunks.n_chunks, f"{self.seed} chunks of epoch {epoch}")
            found += order[start : start + n - len(found)].tolist()
            epoch, start = epoch + 1, 0
        return found

    def _check_epoch(self) -> None:
        """The epoch has rows, and as many as every epoch before it."""
        counts = self._counts
        if counts.n_in == 0:
            raise CorpusError("no token of the corpus counts: all are special, massive or within skip_first; add text")
        if counts.rows_per_epoch not in (-1, counts.n_in):
            raise RunError(
                f"the corpus has {counts.n_in} rows now, {counts.rows_per_epoch} before; its files have changed"
            )
        counts.rows_per_epoch = counts.n_in

    def _count_out(self, n: int) -> None:
        counts = self._counts
        counts.n_rows_read += n
        counts.n_out += n
        if self._all_in and len(self._waiting) == 0:
            counts.n_epochs += 1
            counts.n_in = counts.n_out = counts.next_chunk = counts.next_row = 0

    def _rows_in(self, slots: Int64[Tensor, " slots"]) -> Rows:
        x = self._x[slots.to(self._x.device)].float()
        return Rows(x, self._documents[slots], self._positions[slots])


def _permutation(n: int, purpose: str) -> Int64[Tensor, " n"]:
    """A permutation of n that depends on `purpose` alone."""
    seed = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8]) >> 1
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
