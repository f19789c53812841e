"""Rows of activations: one filter, chunks that are a function of their index, and a store that changes no value."""

import json
import logging
from pathlib import Path

import pytest
import torch

from builders import D_MODEL, texts, tiny_lm, tokenised
from fovea.data.activations import ActivationChunks, TokenFilter, median_norm, rows_of, sample_rows
from fovea.data.shuffle import MixingBuffer
from fovea.data.store import ChunkStore
from fovea.data.tokens import PackedTokens, TokenBatch
from fovea.errors import ConfigError, CorpusError, ModelError
from fovea.lm.hookpoint import HookPoint

HOOK = HookPoint(0, "resid_post")


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> PackedTokens:
    return tokenised(tmp_path_factory.mktemp("corpus") / "a", tiny_lm(), documents=texts(30)).train


def _chunks(packed: PackedTokens, *, dtype=torch.float32, max_norm=None, contexts_per_chunk=6) -> ActivationChunks:
    lm = tiny_lm(dtype=dtype)
    token_filter = TokenFilter.of(lm, max_norm=max_norm)
    return ActivationChunks(
        lm, HOOK, packed=packed, token_filter=token_filter, contexts_per_chunk=contexts_per_chunk, contexts_per_batch=4
    )


def test_the_filter_drops_special_tokens_first_positions_and_massive_norms_and_nothing_else():
    tokens = torch.tensor([[5, 6, 0, 7, 1, 8], [0, 9, 9, 9, 9, 9]])
    x = torch.ones(2, 6, 4)
    x[1, 3] = 100.0
    keep = TokenFilter(frozenset({0, 1}), 2, 50.0).keep(tokens, x)
    assert keep.int().tolist() == [[0, 0, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]]
    assert TokenFilter(frozenset(), 0, None).keep(tokens, x).all()


def test_a_filter_survives_json():
    plain, full = TokenFilter(frozenset({3, 1})), TokenFilter(frozenset({0}), 4, 12.5)
    for token_filter in (plain, full):
        assert TokenFilter.from_dict(json.loads(json.dumps(token_filter.to_dict()))) == token_filter


@pytest.mark.parametrize(("field", "value"), [("skip_first", -1), ("max_norm", 0.0), ("max_norm", float("inf"))])
def test_a_filter_that_makes_no_sense_is_refused(field: str, value: float):
    with pytest.raises(ConfigError, match=f"{field} = "):
        TokenFilter(frozenset(), **{field: value})


