"""The results table, one sheet for each text: held-out D, held-out general text, training documents.

Rows: the lm (unpatched, zero ablation, mean ablation), g, every job, the controls. One row per job and seed: nothing is
pooled here.
"""

from collections.abc import Mapping
from typing import NamedTuple

from fovea.report.palette import Look
from fovea.report.points import Text, looks_of, series_of
from fovea.report.rundata import GENERAL_CORPUS, NOT_TRAINED, Job, Record, RunData
from fovea.report.tables import Cell, Column, Sheet, gap, sheet, words
from fovea.report.words import count, interval, number

METRICS = {
    "loss_recovered_gap": "gap to g",
    "loss_recovered_gap_masked": "gap, masked",
    "loss_recovered_zero": "zero abl.",
    "loss_recovered_mean": "mean abl.",
    "ce": "CE",
    "delta_ce": "\u0394 CE",
    "kl": "KL",
    "fvu": "FVU",
    "n_alive": "alive",
    "n_dead": "dead",
}
LM_ROWS = {"ce_clean": "unpatched", "ce_zero": "zero ablation", "ce_mean": "mean ablation"}
NOT_FOR_LM = "not defined for the lm itself"
MEMORISED = "train \u2212 held-out"


class Page(NamedTuple):
    """One of the three sheets."""

    key: str
    title: str
    split: str
    is_general: bool


PAGES = (
    Page("heldout", "Held-out D", "heldout", False),
    Page("general", "Held-out general text", "heldout", True),
    Page("train", "Training documents of D", "train", False),
)


def results(run: RunData) -> list[tuple[Page, Sheet]]:
    """The sheets that hold any record, in order."""
    looks = looks_of(run)
    found: list[tuple[Page, Sheet]] = []
    for page in PAGES:
        rows = [row for domain in run.domains for row in _rows(run, page, domain, looks)]
        if rows:
            found.append((page, sheet(f"results-{page.key}", page.title, _columns(run, page), rows=rows)))
    return found


def _columns(run: RunData, page: Page) -> list[Column]:
    columns = [Column("SAE", is_number=False, hint="method and sparsity")]
    columns += [Column("domain", is_number=False)] if len(run.domains) > 1 else []
    columns.append(Column("L0", hint="latents per token: all (g's + the domain SAE's)"))
    first, *rest = [Column(title, hint=_hint(run, metric)) for metric, title in METRICS.items()]
    memorised = Column(MEMORISED, hint="loss recovered, gap to g: what is memorised rather than learnt")
    columns += [first, *([] if page.is_general else [memorised]), *rest]
    return [*columns, Column("architecture", is_number=False), Column("seed")]


def _hint(run: RunData, metric: str) -> str:
    definition = run.definitions.get(metric, {})
    return f"{definition.get('name', metric)}: {definition['formula']}" if "formula" in definition else metric


def _rows(run: RunData, page: Page, domain: str, looks: Mapping[str, Look]) -> list[list[Cell]]:
    text = Text(GENERAL_CORPUS if page.is_general else run.corpus_of(domain), page.split)
    if not any((r.corpus, r.split) == text and r.domain in (domain, None) for r in run.records):
        return []
    names = {job.name: looks[series.name].slot for series, jobs in series_of(run, domain).items() for job in jobs}
    trained = [job for line in series_of(run, domain).values() for job in line]
    others = {kind: [job for job in run.jobs_of(domain) if job.method == kind] for kind in ("general", "control")}
    jobs = [*others["general"], *trained, *others["control"]]
    rows = [_job_row(run, job, domain, page, text, names) for job in jobs] + _lm_rows(run, domain, page, text)
    if len(run.domains) > 1:
        rows = [[row[0], words(domain), *row[1:]] for row in rows]
    return rows


def _job_row(run: RunData, job: Job, domain: str, page: Page, text: Text, slots: Mapping[str, int]) -> list[Cell]:
    def find(metric: str, split: str = text.split) -> Record | None:
        return run.find(job.name, metric, corpus=text.corpus, split=split, domain=domain)

    name = {"general": "g", "control": f"control {job.sparsity}"}.get(job.method, f"{job.label} {job.sparsity}")
    row = [words(name, slots.get(job.name)), _l0(find("l0"), find("l0_general"), find("l0_domain"))]
    for metric in METRICS:
        record = find(metric)
        if metric == "delta_ce" and record is None:
            clean = run.reference("ce_clean", corpus=text.corpus, split=text.split, domain=domain)
            row.append(_difference(find("ce"), clean))
        else:
            row.append(value_cell(record))
    if not page.is_general:
        memorised = _difference(find("loss_recovered_gap", "train"), find("loss_recovered_gap", "heldout"))
        is_trained = job.method not in NOT_TRAINED or job.name in run.ledgers
        row.insert(3, memorised if is_trained else gap("not trained on D"))
    seed = Cell(str(job.seed), job.seed) if job.seed is not None else gap("no seed")
    return [*row, words(job.architecture), seed]


def _lm_rows(run: RunData, domain: str, page: Page, text: Text) -> list[list[Cell]]:
    clean = run.reference("ce_clean", corpus=text.corpus, split=text.split, domain=domain)
    rows: list[list[Cell]] = []
    for metric, name in LM_ROWS.items():
        record = run.reference(metric, corpus=text.corpus, split=text.split, domain=domain)
        cells = {"ce": value_cell(record), "delta_ce": _difference(record, clean)}
        row = [words(f"lm, {name}"), gap(NOT_FOR_LM), *(cells.get(column, gap(NOT_FOR_LM)) for column in METRICS)]
        if not page.is_general:
            row.insert(3, gap(NOT_FOR_LM))
        rows.append([*row, words(""), gap("no seed")])
    return rows


def value_cell(record: Record | None) -> Cell:
    """A record's value with its interval, or why there is none."""
    if record is None:
        return gap(None)
    if record.value is None:
        return gap(record.reason)
    if record.metric.startswith("n_"):
        return Cell(count(record.value), record.value)
    return Cell(number(record.value), record.value, interval(record.ci_low, record.ci_high))


def _l0(total: Record | None, general: Record | None, domain: Record | None) -> Cell:
    if total is None or total.value is None:
        return gap(total.reason if total else None)
    parts = [part.value if part else None for part in (general, domain)]
    note = "" if not all(parts) else f"{number(parts[0], 1)} + {number(parts[1], 1)}"
    return Cell(number(total.value, 1), total.value, note)


def _difference(first: Record | None, second: Record | None) -> Cell:
    for record in (first, second):
        if record is None or record.value is None:
            return gap(record.reason if record else None)
    assert first is not None and second is not None and first.value is not None and second.value is not None  # noqa: PT018
    return Cell(number(first.value - second.value), first.value - second.value)
