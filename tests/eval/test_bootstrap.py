"""Intervals: what they cover, that they are paired, and that they come out the same each time."""

import numpy as np
import pytest
import torch

from eval.made_sums import at_random, by_hand, candidate
from fovea.eval.bootstrap import Draws, estimate, paired_difference, resample, seed_of
from fovea.eval.metrics import METRICS
from fovea.eval.sums import Sums


def of_documents(losses: np.ndarray) -> Sums:
    """One scored token per document, with these losses."""
    n = len(losses)
    return by_hand(
        {"a": candidate(ce=losses.tolist()), "b": candidate(ce=(losses + 0.5).tolist())},
        n_tokens=[1.0] * n,
        n_scored=[1.0] * n,
    )


def test_equal_sums_give_equal_resamples_and_another_split_gives_others():
    one, two = (resample(at_random(0), corpus="biology", split="heldout", n_resamples=50) for _ in range(2))
    np.testing.assert_array_equal(one.resampled["a"].ce, two.resampled["a"].ce)
    other = resample(at_random(0), corpus="biology", split="train", n_resamples=50)
    assert (one.resampled["a"].ce != other.resampled["a"].ce).any()


def test_the_seed_of_a_name_is_fixed_for_all_time():
    assert seed_of("biology", "heldout") == 10441231134628457699


def test_the_number_of_resamples_is_the_one_asked_for():
    assert resample(at_random(0), corpus="c", split="train", n_resamples=130).resampled["a"].ce.shape == (130,)


def test_a_constant_metric_has_an_interval_of_width_zero():
    found = resample(of_documents(np.full(20, 3.0)), corpus="c", split="heldout", n_resamples=100)
    result = estimate(found.draws("a", METRICS["ce"]), found.n_documents)
    assert (result.value, result.ci_low, result.ci_high, result.reason) == (3.0, 3.0, 3.0, None)


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    losses = np.random.default_rng(0).normal(3.0, 1.0, 400)
    found = resample(of_documents(losses), corpus="c", split="heldout")
    result = estimate(found.draws("a", METRICS["ce"]), found.n_documents)
    assert result.ci_low is not None
    assert result.ci_high is not None
    assert result.ci_high - result.ci_low == pytest.approx(2 * 1.96 * losses.std() / 20, rel=0.1)


def test_intervals_cover_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        found = resample(of_documents(rng.normal(3.0, 1.0, 60)), corpus=str(trial), split="heldout", n_resamples=200)
        result = estimate(found.draws("a", METRICS["ce"]), found.n_documents)
        assert result.ci_low is not None
        assert result.ci_high is not None
        covered += result.ci_low <= 3.0 <= result.ci_high
    assert 88 <= covered <= 99


def test_differences_are_paired():
    """b is a + 0.5 in every document: the difference is certain although both are not."""
    losses = np.random.default_rng(0).normal(3.0, 1.0, 50)
    found = resample(of_documents(losses), corpus="c", split="heldout", n_resamples=200)
    result = paired_difference(found, "b", "a", metric=METRICS["ce"])
    assert result.value == pytest.approx(0.5)
    assert result.ci_low == pytest.approx(0.5)
    assert result.ci_high == pytest.approx(0.5)


def test_fvu_in_a_resample_uses_the_mean_of_that_resample():
    sums = at_random(3, n_documents=6)
    found = resample(sums, corpus="c", split="heldout", n_resamples=20)
    weights = np.random.default_rng(seed_of("c", "heldout")).multinomial(6, np.full(6, 1 / 6), size=20)
    w = torch.tensor(weights, dtype=torch.float64)
    mean_sq = (w @ sums.corpus.sum_x).square().sum(dim=1) / (w @ sums.corpus.n_tokens)
    oracle = (w @ sums.candidates["a"].error_sq) / (w @ sums.corpus.sum_x_sq - mean_sq)
    np.testing.assert_allclose(METRICS["fvu"](found.resampled["a"]), oracle.numpy(), rtol=1e-12)


def test_fewer_than_five_documents_give_a_value_without_an_interval():
    found = resample(of_documents(np.arange(4.0)), corpus="c", split="heldout", n_resamples=10)
    result = estimate(found.draws("a", METRICS["ce"]), found.n_documents)
    assert result.value == 1.5
    assert result.ci_low is None
    assert result.reason == "no interval: 4 documents, at least 5 are needed"


def test_what_is_not_a_number_is_missing_with_a_reason():
    result = estimate(Draws(float("nan"), np.zeros(3)), 10)
    assert result.value is None
    assert result.reason is not None
    half = estimate(Draws(1.0, np.array([1.0, np.nan])), 10)
    assert (half.value, half.ci_low) == (1.0, None)
    assert half.reason is not None
