"""No token is seen twice or lost: every trained row is followed, over ranks, shards and epochs."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fovea.data.activations import Chunk
from fovea.data.shards import TokenShard
from fovea.data.shuffle import MixingBuffer
from fovea.data.tokens import PackedTokens
from fovea.ranks import Ranks
from fovea.train.stream import Shards, Stream
from tests.builders import texts, tiny_lm, tokenised

CONTEXTS_PER_CHUNK = 3


class One(Ranks):
    """One of so many ranks, which is never asked for an exchange."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


class Named:
    """Chunks of a split whose rows say who they are: x is [document, position, place in the text]."""

    d_in, dtype = 3, torch.float32

    def __init__(self, packed: PackedTokens, contexts: list[int]) -> None:
        self.packed, self.contexts = packed, contexts
        self.n_chunks = -(-packed.n_contexts // CONTEXTS_PER_CHUNK)

    def chunk(self, index: int) -> Chunk:
        first = index * CONTEXTS_PER_CHUNK
        own = range(first, min(first + CONTEXTS_PER_CHUNK, self.packed.n_contexts))
        batch = self.packed.batch(own)
        context = torch.tensor([self.contexts[number] for number in own])[:, None].expand_as(batch.documents)
        place = context * self.packed.context_size + torch.arange(self.packed.context_size)
        counts = batch.documents >= 0
        rows = torch.stack([batch.documents, batch.positions, place])[:, counts].T.float()
        return Chunk(rows, batch.documents[counts], batch.positions[counts], context[counts])


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> PackedTokens:
    return tokenised(tmp_path_factory.mktemp("corpus") / "a", tiny_lm(), documents=texts(14, n_words=25)).train


def shard_of(packed: PackedTokens, shard: int, n_shards: int) -> Named:
    contexts = list(range(packed.n_contexts))[shard::n_shards]
    return Named(packed if n_shards == 1 else TokenShard(packed, shard, n_shards), contexts)


def all_rows(chunks: Named) -> list[tuple[float, ...]]:
    return sorted(tuple(row.tolist()) for index in range(chunks.n_chunks) for row in chunks.chunk(index).x)


def trained_rows(
    n_ranks: int, buffer_of: Callable[[int], MixingBuffer], *, n_shards: int, n_each: int, n_steps: int
) -> Tensor:
    """[steps shards rows 3] what the batches of all ranks hold."""
    parts: list[Tensor] = []
    for rank in range(n_ranks):
        n_own = n_shards // n_ranks
        streams = {
            shard: Stream(buffer_of(shard), None, None, n_domain=n_each, n_general=0)
            for shard in range(rank * n_own, (rank + 1) * n_own)
        }
        source = streams[0] if n_shards == 1 else Shards(streams, n_shards=n_shards, ranks=One(rank, n_ranks))
        parts.append(torch.stack([source.next().x.view(n_own, n_each, 3) for _ in range(n_steps)]))
    return torch.cat(parts, dim=1)


@settings(max_examples=10, deadline=None)
@given(
    n_shards=st.sampled_from([1, 2, 3, 4, 6]),
    n_each=st.integers(7, 70),
    buffer_rows=st.integers(2, 300),
    n_epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
    n_ahead=st.integers(0, 2),
)
def test_every_epoch_of_a_shard_has_each_of_its_tokens_once(
    packed, n_shards, n_each, buffer_rows, n_epochs, seed, n_ahead
):
    shards = [shard_of(packed, shard, n_shards) for shard in range(n_shards)]
    wanted = [all_rows(chunks) for chunks in shards]
    everything = all_rows(shard_of(packed, 0, 1))
    assert sorted(row for rows in wanted for row in rows) == everything
    assert len(set(everything)) == len(everything) > 100
    n_steps = -(-n_epochs * max(map(len, wanted)) // n_each)

    def buffer_of(shard: int) -> MixingBuffer:
        return MixingBuffer(shards[shard], rows=buffer_rows, seed=seed + 2 * shard, n_ahead=n_ahead)

    found = [
        trained_rows(n_ranks, buffer_of, n_shards=n_shards, n_each=n_each, n_steps=n_steps)
        for n_ranks in range(1, n_shards + 1)
        if n_shards % n_ranks == 0
    ]
    assert all(torch.equal(other, found[0]) for other in found[1:]), "the ranks decide nothing"
    for shard, rows in enumerate(wanted):
        given = [tuple(row.tolist()) for row in found[0][:, shard].flatten(0, 1)]
        for epoch in range(n_epochs):
            assert sorted(given[epoch * len(rows) : (epoch + 1) * len(rows)]) == rows
