"""Figure 1: loss recovered (or FVU) against L0, a panel per domain and for general text, a line per method.

Seeds are pooled as `points` says. g stands at its own L0; its loss recovered against itself is 0 by definition.
Controls are grey; those beyond the axis are drawn as arrows on its edge and told in the caption, so that they do not
flatten the methods.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from fovea.report.drawing import Figure
from fovea.report.panels import Marker, Panel, grid, is_compressed, value_range
from fovea.report.points import Text, looks_of, points
from fovea.report.rundata import GENERAL_CORPUS, Record, RunData
from fovea.report.words import MINUS, count, listing, number

ZERO_BY_DEFINITION = ("loss_recovered_gap", "loss_recovered_gap_masked")
MANY = 2
"Above so many domains, captions and labels give ranges."


class View(NamedTuple):
    """One metric that the figure can show."""

    metric: str
    title: str
    axis: str
    formula: str


VIEWS = (
    View(
        "loss_recovered_gap",
        "Gap to g",
        "loss recovered (gap to g)",
        "(ce_g - ce) / (ce_g - ce_clean), ratio of sums over tokens",
    ),
    View(
        "loss_recovered_gap_masked",
        "Gap to g, masked",
        "loss recovered (gap to g, masked)",
        "the gap version over only those tokens where g hurts, ce_g - ce_clean > 0.001 (flatters every method)",
    ),
    View(
        "loss_recovered_zero",
        "Zero ablation",
        "loss recovered (zero ablation)",
        "(ce_zero - ce) / (ce_zero - ce_clean)",
    ),
    View(
        "loss_recovered_mean",
        "Mean ablation",
        "loss recovered (mean ablation)",
        "(ce_mean - ce) / (ce_mean - ce_clean)",
    ),
    View("fvu", "FVU", "FVU (lower is better)", "sum |x - x_hat|\u00b2 / sum |x - mean(x)|\u00b2"),
)


def pareto_figure(run: RunData, view: View, *, matched: Mapping[str, float | None]) -> Figure | None:
    """Figure 1 for one metric; None where no point is known. `matched` is the L0 of each domain's finding."""
    panels: list[Panel] = []
    for domain in run.domains:
        text = Text(run.corpus_of(domain), "heldout")
        panels.append(_panel(run, view, domain, text=text)._replace(rule=matched.get(domain)))
        panels.append(_panel(run, view, domain, text=Text(GENERAL_CORPUS, "heldout")))
    panels = [panel for panel in panels if any(point.is_drawn for point in panel.points)]
    if not panels:
        return None
    looks = looks_of(run)
    return Figure(
        name=f"pareto-{view.metric.replace('_', '-')}",
        tab=view.title,
        title=_title(view),
        caption=_caption(run, view, panels),
        label=_label(view, panels),
        draw=partial(grid, panels, looks, axis=view.axis),
    )


def _title(view: View) -> str:
    name = view.axis.removesuffix(" (lower is better)")
    return f"{name[0].upper()}{name[1:]} against L0"


def _panel(run: RunData, view: View, domain: str, *, text: Text) -> Panel:
    markers: list[Marker] = []
    for job in run.jobs_of(domain):
        if job.method not in ("general", "control"):
            continue
        l0 = run.find(job.name, "l0", corpus=text.corpus, split=text.split, domain=domain)
        value = run.find(job.name, view.metric, corpus=text.corpus, split=text.split, domain=domain)
        known = value.value if value else None
        is_g = job.method == "general"
        if is_g and view.metric in ZERO_BY_DEFINITION:
            known = 0.0
        if l0 is not None and l0.value is not None and known is not None:
            markers.append(Marker("g" if is_g else job.sparsity, l0.value, known, is_g))
    is_general = text.corpus == GENERAL_CORPUS
    title = f"Held-out {domain}"
    if is_general:
        title = f"{domain}, general text" if len(run.domains) > 1 else "Held-out general text"
    return Panel(title, is_general, points(run, domain, text, metric=view.metric), markers, None)


