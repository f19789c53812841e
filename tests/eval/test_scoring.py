"""From sums to records: which rows there are, what they carry, and when a value is missing."""

import pytest

from eval.made_sums import at_random, by_hand, candidate
from fovea.eval.bootstrap import Resampled, resample
from fovea.eval.definitions import DEFINITIONS
from fovea.eval.metrics import METRICS
from fovea.eval.records import MetricRecord
from fovea.eval.scoring import JobInfo, Part, metric_estimate, score_records, why_undefined
from fovea.eval.sums import Sums

PART = Part("biology", "heldout", "c" * 8)
JOBS = {
    "g": JobInfo("g", "general", "batch_topk", sae_fingerprint="g" * 8),
    "a": JobInfo("a", "ssae", "batch_topk", "biology", 0, "a" * 8),
}


def resampled(sums: Sums) -> Resampled:
    return resample(sums, corpus="biology", split="heldout", n_resamples=50)


def with_gap(gaps: list[float]) -> Sums:
    """One scored token per document; g costs `gaps` more than the unpatched lm."""
    n = len(gaps)
    return by_hand(
        {
            "g": candidate(ce=[2 + gap for gap in gaps]),
            "zero": candidate(ce=[9.0] * n),
            "mean": candidate(ce=[8.0] * n),
            "a": candidate(ce=[2.0] * n),
        },
        n_tokens=[1.0] * n,
        n_scored=[1.0] * n,
        ce_clean=[2.0] * n,
    )


def found(records: list[MetricRecord], job: str, metric: str) -> MetricRecord:
    (record,) = [r for r in records if (r.job, r.metric) == (job, metric)]
    return record


def test_there_is_one_record_for_every_job_and_metric():
    records = score_records(at_random(0), resampled(at_random(0)), part=PART, jobs=JOBS)
    named = [(r.job, r.metric) for r in records]
    lm = [("lm", metric) for metric in ("ce_clean", "ce_zero", "ce_mean")]
    assert sorted(named) == sorted([*lm, ("g", "ce_g"), *((job, metric) for job in JOBS for metric in METRICS)])


def test_a_record_says_what_was_measured_on_what():
    sums = at_random(0)
    record = found(score_records(sums, resampled(sums), part=PART, jobs=JOBS), "a", "loss_recovered_gap")
    assert (record.method, record.architecture, record.domain, record.seed) == ("ssae", "batch_topk", "biology", 0)
    assert (record.corpus, record.split, record.corpus_fingerprint) == ("biology", "heldout", "c" * 8)
    assert (record.sae_fingerprint, record.unit, record.definition) == ("a" * 8, "fraction", "loss_recovered_gap")
    assert record.value is not None
    assert record.ci_low is not None
    assert record.ci_high is not None
    assert record.ci_low <= record.value <= record.ci_high
    assert record.reason is None
    assert record.n_documents == 12


def test_loss_is_counted_in_scored_tokens_and_variance_in_kept_ones():
    sums = at_random(0)
    records = score_records(sums, resampled(sums), part=PART, jobs=JOBS)
    assert found(records, "a", "fvu").n_tokens == sums.corpus.n_tokens.sum()
    assert found(records, "a", "l0").n_tokens == sums.corpus.n_tokens.sum()
    assert found(records, "a", "ce").n_tokens == sums.corpus.n_scored.sum()
    assert found(records, "lm", "ce_clean").n_tokens == sums.corpus.n_scored.sum()


def test_a_gap_that_is_wide_and_certain_gives_a_value():
    result = metric_estimate(resampled(with_gap([0.5] * 10)), "a", metric="loss_recovered_gap")
    assert (result.value, result.ci_low, result.ci_high) == (1.0, 1.0, 1.0)


def test_a_gap_below_five_thousandths_of_a_nat_is_too_small():
    result = metric_estimate(resampled(with_gap([0.004] * 10)), "a", metric="loss_recovered_gap")
    assert result.value is None
    assert result.reason is not None
    assert result.reason.startswith("gap too small: CE_g - CE_clean = 0.0040 [0.0040, 0.0040] nats")


def test_a_gap_whose_interval_includes_zero_is_too_small():
    sums = with_gap([-1.0, 1.2, -1.0, 1.2, -1.0, 1.2])
    assert "gap too small" in (why_undefined(resampled(sums), "loss_recovered_gap") or "")
    assert why_undefined(resampled(sums), "loss_recovered_zero") is None


def test_the_gap_rule_leaves_the_other_metrics_alone():
    sums = with_gap([0.0] * 10)
    undefined = {metric for metric in METRICS if why_undefined(resampled(sums), metric)}
    assert undefined == {"loss_recovered_gap", "loss_recovered_gap_masked"}


def test_few_documents_give_a_value_without_an_interval():
    result = metric_estimate(resampled(with_gap([0.5] * 4)), "a", metric="loss_recovered_gap")
    assert (result.value, result.ci_low) == (1.0, None)
    assert result.reason == "no interval: 4 documents, at least 5 are needed"


def test_without_g_the_reason_names_it():
    sums = at_random(0)
    del sums.candidates["g"]
    records = score_records(sums, resampled(sums), part=PART, jobs={"a": JOBS["a"]})
    for metric in ("loss_recovered_gap", "loss_recovered_gap_masked", "fvu_recovered"):
        assert found(records, "a", metric).reason == "no general SAE to compare with"
    assert found(records, "a", "loss_recovered_zero").value is not None


def test_a_reconstruction_that_is_not_finite_is_missing_and_harms_nobody_else():
    sums = at_random(0)
    sums.candidates["b"].ce[3] = float("nan")
    jobs = {**JOBS, "b": JobInfo("b", "direct")}
    records = score_records(sums, resampled(sums), part=PART, jobs=jobs)
    assert found(records, "b", "ce").value is None
    assert "not a finite number" in (found(records, "b", "ce").reason or "")
    assert found(records, "a", "ce").value is not None


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_units_come_from_the_definitions(metric: str):
    records = score_records(at_random(0), resampled(at_random(0)), part=PART, jobs=JOBS)
    assert found(records, "a", metric).unit == DEFINITIONS[metric].unit
