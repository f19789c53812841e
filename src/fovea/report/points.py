"""Points of the Pareto curves: one per method and sparsity, seeds pooled.

A point's value and L0 are means over seeds; its bar runs from the lowest lower end to the highest upper end of the
seeds' intervals, so it is never narrower than any of them.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fovea.report.palette import Look, assign_looks
from fovea.report.rundata import NOT_TRAINED, Job, Record, RunData
from fovea.report.words import interval, number


class Text(NamedTuple):
    """What was measured on: a corpus and a split."""

    corpus: str
    split: str


class Series(NamedTuple):
    """One line of a figure: a method with its settings, and its architecture where the run has several."""

    method: str
    architecture: str | None
    name: str


class Point(NamedTuple):
    """One method at one sparsity on one text."""

    series: Series
    sparsity: str
    l0: float | None
    value: float | None
    low: float | None
    high: float | None
    n_seeds: int
    reason: str | None

    @property
    def is_drawn(self) -> bool:
        """Both coordinates are known."""
        return self.l0 is not None and self.value is not None

    @property
    def told(self) -> str:
        """Value and interval in words."""
        return " ".join(part for part in (number(self.value), interval(self.low, self.high)) if part)


def series_of(run: RunData, domain: str) -> dict[Series, list[Job]]:
    """Trained jobs of a domain by line, in the report's order; within a line by L0 on held-out D, then by seed."""
    jobs = [job for job in run.jobs_of(domain) if job.method not in NOT_TRAINED]
    kinds = {job.label: {other.architecture for other in jobs if other.label == job.label} for job in jobs}
    found: dict[Series, list[Job]] = {}
    for job in jobs:
        name = job.label if len(kinds[job.label]) == 1 else f"{job.label} {job.architecture}"
        found.setdefault(Series(job.method, job.architecture, name), []).append(job)
    text = Text(run.corpus_of(domain), "heldout")

    def order(job: Job) -> tuple[float, int]:
        record = _look(run, job, text, "l0")
        return (math.inf if record is None or record.value is None else record.value, job.seed or 0)

    return {series: sorted(line, key=order) for series, line in found.items()}


def looks_of(run: RunData) -> dict[str, Look]:
    """The look of each line of the run by its name."""
    series = dict.fromkeys(series for domain in run.domains for series in series_of(run, domain))
    return assign_looks([(s.name, s.method) for s in series])


def points(run: RunData, domain: str, text: Text, *, metric: str) -> list[Point]:
    """Points of every line of `domain`, each line in order of L0; undrawn ones last."""
    result: list[Point] = []
    for series, jobs in series_of(run, domain).items():
        labels = dict.fromkeys(job.sparsity for job in jobs)
        line = [
            _pool(run, [job for job in jobs if job.sparsity == label], text, metric=metric, series=series)
            for label in labels
        ]
        result += sorted(line, key=lambda point: (point.l0 is None, point.l0 or 0.0))
    return result


def middle_jobs(run: RunData, domain: str) -> dict[Series, Job]:
    """The job of middle L0 on held-out D for each line, lowest seed: those whose latents are drawn."""
    text = Text(run.corpus_of(domain), "heldout")
    drawn = points(run, domain, text, metric="l0")
    result: dict[Series, Job] = {}
    for series, jobs in series_of(run, domain).items():
        labels = [point.sparsity for point in drawn if point.series == series]
        label = labels[(len(labels) - 1) // 2]
        result[series] = min((job for job in jobs if job.sparsity == label), key=lambda job: job.seed or 0)
    return result


def nearest_job(run: RunData, domain: str, method: str, *, l0: float | None) -> Job | None:
    """The job of `method` whose L0 on held-out D is closest to `l0`; the middle one where l0 is None."""
    if l0 is None:
        return next((job for series, job in middle_jobs(run, domain).items() if method == series.name), None)
    corpus = run.corpus_of(domain)
    found: list[tuple[float, int, Job]] = []
    for series, jobs in series_of(run, domain).items():
        for job in jobs:
            record = run.find(job.name, "l0", corpus=corpus, split="heldout", domain=domain)
            if method == series.name and record is not None and record.value is not None:
                found.append((abs(record.value - l0), len(found), job))
    return min(found)[-1] if found else None


def _pool(run: RunData, jobs: Sequence[Job], text: Text, *, metric: str, series: Series) -> Point:
    records = [_look(run, job, text, metric) for job in jobs]
    known = [record for record in records if record is not None and record.value is not None]
    l0s = [record.value for record in (_look(run, job, text, "l0") for job in jobs) if record is not None]
    reason = (
        None if known else next((r.reason for r in records if r is not None and r.reason), "no record in metrics.jsonl")
    )
    return Point(
        series=series,
        sparsity=jobs[0].sparsity,
        l0=_mean(l0s),
        value=_mean(record.value for record in known),
        low=min((record.ci_low for record in known if record.ci_low is not None), default=None),
        high=max((record.ci_high for record in known if record.ci_high is not None), default=None),
        n_seeds=len(known),
        reason=reason,
    )


def _look(run: RunData, job: Job, text: Text, metric: str) -> Record | None:
    return run.find(job.name, metric, corpus=text.corpus, split=text.split, domain=job.domain)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
