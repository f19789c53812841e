"""A run folder in memory: everything that the report says comes from here, and here only from the folder.

    metrics.jsonl ---------> records, indexed by (job, metric, corpus, split)
    saes/JOB/job.json -----> ledgers            comparisons.jsonl --> comparisons
    the other files -------> as they are        whatever is absent -> `missing`, each with its consequence

Only metrics.jsonl is required. A file that is there but damaged is an error, never a gap.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fovea.config import MAX_TOML_BYTES
from fovea.errors import RunError
from fovea.foreign import Refusal, is_there, parse_json, read_object, read_text

GENERAL_CORPUS = "general"
METHOD_ORDER = ("general", "direct", "finetune", "ssae", "mix", "extend", "stitch", "boost", "control", "lm")
NOT_TRAINED = frozenset({"general", "control", "lm"})
SHARED = frozenset({"general", "lm"})

AGAIN = Refusal(RunError, "continue the run with --resume")

LineT = TypeVar("LineT", bound=BaseModel)


class Record(BaseModel):
    """One line of metrics.jsonl. A null value comes with its reason."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: str
    method: str
    metric: str
    corpus: str | None = None
    split: str | None = None
    domain: str | None = None
    architecture: str | None = None
    seed: int | None = None
    definition: str | None = None
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n_tokens: int | None = None
    n_documents: int | None = None
    unit: str | None = None
    reason: str | None = None


class Comparison(BaseModel):
    """One line of comparisons.jsonl: two methods at one L0, each interpolated between its own points."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    domain: str | None = None
    corpus: str
    split: str
    metric: str
    method_a: str
    method_b: str
    l0: float | None = None
    value_a: float | None = None
    value_b: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    reason: str | None = None


class Job(NamedTuple):
    """Who a row of the report is about."""

    name: str
    method: str
    architecture: str | None
    domain: str | None
    seed: int | None
    label: str
    "The method as the job name spells it, with its settings: ssae, ssae_silence0.1."
    sparsity: str
    "The knob as the job name spells it: k16, l1_4."


class Missing(NamedTuple):
    """A part that the run folder does not hold, and what the report cannot say without it."""

    part: str
    effect: str


@dataclass(frozen=True)
class RunData:
    """What a run folder holds."""

    folder: Path
    records: tuple[Record, ...]
    jobs: tuple[Job, ...]
    domains: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ()
    ledgers: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    definitions: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    baselines: dict[str, Any] = field(default_factory=dict[str, Any])
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    excluded: dict[str, Any] = field(default_factory=dict[str, Any])
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    experiment: str = ""
    missing: tuple[Missing, ...] = ()

    @cached_property
    def _index(self) -> dict[tuple[str | None, ...], Record]:
        return {(r.job, r.metric, r.corpus, r.split, r.domain): r for r in reversed(self.records)}

    @cached_property
    def _shared(self) -> dict[tuple[str | None, ...], Record]:
        """Lines of g and of the lm, which are the same whatever domain they are filed under."""
        shared = [r for r in reversed(self.records) if r.method in SHARED]
        return {(r.job, r.metric, r.corpus, r.split): r for r in shared}

    def find(self, job: str, metric: str, *, corpus: str, split: str, domain: str | None = None) -> Record | None:
        """The record of this job on this text; that of `domain` where jobs of several domains share a name."""
        key = (job, metric, corpus, split)
        return self._index.get((*key, domain)) or self._index.get((*key, None)) or self._shared.get(key)

    def reference(self, metric: str, *, corpus: str, split: str, domain: str | None) -> Record | None:
        """A metric of the text rather than of a job (ce_clean, ce_g ...), whichever job's line carries it."""
        for job in dict.fromkeys(["lm", "g", *(r.job for r in self.records if r.metric == metric)]):
            found = self.find(job, metric, corpus=corpus, split=split, domain=domain)
            if found is not None:
                return found
        return None

    def jobs_of(self, domain: str) -> list[Job]:
        """Jobs of one domain and those that belong to none (g, controls, the lm), in the report's order."""
        return [job for job in self.jobs if job.domain in (domain, None)]

    def corpus_of(self, domain: str) -> str:
        """Name of the domain's own corpus."""
        names = [r.corpus for r in self.records if r.domain == domain and r.corpus not in (GENERAL_CORPUS, None)]
        return domain if domain in names or not names else str(names[0])

    @property
    def n_seeds(self) -> int:
        """Distinct seeds among trained jobs."""
        return len({job.seed for job in self.jobs if job.method not in NOT_TRAINED})


