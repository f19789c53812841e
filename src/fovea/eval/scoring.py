"""From sums to records: every metric of every job on one corpus split, with its interval or why it has none."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from fovea.eval.bootstrap import Estimate, Resampled, estimate
from fovea.eval.candidates import GENERAL, ZERO
from fovea.eval.definitions import DEFINITIONS
from fovea.eval.metrics import GAP_BASELINE, LM_METRICS, METRICS, PER_KEPT_TOKEN, gap
from fovea.eval.records import MetricRecord
from fovea.eval.sums import Sums

MIN_GAP_NATS = 0.005
"Loss recovered is not reported for a smaller gap."


class Part(NamedTuple):
    """One corpus split that was evaluated."""

    corpus: str
    split: Literal["heldout", "train"]
    corpus_fingerprint: str


class JobInfo(NamedTuple):
    """What identifies an evaluated SAE in the records."""

    job: str
    method: str
    architecture: str | None = None
    domain: str | None = None
    seed: int | None = None
    sae_fingerprint: str | None = None


LM = JobInfo("lm", "lm")
"The unpatched lm and its ablations."


def score_records(sums: Sums, resampled: Resampled, *, part: Part, jobs: Mapping[str, JobInfo]) -> list[MetricRecord]:
    """Records of the lm (clean, zero, mean) and of each of `jobs`, keyed by candidate name; g, if any, is one."""
    found = [
        record_of(LM, part, metric=metric, value=lm_estimate(resampled, metric), sums=sums)
        for metric in LM_METRICS
        if metric != "ce_g"
    ]
    for name, job in jobs.items():
        if name == GENERAL:
            found.append(record_of(job, part, metric="ce_g", value=lm_estimate(resampled, "ce_g"), sums=sums))
        found += [
            record_of(job, part, metric=metric, value=metric_estimate(resampled, name, metric=metric), sums=sums)
            for metric in METRICS
        ]
    return found


def lm_estimate(resampled: Resampled, metric: str) -> Estimate:
    """A metric that is the same for every candidate."""
    return estimate(resampled.draws(ZERO, LM_METRICS[metric]), resampled.n_documents)


def metric_estimate(resampled: Resampled, name: str, *, metric: str) -> Estimate:
    """`metric` of candidate `name`: value, interval, or the reason why it has none."""
    reason = why_undefined(resampled, metric)
    if reason is not None:
        return Estimate(None, reason=reason)
    return estimate(resampled.draws(name, METRICS[metric]), resampled.n_documents)


def why_undefined(resampled: Resampled, metric: str) -> str | None:
    """Why no candidate of this corpus split has a value of `metric`, or None if they have one."""
    needs_g = metric in ("loss_recovered_gap", "loss_recovered_gap_masked", "fvu_recovered")
    if needs_g and GENERAL not in resampled.point:
        return "no general SAE to compare with"
    if metric == "loss_recovered_gap_masked" and not resampled.point[GENERAL].gap_masked[0] > 0:
        return "no scored token is in the mask: g raises no token's loss by more than 0.001 nats"
    if metric not in GAP_BASELINE:
        return None
    baseline = GAP_BASELINE[metric]
    opened = estimate(resampled.draws(ZERO, gap(baseline)), resampled.n_documents)
    if opened.value is None:
        return f"the gap CE_{baseline} - CE_clean is not a finite number"
    uncertain = opened.ci_low is not None and opened.ci_high is not None and opened.ci_low <= 0 <= opened.ci_high
    if opened.value >= MIN_GAP_NATS and not uncertain:
        return None
    interval = f" [{opened.ci_low:.4f}, {opened.ci_high:.4f}]" if opened.ci_low is not None else ""
    return (
        f"gap too small: CE_{baseline} - CE_clean = {opened.value:.4f}{interval} nats; it must be at least "
        f"{MIN_GAP_NATS} and its interval must exclude 0"
    )


def record_of(job: JobInfo, part: Part, *, metric: str, value: Estimate, sums: Sums) -> MetricRecord:
    """The record of one estimate on one corpus split."""
    counted = sums.corpus.n_tokens if metric in PER_KEPT_TOKEN else sums.corpus.n_scored
    return MetricRecord(
        **job._asdict(),
        **part._asdict(),
        metric=metric,
        definition=DEFINITIONS[metric].id,
        value=value.value,
        ci_low=value.ci_low,
        ci_high=value.ci_high,
        n_tokens=int(counted.sum()),
        n_documents=int(np.count_nonzero(counted.numpy())),
        unit=DEFINITIONS[metric].unit,
        reason=value.reason,
    )
