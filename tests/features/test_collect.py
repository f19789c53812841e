"""Collecting evidence, against a plain dense count of everything, and whatever the order of reading."""

import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.features import cofiring
from fovea.features.cofiring import TokenSample, count_pairs
from fovea.features.collect import SAMPLE, WITH_CONTEXT, Firings, Gathered, Gatherer
from fovea.features.hashing import AROUND, firing_keys, window_hashes
from fovea.features.histogram import Histograms, rebinned

SIZE = 12
"Tokens of a context."


class Text(NamedTuple):
    """Made-up latents of whole contexts."""

    latents: np.ndarray
    "[contexts pos d_sae], mostly 0."
    tokens: np.ndarray

    def firings(self, contexts: np.ndarray) -> Firings:
        """All firings in these contexts, as `gather` passes them on."""
        latent, context, position = np.nonzero(np.moveaxis(self.latents[contexts], 2, 0))
        location = contexts[context] * SIZE + position
        order = np.lexsort((location, latent))
        value = self.latents[contexts[context], position, latent]
        return Firings(latent[order], location[order], value[order])


def made(n_contexts: int, *, d_sae: int = 7, seed: int = 0, density: float = 0.15, n_words: int = 3) -> Text:
    draw = np.random.default_rng(seed)
    shape = (n_contexts, SIZE, d_sae)
    # Few different values, so that ties are common; latent 0 never fires, the last one nearly always.
    values = draw.integers(1, 9, shape).astype(np.float32) / 4
    share = np.linspace(0, density, d_sae)
    share[-1] = 0.9
    return Text(np.where(draw.random(shape) < share, values, 0), draw.integers(0, n_words, shape[:2]).astype(np.uint32))


def gathered(text: Text, batches: list[np.ndarray], *, n_top: int = 4) -> Gathered:
    hashes = window_hashes(text.tokens).reshape(-1)
    d_sae = text.latents.shape[2]
    gatherer = Gatherer(d_sae, n_top=n_top, n_tokens=text.tokens.size, context_size=SIZE)
    for batch in batches:
        gatherer.add(text.firings(np.sort(batch)), lambda locations: hashes[locations])
    return gatherer.result()


