"""Max cosine and its nearest index, on cases worked out by hand and against an oracle; the baselines."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.eval.novelty import N_QUANTILES, Baseline, MaxCosine, baseline, gaussian_like, max_cosine, novelty, summarise


def test_each_row_finds_its_nearest_reference_whatever_the_lengths():
    rows = torch.tensor([[2.0, 0.0], [0.0, -3.0], [1.0, 1.0]])
    reference = torch.tensor([[0.0, 5.0], [3.0, 4.0], [0.1, 0.0]])
    found = max_cosine(rows, reference)
    assert found.nearest.tolist() == [2, 2, 1]
    torch.testing.assert_close(found.value, torch.tensor([1.0, 0.0, 7 / 5 / math.sqrt(2)]))


def test_of_equal_references_the_first_is_named():
    assert (
        max_cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]])).nearest.item() == 1
    )


def test_the_largest_cosine_is_meant_and_not_the_largest_in_size():
    found = max_cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
    assert (found.value.item(), found.nearest.item()) == (0.0, 1)


def test_a_latent_without_direction_has_no_novelty():
    found = max_cosine(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    assert found.value.isnan().tolist() == [True, False]
    assert found.nearest.tolist() == [-1, 1]


@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 2100), seed=st.integers(0, 1000))
def test_chunks_change_nothing_and_a_float64_oracle_agrees(n: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    rows, reference = torch.randn(n, 5, generator=generator), torch.randn(7, 5, generator=generator)
    found = max_cosine(rows, reference)
    cosine = torch.nn.functional.normalize(rows.double()) @ torch.nn.functional.normalize(reference.double()).T
    torch.testing.assert_close(found.value.double(), cosine.max(dim=1).values, rtol=0, atol=1e-6)
    at_nearest = cosine.gather(1, found.nearest.long()[:, None]).squeeze(1)
    torch.testing.assert_close(at_nearest, cosine.max(dim=1).values, rtol=0, atol=1e-6)


def test_encoder_columns_are_compared_with_encoder_columns():
    general_enc = torch.eye(3)
    found = novelty(
        torch.tensor([[0.0], [2.0], [0.0]]),
        torch.tensor([[0.0, 0.0, 4.0]]),
        general_W_enc=general_enc,
        general_W_dec=torch.eye(3),
    )
    assert (found.encoder.nearest.item(), found.decoder.nearest.item()) == (1, 2)


def test_a_copy_of_g_has_novelty_one_at_its_own_index():
    W_dec = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    found = novelty(W_dec.T, W_dec, general_W_enc=W_dec.T, general_W_dec=W_dec)
    torch.testing.assert_close(found.decoder.value, torch.ones(20))
    assert found.decoder.nearest.tolist() == list(range(20))


def test_baselines_are_quantiles_and_equal_for_equal_seeds():
    reference = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    one, two = (baseline(reference, n_rows=300, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    for first, second in zip(one, two, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        assert len(first) == N_QUANTILES
        assert bool((first.diff() >= 0).all())


def test_moment_matched_directions_are_nearer_to_a_flat_dictionary_than_random_ones():
    """g's rows lie near a plane of a 30-dimensional space: what has their moments does so too."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.cat(
        [torch.randn(200, 2, generator=generator), 0.05 * torch.randn(200, 28, generator=generator)], dim=1
    )
    found = baseline(reference, n_rows=300, generator=generator)
    assert found.moment[N_QUANTILES // 2] > 0.9 > found.random[N_QUANTILES // 2]


def test_drawn_rows_have_the_mean_and_covariance_of_the_given_ones():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 3, generator=generator) @ torch.tensor([[1.0, 0, 0], [2.0, 1.0, 0], [0, 0, 0.1]]) + 4
    drawn = gaussian_like(rows, n_rows=100_000, generator=generator)
    torch.testing.assert_close(drawn.mean(dim=0), rows.mean(dim=0), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.T.cov(), rows.T.cov(), rtol=0.02, atol=0.03)


def test_summaries_count_only_latents_that_fired():
    value = torch.tensor([0.95, 0.9, 0.5, 0.2, float("nan"), 0.99])
    steps = torch.linspace(0, 1, N_QUANTILES, dtype=torch.float64)
    reference = Baseline(random=steps * 0.3 / 0.99, moment=steps * 0.8 / 0.99)
    alive = torch.tensor([True, True, True, True, True, False])
    found = summarise(MaxCosine(value, torch.zeros(6, dtype=torch.int32)), reference, alive=alive)
    assert found.median == pytest.approx(0.7)
    assert (found.n_matched, found.n_above_random, found.n_above_moment) == (2, 3, 2)


def test_a_summary_of_no_latents_has_no_median():
    steps = torch.linspace(0, 1, N_QUANTILES, dtype=torch.float64)
    nothing = MaxCosine(torch.ones(2), torch.zeros(2, dtype=torch.int32))
    found = summarise(nothing, Baseline(steps, steps), alive=torch.zeros(2, dtype=torch.bool))
    assert found.median is None
    assert found.n_matched == 0
