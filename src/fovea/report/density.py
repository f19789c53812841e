"""Figure 2: how often the latents of each method fire on general text, on a log scale, with those that never do apart.

A row per method at its middle sparsity. Left, apart from the axis: the share of latents that never fired in N tokens,
split into those that fire on D (what a domain SAE is for) and those that fire nowhere (dead). Right: the rest, in bins
of 0.2 decades from the smallest density that N tokens can show, 1/N. g's own histogram is outlined in every row.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fovea.report.drawing import NARROW, Chart, Figure, mark
from fovea.report.latents import Floats, Latents, read_latents
from fovea.report.legend import Entry, legend
from fovea.report.palette import CONTROL, GRID, INK, MUTED, Look
from fovea.report.points import looks_of, middle_jobs
from fovea.report.rundata import RunData
from fovea.report.words import MINUS, count, one_in, percent

STEP = 0.2
"Width of a bin in decades."
APART, LEFT = 58, 54
"Pixels: width of the bar apart, room for the vertical axis."


class Row(NamedTuple):
    """One SAE of the figure."""

    name: str
    sparsity: str
    look: Look
    latents: Latents


def density_figure(run: RunData, domain: str, *, name: str) -> Figure | None:
    """Figure 2 of one domain; None where no table of latents holds densities."""
    looks = looks_of(run)
    rows: list[Row] = []
    for series, job in middle_jobs(run, domain).items():
        latents = read_latents(run.folder, job.name)
        if latents is not None and latents.densities is not None:
            rows.append(Row(series.name, job.sparsity, looks[series.name], latents))
    if not rows:
        return None
    g = read_latents(run.folder, "g" if len(run.domains) == 1 else f"{domain}-g")
    g = g if g is not None and g.densities is not None else None
    n_tokens = max(row.latents.n_tokens_general or 0 for row in rows)
    told = [_told(row, domain) for row in rows]
    return Figure(
        name=name,
        title=f"Latents of the {domain} SAEs on general text",
        caption=_caption(domain, n_tokens, has_g=g is not None),
        label=f"Histograms of log density on {count(n_tokens)} general tokens. {' '.join(told)}",
        draw=partial(_draw, rows, g, domain=domain, n_tokens=n_tokens),
    )


def bins(densities: Floats, *, n_tokens: int, n_latents: int) -> list[dict[str, float]]:
    """Share of all latents in each bin of log10 density, from 1/N up to 1."""
    edges = _edges(n_tokens)
    counts, _ = np.histogram(np.minimum(np.log10(densities) + 1e-9, 0.0), bins=edges)
    shares = counts / max(n_latents, 1)
    return [{"low": float(edges[i]), "high": float(edges[i + 1]), "share": float(s)} for i, s in enumerate(shares)]


def _edges(n_tokens: int) -> Floats:
    start = -math.log10(n_tokens)
    return np.minimum(start + STEP * np.arange(math.ceil(-start / STEP) + 1), 0.0)


def _caption(domain: str, n_tokens: int, *, has_g: bool) -> str:
    outline = " The grey outline is g." if has_g else " g has no table of latents, so its outline is missing."
    parts = [
        f"Density = tokens on which a latent fires / N, with N = {count(n_tokens)} general tokens.",
        f"SAEs of middle sparsity; bins of {STEP:g} decades; shares of all latents of the SAE.{outline}",
        "Apart on the left: latents that never fired in those N tokens, so that their density is below 3/N,",
        f"{one_in(3 / n_tokens)} (95%); the coloured part fires on {domain}, the grey part nowhere.",
        "Heights are scaled row by row; the bars apart run from 0 to 100%.",
    ]
    return " ".join(parts)


def _told(row: Row, domain: str) -> str:
    latents = row.latents
    n = max(latents.n_latents, 1)
    median = latents.median_density
    fires = "no latent fires there" if median is None else f"the median latent that fires, on {one_in(median)} tokens"
    told = f"{row.name} {row.sparsity}: {fires}; {percent((latents.n_silent or 0) / n)} never fire there"
    dead = "" if latents.n_dead is None else f", {percent(latents.n_dead / n)} fire neither there nor on {domain}"
    return f"{told}{dead}."


def _draw(rows: list[Row], g: Latents | None, width: int, *, domain: str, n_tokens: int) -> Chart:
    narrow = width <= NARROW
    apart_width = 34 if narrow else APART
    wide = width - 8 - 2 * LEFT - apart_width - 10
    entries = [Entry("never fires, neither there nor on D (dead)", Look(0, CONTROL, "square", ()))]
    if g is not None:
        entries.append(Entry("g", Look(0, MUTED, "", ()), [1, 0]))
    charts = [legend(entries, width=width - 60)]
    for i, row in enumerate(rows):
        size: dict[str, Any] = {"height": 84 if narrow else 92}
        is_last = i == len(rows) - 1
        apart = {**_apart(row, is_last=is_last), **size, "width": apart_width}
        histogram = {**_histogram(row, g, n_tokens=n_tokens, is_last=is_last), **size, "width": wide}
        title = {"text": f"{row.name} {row.sparsity}", "subtitle": _subtitle(row, domain, narrow=narrow)}
        title |= {"subtitleColor": MUTED, "subtitleFontSize": 11, "limit": width, "offset": 6}
        charts.append({"hconcat": [apart, histogram], "spacing": 10, "title": title})
    return {"vconcat": charts, "spacing": 12}


def _subtitle(row: Row, domain: str, *, narrow: bool) -> list[str]:
    latents = row.latents
    n = max(latents.n_latents, 1)
    parts = [
        f"{count(latents.n_latents)} latents",
        f"{percent((latents.n_silent or 0) / n)} never fire on general text",
    ]
    if latents.n_dead is not None:
        parts.append(f"{percent(((latents.n_silent or 0) - latents.n_dead) / n)} fire on {domain} only")
    if latents.median_density is not None:
        parts.append(f"median of the rest {one_in(latents.median_density)}")
    return ["; ".join(parts[:2]), "; ".join(parts[2:])] if narrow else ["; ".join(parts)]


def _apart(row: Row, *, is_last: bool) -> Chart:
    latents, bar = row.latents, 26
    n = max(latents.n_latents, 1)
    silent = (latents.n_silent or 0) / n
    dead = silent if latents.n_dead is None else latents.n_dead / n
    axis = {"values": [0, 0.5, 1], "format": "%", "minExtent": LEFT - 8, "title": None, "grid": False}
    y = {"field": "low", "type": "quantitative", "scale": {"domain": [0, 1]}, "axis": axis}
    tick = {"labelExpr": "'never'", "title": None, "ticks": False, "labels": is_last, "domain": True, "labelAngle": 0}
    x = {"field": "x", "type": "nominal", "axis": tick}
    channels = {"x": x, "y": y, "y2": {"field": "high"}}
    parts = [
        mark("bar", [{"x": "never", "low": 0, "high": 1}], channels, color=GRID, opacity=0.55, width=bar),
        mark("bar", [{"x": "never", "low": 0, "high": dead}], channels, color=CONTROL, width=bar),
        mark("bar", [{"x": "never", "low": dead, "high": silent}], channels, color=row.look.colour, width=bar),
    ]
    return {"layer": parts}


def _histogram(row: Row, g: Latents | None, *, n_tokens: int, is_last: bool) -> Chart:
    start = -math.log10(n_tokens)
    ticks = list(range(math.ceil(start), 1))
    axis: Chart = {"values": ticks, "grid": False, "labels": False, "titlePadding": 22}
    axis["title"] = "density on general text (log scale)" if is_last else None
    scale = {"domain": [start - 0.02, 0.02], "nice": False}
    x = {"field": "low", "type": "quantitative", "scale": scale, "axis": axis}
    y_axis = {"format": ".0%", "tickCount": 3, "title": "share of latents", "minExtent": LEFT - 22}
    y: Chart = {"field": "share", "type": "quantitative", "axis": y_axis}
    densities = row.latents.densities
    assert densities is not None
    shares = bins(densities, n_tokens=n_tokens, n_latents=row.latents.n_latents)
    outline: list[dict[str, float]] = []
    if g is not None and g.densities is not None and g.n_tokens_general:
        outline = bins(g.densities, n_tokens=n_tokens, n_latents=g.n_latents)
    top = max([b["share"] for b in [*shares, *outline]] + [0.01]) * 1.1
    y["scale"] = {"domain": [0, top], "nice": False}
    bars = {"x": x, "x2": {"field": "high"}, "y": y, "y2": {"datum": 0}}
    layers = [mark("bar", shares, bars, color=row.look.colour, opacity=0.85, binSpacing=0.6)]
    layers += [_outline(outline, x=x, y=y)] if outline else []
    layers += [*_smallest(start, x), *(_powers(ticks, x) if is_last else [])]
    return {"layer": layers}


def _powers(ticks: list[int], x: Chart) -> list[Chart]:
    """Labels 10^n set as two texts: few fonts have the raised digits."""
    powers = [f"{tick or ''}".replace("-", MINUS) for tick in ticks]
    rows = [
        {"low": tick, "base": "10" if tick else "1", "power": power} for tick, power in zip(ticks, powers, strict=True)
    ]

    def label(field: str, **style: Any) -> Chart:
        channels = {"x": x, "y": {"value": "height"}, "text": {"field": field, "type": "nominal"}}
        return mark("text", rows, channels, color=MUTED, baseline="top", **style)

    return [label("base", align="right", dx=4, dy=9), label("power", align="left", dx=5, dy=5, fontSize=9)]


def _outline(shares: list[dict[str, float]], *, x: Chart, y: Chart) -> Chart:
    steps = [{"low": b[end], "share": b["share"]} for b in shares for end in ("low", "high")]
    order = {"order": {"field": "low", "type": "quantitative"}}
    return mark("line", steps, {"x": x, "y": y, **order}, color=MUTED, strokeWidth=1.2, opacity=0.9)


def _smallest(start: float, x: Chart) -> list[Chart]:
    row = {"low": start, "name": "1/N"}
    rule = mark("rule", [row], {"x": x}, color=INK, strokeDash=[2, 2], strokeWidth=1)
    words = {"x": x, "y": {"value": 6}, "text": {"field": "name", "type": "nominal"}}
    return [rule, mark("text", [row], words, align="left", dx=4, fontSize=10.5)]