def _label(view: View, panels: Sequence[Panel]) -> str:
    told = [_told_ranges(panel) if len(panels) > 2 * MANY else _told(panel) for panel in panels]
    return f"{view.axis} against L0. {' '.join(told)} All values are in the results table."


def _told(panel: Panel) -> str:
    lines: dict[str, list[str]] = {}
    for point in panel.points:
        if point.is_drawn:
            lines.setdefault(point.series.name, []).append(f"{point.told} at L0 {number(point.l0, 1)}")
    return f"{panel.title}: {'; '.join(f'{name} {listing(told)}' for name, told in lines.items())}."


def _told_ranges(panel: Panel) -> str:
    lines: dict[str, list[float]] = {}
    for point in panel.points:
        if point.value is not None:
            lines.setdefault(point.series.name, []).append(point.value)
    told = [f"{name} {number(min(values), 2)} to {number(max(values), 2)}" for name, values in lines.items()]
    return f"{panel.title}: {'; '.join(told)}."


def _caption(run: RunData, view: View, panels: Sequence[Panel]) -> str:
    parts = [f"{view.axis[0].upper()}{view.axis[1:]} = {view.formula.replace(' - ', f' {MINUS} ')}.", _sizes(run, view)]
    if not any(point.low is not None for panel in panels for point in panel.points):
        parts.append("No intervals were recorded.")
    elif run.n_seeds > 1:
        parts.append(f"Points are means over a job's seeds (at most {run.n_seeds}).")
        parts.append("Bars span the seeds' 95% document-bootstrap intervals.")
    else:
        parts.append("Bars are 95% document-bootstrap intervals; one seed.")
    if view.metric in ZERO_BY_DEFINITION:
        parts.append("g is 0 by definition.")
    if any(panel.rule for panel in panels):
        parts.append("The dotted line is the matched L0 at which the finding is read.")
    blocks = {general: [p for p in panels if p.is_general is general] for general in (False, True)}
    for general, block in blocks.items():
        if is_compressed(block):
            which = "general text" if general else "held-out D"
            parts.append(f"The vertical axis of {which} is compressed away from 0 (symmetric log).")
    off: dict[str, list[float]] = {}
    for panel in panels:
        low, high = value_range(blocks[panel.is_general])
        for marker in panel.markers:
            if not low <= marker.value <= high:
                off.setdefault(marker.name, []).append(marker.value)
    if off:
        told = listing([f"{name} {_range(values)}" for name, values in off.items()])
        parts.append(f"Controls beyond an axis are arrows at its edge: {told}.")
    return " ".join(parts)


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values), 2), number(max(values), 2)
    return low if low == high else f"{low} to {high}"


def _sizes(run: RunData, view: View) -> str:
    domains = [_measured(run, run.corpus_of(domain), view.metric) for domain in run.domains]
    known = [record for record in domains if record is not None and record.n_documents is not None]
    general = _measured(run, GENERAL_CORPUS, view.metric)
    told = [_size(record) for record in known]
    if len(known) > MANY:
        documents = [record.n_documents or 0 for record in known]
        ends = dict.fromkeys([count(min(documents)), count(max(documents))])
        told = [f"{len(known)} domains of {' to '.join(ends)} documents each"]
    if general is not None and general.n_documents is not None:
        told.append(_size(general))
    return f"Held-out text: {'; '.join(told)}." if told else "How much text was held out was not recorded."


def _size(record: Record) -> str:
    return f"{record.corpus}, {count(record.n_documents)} documents, {count(record.n_tokens)} tokens"


def _measured(run: RunData, corpus: str, metric: str) -> Record | None:
    lines = (r for r in run.records if (r.corpus, r.split, r.metric) == (corpus, "heldout", metric))
    return next((r for r in lines if r.n_documents is not None), None)