def test_chunks_hold_each_row_that_counts_once_with_its_document_and_position(packed: PackedTokens):
    chunks = _chunks(packed)
    whole = packed.batch(range(packed.n_contexts))
    x = chunks.lm.activations(whole.tokens, HOOK)
    expected = rows_of(whole, x, chunks.token_filter)
    found = [torch.cat(column) for column in zip(*map(chunks.chunk, range(chunks.n_chunks)), strict=True)]
    torch.testing.assert_close(found[0], expected.x)
    assert torch.equal(found[1], expected.documents)
    assert torch.equal(found[2], expected.positions)
    assert torch.equal(found[3], expected.contexts)
    assert (found[1] >= 0).all()
    assert (found[2] >= 1).all()
    assert chunks.n_chunks == -(-packed.n_contexts // 6)
    with pytest.raises(IndexError):
        chunks.chunk(chunks.n_chunks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_chunk_is_the_same_bits_in_any_order_and_from_the_store(tmp_path: Path, packed: PackedTokens, dtype):
    plain, stored = _chunks(packed, dtype=dtype), _chunks(packed, dtype=dtype)
    stored.remember(ChunkStore(tmp_path / "s", key=stored.key, dtype=dtype))
    order = [2, 0, 1, 2, 0]
    first = {index: plain.chunk(index) for index in range(3)}
    for index in order:
        for one, other in zip(first[index], stored.chunk(index), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
    assert first[0].x.dtype == torch.float32
    assert len(list((tmp_path / "s").glob("chunk-*"))) == 3


def test_chunks_can_be_trained_on(packed: PackedTokens):
    weight = torch.zeros(D_MODEL, 3, requires_grad=True)
    (_chunks(packed).chunk(0).x @ weight).square().sum().backward()
    assert weight.grad is not None


def test_a_damaged_stored_chunk_is_computed_again(tmp_path: Path, packed: PackedTokens, caplog):
    chunks = _chunks(packed)
    chunks.remember(ChunkStore(tmp_path, key=chunks.key, dtype=torch.float32))
    before = chunks.chunk(1)
    path = tmp_path / "chunk-000001.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING, "fovea"):
        after = chunks.chunk(1)
    assert torch.equal(before.x, after.x)
    assert "is damaged" in caplog.text
    caplog.clear()
    assert torch.equal(before.x, chunks.chunk(1).x)
    assert not caplog.text


def test_the_key_changes_with_everything_that_changes_the_values(packed: PackedTokens, tmp_path: Path):
    other = tokenised(tmp_path / "b", tiny_lm(), documents=texts(31)).train
    lm = tiny_lm()
    plain = TokenFilter.of(lm)
    variants = [
        _chunks(packed),
        _chunks(packed, dtype=torch.bfloat16),
        _chunks(packed, max_norm=5.0),
        _chunks(packed, contexts_per_chunk=5),
        _chunks(other),
        ActivationChunks(lm, HookPoint(1, "resid_post"), packed=packed, token_filter=plain, contexts_per_chunk=6),
        ActivationChunks(tiny_lm(seed=1), HOOK, packed=packed, token_filter=plain, contexts_per_chunk=6),
    ]
    assert len({chunks.key for chunks in variants}) == len(variants)
    assert _chunks(packed).key == variants[0].key


def test_the_measured_norm_is_the_median_over_rows_that_count(packed: PackedTokens):
    chunks = _chunks(packed)
    norms = torch.cat([chunks.chunk(index).x for index in range(chunks.n_chunks)]).norm(dim=-1)

    def measured(token_filter: TokenFilter, n_contexts: int) -> float:
        rows = sample_rows(chunks.lm, HOOK, packed, token_filter=token_filter, n_contexts=n_contexts)
        return median_norm(rows, corpus="made")

    whole = measured(chunks.token_filter, packed.n_contexts + 5)
    assert whole == pytest.approx(norms.median().item(), rel=1e-5)
    assert measured(chunks.token_filter, 4) == pytest.approx(whole, rel=0.3)
    with pytest.raises(CorpusError, match="no token counts"):
        measured(TokenFilter(frozenset(), 99), 64)


def test_a_layer_out_of_range_is_refused_before_anything_runs(packed: PackedTokens):
    with pytest.raises(ModelError, match="layer"):
        ActivationChunks(tiny_lm(), HookPoint(7, "resid_post"), packed=packed, token_filter=TokenFilter(frozenset()))


def test_evaluation_gets_the_same_rows_from_a_prefix(packed: PackedTokens):
    chunks = _chunks(packed, contexts_per_chunk=4)
    batch: TokenBatch = packed.batch(range(4))
    prefix = chunks.lm.prefix(batch.tokens, HOOK)
    assert torch.equal(rows_of(batch, prefix.x, chunks.token_filter).x, chunks.chunk(0).x)


def test_a_mixing_buffer_gives_every_row_of_the_corpus_once(packed: PackedTokens):
    chunks = _chunks(packed)
    rows = MixingBuffer(chunks, rows=50, seed=0, max_epochs=1).next_batch(10**6)
    x = torch.cat([chunks.chunk(index).x for index in range(chunks.n_chunks)])
    assert rows.x.shape == x.shape
    assert torch.equal(rows.x.sort(dim=0).values, x.sort(dim=0).values)
