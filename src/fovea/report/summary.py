"""The end of a run in the terminal: the finding in words and a small table. Needs no extra."""

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from fovea.report.finding import HEADLINE_METRIC, finding
from fovea.report.points import Point, Text, points
from fovea.report.rundata import GENERAL_CORPUS, RunData, read_run
from fovea.report.words import DASH, count, number


def headline(run: Path) -> str:
    """The finding of the run in folder `run`, a few sentences; the report opens with the same ones."""
    return " ".join(finding(read_run(run)))


def summary_table(run: Path) -> Table:
    """Methods x sparsities: L0, loss recovered on held-out D with its interval and on general text, dead latents."""
    data = read_run(run)
    table = Table(title="Loss recovered of g's gap, on held-out text", title_justify="left", caption_justify="left")
    several = len(data.domains) > 1
    for name in ["domain"] * several + ["method", "sparsity"]:
        table.add_column(name, overflow="fold")
    for name in ("L0", "on D [95%]", "on general", "dead"):
        table.add_column(name, justify="right", no_wrap=True)
    for domain in data.domains:
        own = Text(data.corpus_of(domain), "heldout")
        on_general = _by_key(points(data, domain, Text(GENERAL_CORPUS, "heldout"), metric=HEADLINE_METRIC))
        dead = _by_key(points(data, domain, own, metric="n_dead"))
        for point in points(data, domain, own, metric=HEADLINE_METRIC):
            key = (point.series.name, point.sparsity)
            cells = [point.series.name, point.sparsity, number(point.l0, 1), point.told]
            cells += [number(on_general[key].value), count(dead[key].value)]
            table.add_row(*(escape(cell) for cell in [domain] * several + cells))
        table.add_section()
    table.caption = _caption(data)
    return table


def _by_key(found: list[Point]) -> dict[tuple[str, str], Point]:
    return {(point.series.name, point.sparsity): point for point in found}


def _caption(data: RunData) -> str:
    parts = ["1: as good as the unpatched lm; 0: no better than g. dead: latents that never fired on held-out D."]
    reasons = {
        point.reason
        for domain in data.domains
        for corpus in (data.corpus_of(domain), GENERAL_CORPUS)
        for point in points(data, domain, Text(corpus, "heldout"), metric=HEADLINE_METRIC)
        if point.value is None and point.reason
    }
    return escape(" ".join([*parts, *(f"{DASH}: {reason}." for reason in sorted(reasons))]))
