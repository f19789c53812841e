"""The smaller tables: comparisons at matched L0, the ledger, definitions, what was excluded, corpora, provenance."""

from collections.abc import Iterator, Mapping
from typing import Any

from fovea.report.finding import HEADLINE_METRIC
from fovea.report.points import looks_of
from fovea.report.rundata import GENERAL_CORPUS, Comparison, RunData
from fovea.report.tables import Cell, Column, Sheet, gap, sheet, words
from fovea.report.words import count, interval, number, scientific

SKIPPED_KEYS = ("sha256", "key", "format")
LEDGER = {
    "d_sae": ("latents", "width d_sae"),
    "n_parameters": ("parameters", "trained and frozen"),
    "n_tokens": ("tokens", "activations learnt from, repeats included"),
    "epochs": ("epochs", "passes over the training tokens of D"),
    "n_steps": ("steps", ""),
    "flops": ("FLOPs", "of the SAE, counted as if dense"),
    "flops_lm_shared": ("lm FLOPs", "of the lm's forward, shared by all jobs of the domain"),
    "seconds": ("seconds", "wall clock of the job's own steps"),
    "n_dead": ("dead at the end", "latents that had not fired for a while when training ended"),
}


def comparisons(run: RunData) -> list[tuple[str, Sheet]]:
    """A title and a sheet for each compared metric, held-out text only."""
    several = len(run.domains) > 1
    order = {domain: i for i, domain in enumerate(run.domains)}
    rows = [row for row in run.comparisons if row.split == "heldout"]
    rows.sort(
        key=lambda r: (order.get(r.domain or "", 0), r.corpus == GENERAL_CORPUS, r.l0 or 0.0, r.method_a, r.method_b)
    )
    slots = {name: look.slot for name, look in looks_of(run).items()}
    names = ["domain"] * several + ["text", "L0", "method A", "method B", "value A", "value B", "A \u2212 B", "reading"]
    columns = [Column(name, is_number=name in ("L0", "value A", "value B", "A \u2212 B")) for name in names]
    found: list[tuple[str, Sheet]] = []
    metrics = dict.fromkeys(row.metric for row in rows)
    for metric in sorted(metrics, key=lambda metric: metric != HEADLINE_METRIC):
        title = str(run.definitions.get(metric, {}).get("name", metric))
        cells = [[words(r.domain)] * several + _comparison(run, r, slots) for r in rows if r.metric == metric]
        found.append((title, sheet(f"matched-{len(found)}", title, columns, rows=cells)))
    return found


def _comparison(run: RunData, row: Comparison, slots: Mapping[str, int]) -> list[Cell]:
    why = row.reason
    cells = [words(f"held-out {row.corpus}"), gap(why) if row.l0 is None else Cell(number(row.l0, 1), row.l0)]
    cells += [words(row.method_a, slots.get(row.method_a)), words(row.method_b, slots.get(row.method_b))]
    cells += [gap(why) if value is None else Cell(number(value), value) for value in (row.value_a, row.value_b)]
    if row.difference is None:
        return [*cells, gap(why), words("cannot be read")]
    cells.append(Cell(number(row.difference), row.difference, interval(row.ci_low, row.ci_high)))
    return [*cells, words(reading(run, row))]


def reading(run: RunData, row: Comparison) -> str:
    """Which of the two is better, if the interval says so."""
    if row.ci_low is None or row.ci_high is None:
        return "no interval"
    if row.ci_low <= 0 <= row.ci_high:
        return "no clear difference"
    higher = is_higher_better(run.definitions.get(row.metric, {}))
    if higher is None:
        return f"{row.method_a if row.ci_low > 0 else row.method_b} higher"
    return f"{row.method_a if (row.ci_low > 0) == higher else row.method_b} better"


def is_higher_better(definition: Mapping[str, Any]) -> bool | None:
    """True, False, or None where neither direction is better."""
    direction = definition.get("direction")
    return {"higher": True, "lower": False}.get(direction) if direction else definition.get("higher_is_better")


def ledger(run: RunData) -> Sheet | None:
    """What each job cost."""
    if not run.ledgers:
        return None
    columns = [Column("job", is_number=False), *(Column(title, hint=hint) for title, hint in LEDGER.values())]
    rows: list[list[Cell]] = []
    for name, about in run.ledgers.items():
        values = about.get("ledger", {})
        rows.append([words(name), *(_cost(key, values.get(key)) for key in LEDGER)])
    return sheet("ledger", "Cost of each job", columns, rows=rows)


def _cost(key: str, value: int | float | None) -> Cell:
    if value is None:
        return gap("not recorded")
    if key.startswith("flops"):
        return Cell(scientific(value), value)
    return Cell(number(value, 1) if key in ("epochs", "seconds") else count(value), value)


def definitions(run: RunData) -> Sheet | None:
    """Every metric: name, formula, unit, direction, source, note."""
    if not run.definitions:
        return None
    names = ("metric", "name", "formula", "unit", "better", "source", "note")
    columns = [Column(name, is_number=False) for name in names]
    rows: list[list[Cell]] = []
    for key, value in run.definitions.items():
        better = {True: "higher", False: "lower", None: "neither"}[is_higher_better(value)]
        texts = [key, *(str(value.get(name) or "") for name in ("name", "formula", "unit")), better]
        rows.append([words(text) for text in [*texts, str(value.get("source") or ""), str(value.get("note") or "")]])
    return sheet("definitions", "Definitions", columns, rows=rows)


def flat(name: str, caption: str, values: Mapping[str, Any]) -> Sheet | None:
    """Nested values as a table: one row per leaf, its place in words."""
    leaves = list(_leaves(values))
    if not leaves:
        return None
    columns = [Column("where", is_number=False), Column("what", is_number=False), Column("value", is_number=False)]
    return sheet(
        name, caption, columns, rows=[[words(part), words(what), _leaf(value)] for part, what, value in leaves]
    )


def _leaves(values: Mapping[str, Any], part: str = "", path: str = "") -> Iterator[tuple[str, str, Any]]:
    for key, value in values.items():
        if key in SKIPPED_KEYS and part:
            continue
        here = f"{path} {key}".strip() if part else ""
        if isinstance(value, dict):
            yield from _leaves(value, part or key, here)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                yield from _leaves(item, part or key, here)
        else:
            yield part or key, here.replace("_", " "), value


def _leaf(value: Any) -> Cell:
    if value is None:
        return gap("not recorded")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return words(", ".join(str(item) for item in value) if isinstance(value, list) else str(value))
    return Cell(count(value) if isinstance(value, int) else number(value, 1), value)
