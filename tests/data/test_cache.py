"""Activations that runs share: reused under an equal key alone, bounded, checked, and safe for two runs at once."""

import json
import logging
import os
import threading
from pathlib import Path

import pytest
import torch

from builders import texts, tiny_lm, tokenised
from fovea.data import cache
from fovea.data.activations import ActivationChunks, Chunk, TokenFilter
from fovea.data.cache import SharedCache
from fovea.data.precision import Precision
from fovea.data.tokens import PackedTokens
from fovea.errors import RunError
from fovea.lm.hookpoint import HookPoint
from fovea.lm.model import LM

LARGE = 10**9


class Counted(ActivationChunks):
    """Counts the chunks for which the lm ran."""

    n_made = 0

    def _made(self, index: int) -> Chunk:
        self.n_made += 1
        return super()._made(index)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> PackedTokens:
    return tokenised(tmp_path_factory.mktemp("corpus") / "a", tiny_lm(), documents=texts(30)).train


def _chunks(packed: PackedTokens, *, layer: int = 0, precision: Precision = "exact", **settings) -> Counted:
    lm = tiny_lm(seed=settings.get("seed", 0), dtype=settings.get("dtype", torch.float32))
    token_filter = TokenFilter.of(lm, max_norm=settings.get("max_norm"))
    chunks = Counted(
        lm,
        HookPoint(layer, "resid_post"),
        packed=packed,
        token_filter=token_filter,
        contexts_per_chunk=6,
        contexts_per_batch=4,
    )
    chunks.round_to(precision)
    return chunks


def _read(folder: Path, chunks: Counted, *, max_bytes: int = LARGE, name: str = "words") -> list[Chunk]:
    """All chunks as a run reads them that opens the cache anew."""
    SharedCache(folder, max_bytes=max_bytes).remember(chunks, name=name)
    return [chunks.chunk(index) for index in range(chunks.n_chunks)]


