"""The mixing buffer: every row once an epoch, in a new order, and going on is the same as never having stopped."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.data.activations import Chunk
from fovea.data.shuffle import ChunkSource, MixingBuffer
from fovea.errors import ConfigError, CorpusError, ModelError, RunError


class Numbered:
    """Chunks of the given lengths, whose rows are numbered through: x = [number, -number], exact in fp32."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.n_chunks, self.d_in, self.dtype = lengths, len(lengths), 2, torch.float32
        self.n_chunks_made = 0

    def chunk(self, index: int) -> Chunk:
        self.n_chunks_made += 1
        numbers = torch.arange(self.lengths[index]) + sum(self.lengths[:index])
        return Chunk(torch.stack([numbers, -numbers], dim=1).float(), numbers, numbers * 2, numbers)


LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any)


def _numbers(buffer: MixingBuffer, n: int) -> list[int]:
    rows = buffer.next_batch(n)
    assert torch.equal(rows.x[:, 0].long(), rows.documents)
    assert torch.equal(-rows.x[:, 1].long() * 2, rows.positions)
    return rows.documents.tolist()


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, size=st.integers(2, 40), seed=st.integers(0, 99), batch=st.integers(1, 17))
def test_each_epoch_gives_every_row_exactly_once(lengths, size, seed, batch):
    buffer = MixingBuffer(Numbered(lengths), rows=size, seed=seed, max_epochs=3)
    given_out: list[int] = []
    while not buffer.exhausted:
        given_out += _numbers(buffer, batch)
    total = sum(lengths)
    assert buffer.n_rows_read == len(given_out) == 3 * total
    assert buffer.rows_per_epoch == total
    assert buffer.epoch == 3.0
    for epoch in range(3):
        assert sorted(given_out[epoch * total : (epoch + 1) * total]) == list(range(total))
    assert _numbers(buffer, batch) == []


@settings(max_examples=40, deadline=None)
@given(
    lengths=LENGTHS,
    size=st.integers(2, 40),
    before=st.lists(st.integers(1, 9), max_size=12),
    after=st.lists(st.integers(1, 9), min_size=1, max_size=12),
)
def test_going_on_from_a_state_equals_never_having_stopped(lengths, size, before, after):
    straight = MixingBuffer(Numbered(lengths), rows=size, seed=3)
    for n in before:
        straight.next_batch(n)
    state = straight.state_dict()
    resumed = MixingBuffer(Numbered(lengths), rows=size, seed=3)
    resumed.load_state_dict(state)
    assert resumed.epoch == straight.epoch
    for n in after:
        for one, other in zip(straight.next_batch(n), resumed.next_batch(n), strict=True):
            assert torch.equal(one, other)
    assert _same(straight.state_dict(), resumed.state_dict())


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    assert one.keys() == other.keys()
    return all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


