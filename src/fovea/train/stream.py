"""Batches of activations for all jobs: domain rows, general rows where a job wants them, and g(x) once.

    MixingBuffer(domain)  --\
                             >-- x, is_domain --> g(x), once --> Batch      one shard: a Stream
    MixingBuffer(general) --/

    shard 0, shard 1, ... --equal parts, in order--> Batch                  several: Shards

The shards decide the batches; which process holds which shard does not.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from fovea.data.shuffle import MixingBuffer
from fovea.methods.base import Batch
from fovea.profile import span
from fovea.ranks import ALONE, Ranks
from fovea.sae.frozen import FrozenSAE


@runtime_checkable
class Source(Protocol):
    """An endless source of batches, in shards of which this process holds some."""

    ranks: Ranks
    "The processes that hold the other shards."
    n_shards: int
    "Shards of all ranks together."

    @property
    def own(self) -> "Mapping[int, Stream]":
        """The shards that this process holds, by number."""
        ...

    def next(self) -> Batch:
        """The next rows of this process's shards, in fp32."""
        ...


class Stream:
    """One shard; its state is two buffers."""

    ranks = ALONE
    n_shards = 1

    def __init__(
        self,
        domain: MixingBuffer,
        general: MixingBuffer | None,
        frozen: FrozenSAE | None,
        *,
        n_domain: int,
        n_general: int,
    ) -> None:
        assert general is not None or n_general == 0, "general rows need a general buffer"
        self.domain, self.general, self.frozen = domain, general, frozen
        self.n_domain, self.n_general = n_domain, n_general

    @property
    def own(self) -> "Mapping[int, Stream]":
        """This one, the only shard."""
        return {0: self}

    def next(self) -> Batch:
        """The next rows, in fp32."""
        parts = [self.domain.next_batch(self.n_domain).x]
        if self.general is not None and self.n_general:
            parts.append(self.general.next_batch(self.n_general).x)
        x = torch.cat(parts) if len(parts) > 1 else parts[0]
        is_domain = torch.zeros(len(x), dtype=torch.bool, device="cpu")
        is_domain[: self.n_domain] = True
        # Part by part: the rounding of g(x) must not depend on which other rows are in the batch.
        with span("g(x)"):
            x_general = None if self.frozen is None else torch.cat([self.frozen.reconstruct(part) for part in parts])
        return Batch(x, x_general, is_domain)

    def state_dict(self) -> dict[str, Any]:
        """Both buffers: tensors, numbers and lists."""
        state = {f"domain.{name}": value for name, value in self.domain.state_dict().items()}
        if self.general is not None:
            state |= {f"general.{name}": value for name, value in self.general.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.domain.load_state_dict(_under("domain.", state))
        if self.general is not None:
            self.general.load_state_dict(_under("general.", state))


class Shards:
    """Several shards of a stream, of which this process holds some.

    Args:
        own: The shards of this process by number, ascending; every rank holds equally many.
        latents: Ranks that hold other latents of the same SAEs: they learn from each other's rows.
    """

    def __init__(self, own: Mapping[int, Stream], *, n_shards: int, ranks: Ranks, latents: Ranks = ALONE) -> None:
        assert len(own) * ranks.size == n_shards, "every rank holds equally many shards"
        self._own, self.n_shards, self.ranks, self._latents = own, n_shards, ranks, latents

    @property
    def own(self) -> Mapping[int, Stream]:
        """The shards of this process."""
        return self._own

    def next(self) -> Batch:
        """Equal parts of each shard, one after the other."""
        batches = [stream.next() for stream in self._own.values()]
        x = torch.cat([batch.x for batch in batches])
        generals = [batch.x_general for batch in batches if batch.x_general is not None]
        x_general = torch.cat(generals) if generals else None
        is_domain = torch.cat([batch.is_domain for batch in batches])
        n_own = len(batches) * self._latents.size
        if self._latents.size > 1:
            x = self._latents.gather(x).flatten(0, 1)
            x_general = None if x_general is None else self._latents.gather(x_general).flatten(0, 1)
            is_domain = is_domain.repeat(self._latents.size)
        return Batch(x, x_general, is_domain, n_own)


class Reading(NamedTuple):
    """How far one corpus has been read, over all shards."""

    n_rows: int
    epochs: float
    "Passes over the corpus; the mean over the shards."
    n_rows_once: float
    "Rows read for the first time."


def readings(source: Source) -> dict[str, Reading]:
    """How far each corpus has been read: "domain", and "general" where it is read."""
    found: dict[str, Reading] = {}
    for name in ("domain", "general"):
        buffers: Sequence[MixingBuffer | None] = [getattr(stream, name) for stream in source.own.values()]
        used = [buffer for buffer in buffers if buffer is not None and buffer.n_rows_read]
        rows = [float(buffer.n_rows_read) for buffer in used]
        once = [buffer.n_rows_read * min(1.0, 1.0 / buffer.epoch) for buffer in used]
        sums = [sum(rows), sum(buffer.epoch for buffer in used) / source.n_shards, sum(once)]
        n_rows, epochs, n_once = source.ranks.sum(torch.tensor(sums, dtype=torch.float64)).tolist()
        if n_rows:
            found[name] = Reading(int(n_rows), epochs, n_once)
    return found


def _under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
