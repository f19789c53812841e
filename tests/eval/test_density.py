"""Densities are integer counts with their totals, the same however the tokens are cut."""

import pytest
import torch

from fovea.data.activations import Chunk
from fovea.errors import SAEError
from fovea.eval.density import count_firing, density_bound, load_counts, median_density, merge_counts, save_counts


def chunk(x: torch.Tensor, documents: list[int]) -> Chunk:
    return Chunk(x, torch.tensor(documents), torch.arange(len(x)), torch.zeros(len(x), dtype=torch.int64))


X = torch.tensor([[1.0, -1.0, 0.0], [2.0, 0.0, 0.0], [0.5, 3.0, 0.0], [-1.0, -2.0, 0.0]])


def test_a_latent_fires_where_it_is_above_zero_and_never_at_an_exact_zero():
    found = count_firing([chunk(X, [0, 0, 1, 1])], {"a": torch.relu})["a"]
    assert found.counts.tolist() == [3, 1, 0]
    assert found.counts.dtype == torch.int64
    assert (found.n_tokens, found.n_documents) == (4, 2)
    assert found.alive.tolist() == [True, True, False]


def test_counts_do_not_depend_on_the_chunks_and_all_saes_share_one_pass():
    encoders = {"a": torch.relu, "b": lambda x: torch.relu(-x)}
    whole = count_firing(iter([chunk(X, [0, 0, 1, 1])]), encoders)
    parts = count_firing(iter([chunk(X[:1], [0]), chunk(X[1:], [0, 1, 1])]), encoders)
    for name in encoders:
        assert whole[name].counts.tolist() == parts[name].counts.tolist()
        assert whole[name][1:] == parts[name][1:]


def test_counts_over_different_documents_add_up():
    first, second = (
        count_firing([chunk(X[s], d)], {"a": torch.relu})["a"] for s, d in [(slice(2), [0, 0]), (slice(2, 4), [1, 1])]
    )
    both = merge_counts(first, second)
    assert (both.counts.tolist(), both.n_tokens, both.n_documents) == ([3, 1, 0], 4, 2)


def test_progress_is_told_in_tokens():
    told: list[int] = []
    count_firing([chunk(X[:1], [0]), chunk(X[1:], [0, 1, 1])], {"a": torch.relu}, observe=told.append)
    assert told == [1, 4]


def test_saved_counts_come_back(tmp_path):
    counts = count_firing([chunk(X, [0, 0, 1, 1])], {"a-k16.x": torch.relu, "b": torch.relu})
    save_counts(tmp_path / "counts", counts)
    loaded = load_counts(tmp_path / "counts")
    assert loaded.keys() == counts.keys()
    assert loaded["a-k16.x"].counts.tolist() == [3, 1, 0]
    assert loaded["b"][1:] == (4, 2)


def test_latents_that_are_not_numbers_are_refused():
    with pytest.raises(SAEError, match="SAE 'a' gives latents that are not numbers"):
        count_firing([chunk(X, [0, 0, 1, 1])], {"a": lambda x: x * float("nan")})


def test_the_bound_on_a_silent_latent_is_exact_and_close_to_three_over_n():
    assert density_bound(1) == pytest.approx(0.95)
    assert density_bound(1_000_000) == pytest.approx(2.9957e-6, rel=1e-4)
    assert density_bound(0) is None
    bound = density_bound(59)
    assert bound is not None
    assert (1 - bound) ** 59 == pytest.approx(0.05)


def test_the_median_density_is_that_of_the_latents_that_fired():
    counts = count_firing([chunk(X, [0, 0, 1, 1])], {"a": torch.relu})["a"]
    assert median_density(counts) == 2 / 4
    assert median_density(counts._replace(counts=torch.zeros(3, dtype=torch.int64))) is None