@given(lengths=LENGTHS, size=st.integers(2, 30), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_the_rows_do_not_depend_on_the_sizes_in_which_they_are_asked_for(lengths, size, sizes):
    pieces, whole = (MixingBuffer(Numbered(lengths), rows=size, seed=1) for _ in range(2))
    assert [row for n in sizes for row in _numbers(pieces, n)] == _numbers(whole, sum(sizes))


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, size=st.integers(2, 40), batch=st.integers(1, 9), n_batches=st.integers(1, 30))
def test_no_more_rows_are_read_than_are_wanted(lengths, size, batch, n_batches):
    source, n_wanted, total = Numbered(lengths), batch * n_batches, sum(lengths)
    buffer = MixingBuffer(source, rows=size, seed=1)
    buffer.n_wanted = n_wanted
    given_out = [row for _ in range(n_batches) for row in _numbers(buffer, batch)]
    assert len(given_out) == n_wanted
    n_epochs = -(-n_wanted // total)
    for epoch in range(n_epochs):
        part = given_out[epoch * total : (epoch + 1) * total]
        assert len(set(part)) == len(part), "no row twice in an epoch"
    assert buffer._counts.n_in <= n_wanted - total * buffer._counts.n_epochs
    assert len(buffer._waiting) == 0
    with pytest.raises(AssertionError, match="more rows than were said to be wanted"):
        buffer.next_batch(1)


def test_chunks_that_would_not_be_given_out_are_not_made_and_the_rows_before_the_last_ones_are_the_same():
    sources = [Numbered([25] * 8), Numbered([25] * 8)]
    known, unknown = (MixingBuffer(source, rows=64, seed=0) for source in sources)
    known.n_wanted = 125
    assert _numbers(known, 64) == _numbers(unknown, 64)
    assert len(_numbers(known, 61)) == len(_numbers(unknown, 61))
    assert [source.n_chunks_made for source in sources] == [5, 7]


def test_epochs_and_seeds_differ_in_order_and_equal_seeds_agree():
    def epochs(seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        buffer = MixingBuffer(Numbered([25] * 8), rows=64, seed=seed)
        return tuple(_numbers(buffer, 200)), tuple(_numbers(buffer, 200))

    assert epochs(0) == epochs(0)
    assert len({*epochs(0), *epochs(1)}) == 4


def test_rows_of_many_chunks_are_mixed_in_each_batch():
    source = Numbered([100] * 50)
    buffer = MixingBuffer(source, rows=2000, seed=0)
    chunks = {row // 100 for row in _numbers(buffer, 200)}
    assert len(chunks) >= 15
    assert source.n_chunks_made <= 20, "no more is read than the buffer holds"
    means = [sum(_numbers(buffer, 200)) / 200 for _ in range(12)]
    assert max(means) - min(means) < 2500


def test_a_chunk_is_read_once_an_epoch():
    source = Numbered([7] * 9)
    buffer = MixingBuffer(source, rows=10, seed=0, max_epochs=2)
    while not buffer.exhausted:
        buffer.next_batch(4)
    assert source.n_chunks_made == 2 * 9


def test_the_epoch_grows_with_every_batch_and_is_exact_once_a_pass_is_done():
    buffer = MixingBuffer(Numbered([20] * 10), rows=50, seed=0)
    seen = [buffer.epoch]
    for _ in range(40):
        buffer.next_batch(10)
        seen.append(buffer.epoch)
    assert seen == sorted(seen)
    assert seen[20] == 1.0
    assert seen[25] == 1.25
    assert seen[40] == 2.0


def test_a_batch_may_span_epochs():
    buffer = MixingBuffer(Numbered([3, 4]), rows=100, seed=0)
    rows = _numbers(buffer, 70)
    assert sorted(rows) == sorted(list(range(7)) * 10)


def test_the_state_is_small_at_the_end_of_an_epoch_and_never_more_than_the_buffer():
    buffer = MixingBuffer(Numbered([20] * 4), rows=30, seed=0)
    for _ in range(8):
        buffer.next_batch(10)
        assert len(buffer.state_dict()["x"]) <= 30
    assert len(buffer.state_dict()["x"]) == 0


def test_bfloat16_rows_are_kept_in_bfloat16_and_given_in_float32():
    source = Numbered([9, 9])
    source.dtype = torch.bfloat16
    buffer = MixingBuffer(source, rows=8, seed=0)
    assert buffer.next_batch(5).x.dtype == torch.float32
    assert buffer.state_dict()["x"].dtype == torch.bfloat16


def test_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    MixingBuffer(Numbered([9, 9]), rows=8, seed=0).next_batch(12)
    assert torch.equal(before, torch.get_rng_state())


def test_a_state_of_another_buffer_is_refused():
    state = MixingBuffer(Numbered([9]), rows=8, seed=0).state_dict()
    for rows, seed in ((8, 1), (9, 0)):
        with pytest.raises(RunError, match="the saved buffer has"):
            MixingBuffer(Numbered([9]), rows=rows, seed=seed).load_state_dict(state)


class Faulty(Numbered):
    """A NaN in chunk 2."""

    def chunk(self, index: int) -> Chunk:
        chunk = super().chunk(index)
        if index == 2:
            chunk.x[1, 0] = float("nan")
        return chunk


def test_a_nan_is_refused_with_the_chunk_that_holds_it():
    buffer = MixingBuffer(Faulty([5] * 4), rows=100, seed=0)
    with pytest.raises(ModelError, match="1 of the 5 rows in chunk 2"):
        buffer.next_batch(1)


def test_what_can_not_work_is_refused():
    assert isinstance(Numbered([1]), ChunkSource)
    with pytest.raises(ConfigError, match="buffer rows = 1"):
        MixingBuffer(Numbered([5]), rows=1, seed=0)
    with pytest.raises(CorpusError, match="no chunk"):
        MixingBuffer(Numbered([]), rows=8, seed=0)
    with pytest.raises(CorpusError, match="no token of the corpus counts"):
        MixingBuffer(Numbered([0, 0]), rows=8, seed=0).next_batch(1)


def test_a_corpus_that_changes_between_epochs_is_noticed():
    source = Numbered([5, 5])
    buffer = MixingBuffer(source, rows=8, seed=0)
    buffer.next_batch(10)
    source.lengths[1] = 4
    with pytest.raises(RunError, match="9 rows now, 10 before"):
        buffer.next_batch(10)