def same(first: Gathered, second: Gathered) -> None:
    for name, a, b in zip(Gathered._fields, first, second, strict=True):
        for x, y in zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]:
            np.testing.assert_array_equal(x, y, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(n_contexts=st.integers(1, 40), seed=st.integers(0, 2**31), sizes=st.lists(st.integers(1, 9), min_size=1))
def test_the_result_is_the_same_for_every_size_and_order_of_batches(n_contexts, seed, sizes):
    text = made(n_contexts, seed=seed)
    whole = gathered(text, [np.arange(n_contexts)])
    order = np.random.default_rng(seed).permutation(n_contexts)
    batches = [part for part in np.split(order, np.minimum(np.cumsum(sizes), n_contexts)) if len(part)]
    same(whole, gathered(text, batches))


def test_counts_maxima_and_the_sample_are_those_of_a_dense_count():
    text = made(60, density=0.6)
    found = gathered(text, np.array_split(np.arange(60), 7))
    flat = text.latents.reshape(-1, 7)
    np.testing.assert_array_equal(found.n_fired, (flat > 0).sum(axis=0))
    np.testing.assert_array_equal(found.maxima, flat.max(axis=0))
    for latent in range(7):
        fired = np.flatnonzero(flat[:, latent])
        expected = fired[np.argsort(firing_keys(fired, np.full(len(fired), latent)))][:SAMPLE]
        own = found.sample.latent == latent
        np.testing.assert_array_equal(found.sample.location[own], expected)
        np.testing.assert_array_equal(found.sample.value[own], flat[expected, latent])
        assert (found.sample.lengths[own][:WITH_CONTEXT] > 0).all()
        assert (found.sample.lengths[own][WITH_CONTEXT:] == 0).all()


def test_the_top_examples_are_the_largest_of_their_contexts_with_distinct_windows():
    text = made(80, n_words=2, density=0.3)
    found = gathered(text, np.array_split(np.arange(80), 9), n_top=5).top
    hashes = window_hashes(text.tokens)
    for latent in range(7):
        peaks = [
            (-text.latents[c, :, latent].max(), c * SIZE + text.latents[c, :, latent].argmax())
            for c in range(80)
            if text.latents[c, :, latent].any()
        ]
        expected, seen = [], set()
        for _, location in sorted(peaks):
            window = hashes.reshape(-1)[location]
            if window not in seen:
                expected.append(location)
                seen.add(window)
        np.testing.assert_array_equal(found.location[found.latent == latent], expected[:5])


def test_an_example_carries_every_activation_of_its_context():
    text = made(30)
    top = gathered(text, [np.arange(30)]).top
    starts = np.cumsum(top.lengths) - top.lengths
    for i, (latent, location) in enumerate(zip(top.latent, top.location, strict=True)):
        dense = np.zeros(SIZE, np.float32)
        entries = slice(starts[i], starts[i] + top.lengths[i])
        dense[top.positions[entries]] = top.values[entries]
        np.testing.assert_array_equal(dense, text.latents[location // SIZE, :, latent])


def test_memory_does_not_grow_with_the_number_of_tokens():
    held = []
    for n_contexts in (400, 3200):
        text = made(n_contexts, density=0.3)
        gatherer = Gatherer(7, n_top=4, n_tokens=text.tokens.size, context_size=SIZE)
        hashes = window_hashes(text.tokens).reshape(-1)
        most = 0
        for batch in np.array_split(np.arange(n_contexts), n_contexts // 20):
            gatherer.add(text.firings(batch), lambda locations, hashes=hashes: hashes[locations])
            most = max(most, gatherer.top.n_held + gatherer.sample.n_held)
        held.append(most)
    assert held[1] < 1.25 * held[0], f"eight times the text: {held} entries held at most"
    bound = 7 * (4 + SAMPLE + (4 + WITH_CONTEXT) * SIZE)
    assert held[1] < 3 * bound


def test_bytes_in_memory_do_not_grow_with_the_number_of_tokens(monkeypatch):
    """All that is kept between chunks: counts, histograms, both samples with their contexts, and the sampled tokens."""
    monkeypatch.setattr(cofiring, "N_TOKENS", 240)
    n_chunks, n_contexts = 60, 100
    gatherer = Gatherer(7, n_top=4, n_tokens=n_chunks * n_contexts * SIZE, context_size=SIZE)
    held = []
    tracemalloc.start()
    try:
        for chunk in range(n_chunks):
            text = made(n_contexts, density=0.8, seed=chunk)
            hashes, first = window_hashes(text.tokens).reshape(-1), chunk * n_contexts * SIZE
            firings = text.firings(np.arange(n_contexts))
            firings = firings._replace(location=firings.location + first)
            gatherer.add(firings, lambda locations, hashes=hashes, first=first: hashes[locations - first])
            del text, firings, hashes
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    early = max(held[: n_chunks // 10])
    assert max(held) < 2 * early, f"{early} bytes at 10% of the tokens, {max(held)} at most"


def test_equal_windows_have_equal_hashes_and_the_ends_of_a_context_count():
    tokens = np.arange(200, dtype=np.uint32).reshape(2, 100) % 50
    hashes = window_hashes(tokens)
    assert hashes[0, 30] == hashes[0, 60 + 20] == hashes[1, 30]
    assert hashes[0, AROUND - 1] != hashes[0, 50 + AROUND - 1], "cut off at the start of the context"


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(2**-20, 2**20, width=32), min_size=1, max_size=60),
    order=st.randoms(),
    cut=st.integers(0, 60),
)
def test_histograms_ignore_the_order_and_keep_every_firing(values, order, cut):
    straight, mixed = Histograms(2), Histograms(2)
    array = np.array(values, np.float32)
    _add(straight, [array])
    shuffled = array.copy()
    order.shuffle(shuffled)
    _add(mixed, [shuffled[:cut], shuffled[cut:]])
    np.testing.assert_array_equal(straight.counts, mixed.counts)
    highest = np.array([0, array.max()], np.float32)
    found = rebinned(straight.counts, straight.exponents, highest=highest, n_bins=8)
    assert found[1].sum() == len(array)
    assert found[0].sum() == 0
    # Equal bins of (0, highest], but for activations within 1/512 of an edge.
    low, high = ((array.astype(np.float64) / array.max() + shift) * 8 for shift in (-1 / 512, 1 / 512))
    for bin_index in range(8):
        at_least = ((low > bin_index) & (high <= bin_index + 1)).sum()
        at_most = ((high > bin_index) & (low <= bin_index + 1)).sum()
        assert at_least <= found[1, bin_index] <= at_most


def _add(histograms: Histograms, parts: list[np.ndarray]) -> None:
    largest = np.zeros(2, np.float32)
    for part in parts:
        largest[1] = max(largest[1], part.max(initial=0))
        histograms.add(np.ones(len(part), np.int64), part, largest=largest)


def test_cofiring_is_the_jaccard_of_the_tokens():
    latents = (made(50, density=0.4).latents > 0).reshape(-1, 7)
    location, latent = np.nonzero(latents)
    sample = TokenSample(len(latents))
    for part in np.array_split(np.random.default_rng(0).permutation(len(location)), 3):
        sample.add(location[part], latent[part])
    found = count_pairs(*sample.result(), d_sae=7, n_best=6)
    both = latents.T.astype(int) @ latents.astype(int)
    for own in range(7):
        for other, value, count in zip(found.links.ids[own], found.links.values[own], found.counts[own], strict=True):
            if other >= 0:
                assert other != own
                assert count == both[own, other]
                assert value == pytest.approx(count / (both[own, own] + both[other, other] - count))
    assert (found.links.ids[0] == -1).all(), "a latent that never fires fires with none"


def test_ties_at_the_limit_go_to_the_earlier_token():
    text = Text(np.ones((6, SIZE, 1), np.float32), np.zeros((6, SIZE), np.uint32))
    backwards = Gatherer(1, n_top=3, n_tokens=72, context_size=SIZE)
    hashes = np.arange(72, dtype=np.uint64)
    for context in reversed(range(6)):
        backwards.add(text.firings(np.array([context])), lambda locations: hashes[locations])
    np.testing.assert_array_equal(backwards.result().top.location, [0, SIZE, 2 * SIZE])