def read_run(run: Path) -> RunData:
    """The run in folder `run`.

    Raises:
        RunError: no metrics.jsonl there, or a file of the run is damaged.
    """
    path = run / "metrics.jsonl"
    if not is_there(path, run, AGAIN):
        raise RunError(
            f"{run} holds no metrics.jsonl, so there is nothing to report; give the folder of a finished run, or "
            "finish this one with --resume"
        )
    records = _read_lines(path, run, Record)
    if not records:
        raise RunError(f"{path} is empty, so there is nothing to report; finish the run with --resume first")
    missing: list[Missing] = []
    ledgers = {str(job.get("job", name)): job for name, job in _read_jsons(run, "saes", "job.json").items()}
    if not ledgers:
        missing.append(Missing("saes/*/job.json", "the ledger (tokens, FLOPs, seconds, parameters) is empty"))
    comparisons = _optional(run, "comparisons.jsonl", missing, "no method can be called the winner at matched L0")
    definitions = _optional(run, "definitions.json", missing, "metrics are named but not defined")
    baselines = _optional(run, "features/baselines.json", missing, "novelty is shown without its random baselines")
    excluded = _optional(run, "excluded.json", missing, "what was left out is not counted here")
    provenance = _optional(run, "provenance.json", missing, "commit, versions and machine are unknown")
    experiment = _optional(run, "experiment.toml", missing, "the settings are unknown and the run cannot be repeated")
    stopped = {name: job["stopped"] for name, job in ledgers.items() if job.get("stopped") is not None}
    missing += [Missing(f"saes/{name}", _why_stopped(stopped[name])) for name in stopped]
    manifests = _read_jsons(run, "corpora", "manifest.json")
    if not manifests:
        missing.append(Missing("corpora/*/manifest.json", "the size of the corpora is not shown"))
    return RunData(
        folder=run,
        records=tuple(records),
        jobs=tuple(_jobs([record for record in records if record.job not in stopped], ledgers)),
        domains=tuple(_domains(records)),
        comparisons=tuple(_read_lines(comparisons, run, Comparison)) if comparisons else (),
        ledgers=ledgers,
        definitions=_by_id(read_object(definitions, run, AGAIN)) if definitions else {},
        baselines=read_object(baselines, run, AGAIN) if baselines else {},
        manifests=manifests,
        excluded=read_object(excluded, run, AGAIN) if excluded else {},
        provenance=read_object(provenance, run, AGAIN) if provenance else {},
        experiment=read_text(experiment, run, AGAIN, most=MAX_TOML_BYTES) if experiment else "",
        missing=tuple(missing),
    )


def _why_stopped(stopped: dict[str, Any]) -> str:
    why = str(stopped["reason"]).partition(": ")[2]
    return (
        f"its training diverged ({why}); kept are the weights of step {stopped['step_kept']}, measured in "
        "metrics.jsonl but in no table, plot or comparison here"
    )


def _optional(run: Path, name: str, missing: list[Missing], effect: str) -> Path | None:
    path = run / name
    if is_there(path, run, AGAIN):
        return path
    missing.append(Missing(name, effect))
    return None


def _domains(records: Iterable[Record]) -> list[str]:
    named = dict.fromkeys(r.domain for r in records if r.domain is not None)
    corpora = dict.fromkeys(r.corpus for r in records if r.corpus not in (None, GENERAL_CORPUS))
    return [str(name) for name in named or corpora]


def _jobs(records: Iterable[Record], ledgers: dict[str, dict[str, Any]]) -> list[Job]:
    seen: dict[tuple[str, str | None], Job] = {}
    for record in records:
        domain = None if record.method in SHARED else record.domain
        if (record.job, domain) not in seen:
            seen[record.job, domain] = _job(record, ledgers.get(record.job, {}), domain)
    rank = {method: i for i, method in enumerate(METHOD_ORDER)}
    natural = [(rank.get(job.method, 7), str(job.architecture), _natural(job.name), job) for job in seen.values()]
    return [entry[-1] for entry in sorted(natural, key=lambda entry: entry[:-1])]


def _job(record: Record, about: dict[str, Any], domain: str | None) -> Job:
    """Names are [DOMAIN-]METHOD-ARCHITECTURE-SPARSITY-sSEED; one that is not is taken whole as its sparsity."""
    architecture = record.architecture or about.get("architecture")
    stem = re.sub(r"-s\d+$", "", record.job)
    label, sparsity = record.method, str(about.get("sparsity") or stem)
    if record.method in NOT_TRAINED:
        sparsity = re.sub(r"^(.*-)?control-", "", stem)
    elif f"-{architecture}-" in stem:
        before, _, after = stem.partition(f"-{architecture}-")
        label, sparsity = before.rpartition("-")[2], str(about.get("sparsity") or after)
    return Job(record.job, record.method, architecture, domain, record.seed, label, sparsity)


def _natural(name: str) -> list[tuple[int, float, str]]:
    """Sort key under which k16 comes before k128."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(1, float(part), "") if i % 2 else (0, 0.0, part) for i, part in enumerate(parts)]


def _read_lines(path: Path, run: Path, kind: type[LineT]) -> list[LineT]:
    lines = enumerate(read_text(path, run, AGAIN).splitlines(), start=1)
    return [_parse(line, kind, where=f"{path}, line {n}") for n, line in lines if line.strip()]


def _parse(line: str, kind: type[LineT], *, where: str) -> LineT:
    value = parse_json(line, AGAIN, where=where, what=f"a {kind.__name__.lower()}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        what = str(error).splitlines()[0]
        raise AGAIN.of(f"{where}: not a {kind.__name__.lower()} ({what})") from None


def _read_jsons(run: Path, folder: str, name: str) -> dict[str, dict[str, Any]]:
    return {path.parent.name: read_object(path, run, AGAIN) for path in sorted((run / folder).glob(f"*/{name}"))}


def _by_id(definitions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {key: value if isinstance(value, dict) else {"formula": str(value)} for key, value in definitions.items()}
