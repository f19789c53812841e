"""Which firings become examples: ranks of firings, no text twice, permutations kept apart, repetitions counted."""

import numpy as np

from fovea.features.collect import Gathered, Reading
from fovea.features.examples import as_examples, choose, count_windows
from fovea.features.files import Examples, group_rules
from fovea.features.hashing import AROUND, window_hashes
from tests.features.test_collect import SIZE, Text, gathered

EDGES = (0.0, 0.1, 0.5, 1.0)


class MadeReading(Reading):
    """Made-up tokens in place of a corpus on disk."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.context_size, self.n_contexts, self._tokens = tokens.shape[1], len(tokens), tokens

    def tokens(self, first: int, last: int) -> np.ndarray:
        return self._tokens[first:last]


def made(n_contexts: int = 200, *, n_texts: int = 40) -> Text:
    """Two latents whose activations are all different; only `n_texts` different contexts, each repeated."""
    draw = np.random.default_rng(3)
    tokens = draw.integers(0, 1000, (n_texts, SIZE)).astype(np.uint32)[draw.integers(0, n_texts, n_contexts)]
    values = draw.lognormal(size=(n_contexts, SIZE, 2)).astype(np.float32)
    return Text(np.where(draw.random(values.shape) < 0.1, values, 0), tokens)


def examples_of(text: Text, *, per_group: int = 4) -> tuple[Gathered, Examples]:
    reading = MadeReading(text.tokens)
    found = gathered(text, np.array_split(np.arange(len(text.tokens)), 5), n_top=6)
    entries, groups = choose(found, group_rules(EDGES), per_group=per_group, reading=reading)
    return found, as_examples(
        entries, groups, windows=count_windows(entries.around, reading), context_size=reading.context_size
    )


def plain_window(tokens: np.ndarray, context: int, peak: int) -> tuple[int, ...]:
    """The tokens on either side, -1 beyond the ends of the context."""
    places = range(peak - AROUND, peak + AROUND + 1)
    return tuple(int(tokens[context, place]) if 0 <= place < SIZE else -1 for place in places)


def test_groups_are_ranks_of_firings_and_not_intervals_of_activation() -> None:
    text = made()
    found, examples = examples_of(text)
    for latent in range(2):
        sampled = found.sample.value[found.sample.latent == latent]
        own = np.flatnonzero((examples.latent == latent) & (examples.group > 0))
        assert len(own) > 8
        for example in own:
            value = text.latents[examples.context[example], examples.peak[example], latent]
            share = (sampled > value).mean()
            low, high = EDGES[examples.group[example] - 1], EDGES[examples.group[example]]
            assert low <= share < high
    # With log-normal activations equal intervals would leave nearly all firings in the lowest.
    assert np.bincount(examples.group, minlength=4)[1:].min() >= 4


def test_no_group_shows_a_text_twice_and_none_that_does_not_fire() -> None:
    text = made()
    _, examples = examples_of(text, per_group=8)
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    for latent, group, context, peak in zip(*examples[:4], strict=True):
        assert text.latents[context, peak, latent] > 0
        place = (int(latent), int(group), plain_window(text.tokens, context, peak))
        assert place not in seen
        seen.add(place)


def test_repetitions_of_a_text_are_counted_over_all_that_was_read() -> None:
    text = made()
    _, examples = examples_of(text)
    windows = [plain_window(text.tokens, c, p) for c in range(len(text.tokens)) for p in range(SIZE)]
    for context, peak, n in zip(examples.context, examples.peak, examples.n_duplicates, strict=True):
        assert n == windows.count(plain_window(text.tokens, context, peak))
    assert examples.n_duplicates.max() > 1


def test_permutations_of_a_text_are_texts_of_their_own() -> None:
    tokens = np.arange(2 * AROUND + 1, dtype=np.uint32)[None]
    turned = tokens.copy()
    turned[0, [0, 5]] = turned[0, [5, 0]]
    assert window_hashes(tokens)[0, AROUND] != window_hashes(turned)[0, AROUND]