def _same(one: list[Chunk], other: list[Chunk]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_a_second_run_never_runs_the_lm_and_reads_the_same_bits_and_says_so(tmp_path: Path, packed, caplog):
    first, second = _chunks(packed), _chunks(packed)
    made = _read(tmp_path / "cache", first)
    assert first.n_made == first.n_chunks > 3
    with caplog.at_level(logging.INFO, "fovea"):
        again = _read(tmp_path / "cache", second)
    assert second.n_made == 0
    assert _same(made, again)
    assert f"{first.n_chunks} of {first.n_chunks} chunks are reused" in caplog.text


@pytest.mark.parametrize(
    "other",
    [{"layer": 1}, {"seed": 1}, {"max_norm": 5.0}, {"dtype": torch.bfloat16}, {"precision": "int8"}],
    ids=lambda settings: next(iter(settings)),
)
def test_another_hook_point_lm_filter_or_precision_reuses_nothing(tmp_path: Path, packed, other):
    _read(tmp_path, _chunks(packed))
    chunks = _chunks(packed, **other)
    plain = _chunks(packed, **other)
    found = _read(tmp_path, chunks)
    assert chunks.n_made == chunks.n_chunks
    assert _same(found, [plain.chunk(index) for index in range(plain.n_chunks)])


def test_activations_of_compiled_layers_have_a_key_of_their_own(packed):
    plain = _chunks(packed)
    keys = {}
    for compiled in (False, True):
        lm = LM(plain.lm.model, plain.lm.tokenizer, name="tiny-0", compiled=compiled)
        chunks = ActivationChunks(
            lm,
            plain.hook_point,
            packed=packed,
            token_filter=plain.token_filter,
            contexts_per_chunk=6,
            contexts_per_batch=4,
        )
        keys[compiled] = chunks.key
    assert keys[False] == plain.key != keys[True]


@pytest.mark.parametrize("context_size", [16, 24])
def test_another_corpus_or_context_size_reuses_nothing(tmp_path: Path, packed, context_size: int):
    _read(tmp_path / "cache", _chunks(packed))
    documents = texts(30 if context_size != 16 else 31)
    other = tokenised(tmp_path / "b", tiny_lm(), documents=documents, context_size=context_size).train
    chunks = _chunks(other)
    _read(tmp_path / "cache", chunks)
    assert chunks.n_made == chunks.n_chunks


@pytest.mark.parametrize("what", ["torch", "transformers", "cpu", "threads", "gpu"])
def test_another_machine_reuses_nothing(tmp_path: Path, packed, what: str, monkeypatch: pytest.MonkeyPatch):
    _read(tmp_path, _chunks(packed))
    elsewhere = cache.machine() | {what: "another"}
    monkeypatch.setattr(cache, "machine", lambda: elsewhere)
    chunks = _chunks(packed)
    _read(tmp_path, chunks)
    assert chunks.n_made == chunks.n_chunks


@pytest.mark.parametrize("harm", ["truncated", "tampered", "exchanged", "missing"])
def test_a_harmed_chunk_is_made_again_with_a_warning(tmp_path: Path, packed, harm: str, caplog):
    made = _read(tmp_path, _chunks(packed))
    path, other = sorted(tmp_path.glob("words-*/chunk-*"))[1:3]
    data = path.read_bytes()
    if harm == "truncated":
        path.write_bytes(data[:-10])
    elif harm == "tampered":
        path.write_bytes(data[:-10] + bytes(value ^ 1 for value in data[-10:]))
    elif harm == "missing":
        path.unlink()
    else:
        (tmp_path / "other").mkdir()
        alien = _chunks(packed, seed=1)
        _read(tmp_path / "other", alien)
        path.write_bytes(next(iter(sorted((tmp_path / "other").glob("words-*/" + other.name)))).read_bytes())
    chunks = _chunks(packed)
    with caplog.at_level(logging.WARNING, "fovea"):
        assert _same(made, _read(tmp_path, chunks))
    assert chunks.n_made == 1
    assert ("is damaged" in caplog.text) == (harm != "missing")
    last = _chunks(packed)
    _read(tmp_path, last)
    assert last.n_made == 0


def test_what_a_rounded_cache_loses_is_measured_written_and_said(tmp_path: Path, packed, caplog):
    exact = _chunks(packed)
    x = exact.chunk(0).x
    for precision, largest in (("bfloat16", 1e-4), ("int8", 1e-3)):
        chunks, uncached = _chunks(packed, precision=precision), _chunks(packed, precision=precision)
        with caplog.at_level(logging.WARNING, "fovea"):
            found = _read(tmp_path / precision, chunks)
        assert f"are kept in {precision}, not exactly" in caplog.text
        assert _same(found, [uncached.chunk(index) for index in range(uncached.n_chunks)]), "a cache changes nothing"
        again = _chunks(packed, precision=precision)
        assert _same(found, _read(tmp_path / precision, again))
        assert again.n_made == 0
        noted = json.loads(next((tmp_path / precision).glob("words-*/rounding.json")).read_text())
        error = (found[0].x.double() - x.double()).square().sum() / (x.double() - x.double().mean(dim=0)).square().sum()
        assert 0 < noted["fvu"] < largest
        assert noted["fvu"] == pytest.approx(error.item(), rel=1e-6)
        assert noted["n_tokens"] == len(x)
    sizes = {path.parent.name: path.stat().st_size for path in tmp_path.glob("*/words-*/chunk-000000*")}
    assert len(sizes) == 2


def _fills(folder: Path, packed: PackedTokens, *, layer: int, used: float, max_bytes: int) -> int:
    """Fill an entry, as a run that ended; the bytes that the cache then holds."""
    shared = SharedCache(folder, max_bytes=max_bytes)
    chunks = _chunks(packed, layer=layer)
    shared.remember(chunks, name=f"layer{layer}")
    for index in range(chunks.n_chunks):
        chunks.chunk(index)
    for path in folder.glob(f"layer{layer}-*/.used"):
        os.utime(path, (used, used))
    return shared.n_bytes


def test_a_full_cache_gives_up_the_entry_unused_the_longest_and_says_so(tmp_path: Path, packed, caplog):
    size = _fills(tmp_path, packed, layer=0, used=200.0, max_bytes=LARGE)
    both = _fills(tmp_path, packed, layer=1, used=100.0, max_bytes=LARGE)
    assert size < both < 2.2 * size
    with caplog.at_level(logging.WARNING, "fovea"):
        chunks = _chunks(packed, seed=1)
        _read(tmp_path, chunks, max_bytes=both)
    assert "is full" in caplog.text
    assert "layer1-" in caplog.text
    assert not list(tmp_path.glob("layer1-*"))
    assert list(tmp_path.glob("layer0-*"))
    assert SharedCache(tmp_path, max_bytes=both).n_bytes <= both
    again = _chunks(packed, seed=1)
    _read(tmp_path, again, max_bytes=both)
    assert again.n_made == 0


def test_an_entry_that_a_run_uses_is_never_given_up_and_the_refusal_is_said(tmp_path: Path, packed, caplog):
    size = _fills(tmp_path, packed, layer=0, used=100.0, max_bytes=LARGE)
    user = SharedCache(tmp_path, max_bytes=LARGE)
    held = _chunks(packed)
    user.remember(held, name="layer0")
    with caplog.at_level(logging.WARNING, "fovea"):
        chunks = _chunks(packed, seed=1)
        _read(tmp_path, chunks, max_bytes=int(1.3 * size))
    assert "no more activations are kept" in caplog.text
    assert [held.chunk(index) for index in range(held.n_chunks)]
    assert held.n_made == 0
    assert user.n_bytes <= 1.3 * size


def test_two_runs_may_fill_and_read_one_cache_at_once(tmp_path: Path, packed):
    plain = [_chunks(packed).chunk(index) for index in range(_chunks(packed).n_chunks)]
    runs = [_chunks(packed) for _ in range(3)]
    found: dict[int, list[Chunk]] = {}
    start = threading.Barrier(len(runs))

    def work(number: int) -> None:
        start.wait()
        found[number] = _read(tmp_path, runs[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(_same(found[number], plain) for number in range(len(runs)))
    assert not list(tmp_path.rglob("*.partial"))
    last = _chunks(packed)
    assert _same(_read(tmp_path, last), plain)
    assert last.n_made == 0


def test_a_half_written_file_of_a_dead_run_goes_and_that_of_a_living_one_stays(tmp_path: Path, packed):
    _read(tmp_path, _chunks(packed))
    entry = next(tmp_path.glob("words-*"))
    dead, living = entry / ".chunk-000001.safetensors.77.partial", entry / ".chunk-000002.safetensors.78.partial"
    for path in (dead, living):
        path.write_bytes(b"half")
    os.utime(dead, (0, 0))
    SharedCache(tmp_path, max_bytes=LARGE).remember(_chunks(packed), name="words")
    assert not dead.exists()
    assert living.exists()


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match=r"not a cache \(it holds 'thesis.txt'\)"):
        SharedCache(tmp_path, max_bytes=LARGE)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used"):
        SharedCache(tmp_path / "file", max_bytes=LARGE)
