"""Figure 3: how close each latent comes to some latent of g, by decoder and by encoder.

A row per method at its middle sparsity, a column per side. Bands: where the middle 95% of the latents of a random and
of a moment-matched dictionary lie; their medians as lines. Latents at 0.9 or above count as not new.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fovea.report.drawing import NARROW, Chart, Figure, mark
from fovea.report.latents import NOT_NEW, Floats, Latents, read_latents
from fovea.report.legend import Entry, legend
from fovea.report.palette import GRID, INK, MUTED, Look
from fovea.report.points import looks_of, middle_jobs
from fovea.report.rundata import RunData
from fovea.report.words import count, listing, number, percent

STEP = 0.025
LEFT, GAP = 58, 20
SIDES = ("decoder", "encoder")
NAMES = {"random": "random directions", "moment": "a moment-matched dictionary"}
SHORT = {"random": "random", "moment": "moment-matched"}
DASHES = {"random": [1, 0], "moment": [4, 2]}


class Row(NamedTuple):
    """One SAE of the figure."""

    name: str
    sparsity: str
    look: Look
    latents: Latents


class Baseline(NamedTuple):
    """Largest cosines with g of a dictionary that learnt nothing."""

    name: str
    low: float
    median: float
    high: float


def novelty_figure(run: RunData, domain: str, *, name: str) -> Figure | None:
    """Figure 3 of one domain; None where no table of latents holds cosines with g."""
    looks = looks_of(run)
    rows: list[Row] = []
    for series, job in middle_jobs(run, domain).items():
        latents = read_latents(run.folder, job.name)
        if latents is not None and any(latents.novelty(side) is not None for side in SIDES):
            rows.append(Row(series.name, job.sparsity, looks[series.name], latents))
    if not rows:
        return None
    baselines = {side: baselines_of(run.baselines, side) for side in SIDES}
    told = " ".join(_told(row, side) for row in rows for side in SIDES)
    return Figure(
        name=name,
        title=f"Latents of the {domain} SAEs against those of g",
        caption=_caption(baselines, run.baselines.get("n_latents")),
        label=f"Histograms of the largest cosine with a latent of g. {told} {_told_baselines(baselines)}",
        draw=partial(_draw, rows, baselines),
    )


def baselines_of(values: dict[str, Any], side: str) -> list[Baseline]:
    """Middle 95% and median of each baseline that was measured for this side."""
    found: list[Baseline] = []
    for name in NAMES:
        cosines = values.get(name, {}).get(side)
        if cosines:
            low, median, high = np.quantile(np.asarray(cosines, dtype=np.float64), [0.025, 0.5, 0.975])
            found.append(Baseline(name, float(low), float(median), float(high)))
    return found


def _caption(baselines: dict[str, list[Baseline]], n_latents: int | None) -> str:
    present = dict.fromkeys(NAMES[b.name] for side in SIDES for b in baselines[side])
    bands = "No random baseline was recorded, so how low a cosine chance alone reaches is not shown."
    if present:
        width = f" of {count(n_latents)} latents" if n_latents else ""
        bands = f"Bands: the middle 95% of {listing(list(present))}{width}, with the median as a line."
    parts = [
        "Novelty = the largest cosine of a latent's decoder row (encoder column) with any of g's; low is new.",
        f"SAEs of middle sparsity; bins of {STEP:g}; heights are scaled panel by panel. {bands}",
        f"Printed at the right: how many latents reach {NOT_NEW}, where a latent repeats one of g's.",
    ]
    return " ".join(parts)


def _told(row: Row, side: str) -> str:
    cosines = row.latents.novelty(side)
    if cosines is None or not cosines.size:
        return f"{row.name} {side}: not measured."
    near = f"{count(int((cosines >= NOT_NEW).sum()))} of {count(cosines.size)} at {NOT_NEW} or above"
    return f"{row.name} {side}: median {number(float(np.median(cosines)), 2)}, {near}."


def _told_baselines(baselines: dict[str, list[Baseline]]) -> str:
    told = [f"{b.name} {side} {number(b.median, 2)}" for side in SIDES for b in baselines[side]]
    return f"Baseline medians: {listing(told)}." if told else "No baseline was recorded."


def _draw(rows: list[Row], baselines: dict[str, list[Baseline]], width: int) -> Chart:
    narrow = width <= NARROW
    size = width - 8 - LEFT if narrow else (width - 8 - 2 * LEFT - GAP) / 2
    present = dict.fromkeys(b.name for side in SIDES for b in baselines[side])
    entries = [Entry(f"{SHORT[name]}: median, middle 95%", Look(0, MUTED, "", ()), DASHES[name]) for name in present]
    charts = [legend(entries, width=width - LEFT)] if entries else list[Chart]()
    for i, row in enumerate(rows):
        cells: list[Chart] = []
        for side in SIDES:
            is_last = i == len(rows) - 1 and (not narrow or side == SIDES[-1])
            cell = _panel(row, side, baselines[side], is_last=is_last)
            cells.append({**cell, "width": size, "height": 84 if narrow else 92})
        charts += cells if narrow else [{"hconcat": cells, "spacing": GAP}]
    return {"vconcat": charts, "spacing": 12}


def _panel(row: Row, side: str, baselines: Sequence[Baseline], *, is_last: bool) -> Chart:
    cosines = row.latents.novelty(side)
    title = {"text": f"{row.name} {row.sparsity}, {side}", "limit": 300}
    axis: Chart = {"values": [0, 0.2, 0.4, 0.6, 0.8, 1], "format": "~g", "grid": False, "labels": is_last}
    axis["title"] = "largest cosine with a latent of g" if is_last else None
    low = min(0.0, float(cosines.min())) if cosines is not None and cosines.size else 0.0
    x = {"field": "low", "type": "quantitative", "scale": {"domain": [low, 1.0], "nice": False}, "axis": axis}
    if cosines is None or not cosines.size:
        words = {"x": {"value": 8}, "y": {"value": 20}, "text": {"field": "name", "type": "nominal"}}
        empty = mark("text", [{"name": "not measured in this run"}], words, align="left", color=MUTED)
        frame = mark("rule", [{"low": low}], {"x": x}, color=GRID)
        return {"layer": [frame, empty], "title": title}
    shares = bins(cosines, low=low)
    top = max(b["share"] for b in shares) * 1.3
    y_axis = {"format": ".0%", "tickCount": 3, "title": "share of latents", "minExtent": LEFT - 22}
    scale = {"domain": [0, top], "nice": False}
    y = {"field": "share", "type": "quantitative", "scale": scale, "axis": y_axis}
    bands = [_band(baseline, x) for baseline in baselines]
    layers = [layer for kind in zip(*bands, strict=True) for layer in kind]
    bars = {"x": x, "x2": {"field": "high"}, "y": y, "y2": {"datum": 0}}
    layers.append(mark("bar", shares, bars, color=row.look.colour, opacity=0.85, binSpacing=0.6))
    return {"layer": [*layers, *_limit(cosines, x)], "title": title}


def bins(cosines: Floats, *, low: float) -> list[dict[str, float]]:
    """Share of the latents in each bin of cosine; 1 belongs to the last bin."""
    n_bins = round((1.0 - low) / STEP)
    counts, edges = np.histogram(np.clip(cosines, low, 1.0), bins=max(n_bins, 1), range=(low, 1.0))
    shares = counts / cosines.size
    return [{"low": float(edges[i]), "high": float(edges[i + 1]), "share": float(s)} for i, s in enumerate(shares)]


def _band(baseline: Baseline, x: Chart) -> tuple[Chart, Chart]:
    row = {"low": baseline.low, "high": baseline.high, "median": baseline.median}
    band = mark("rect", [row], {"x": x, "x2": {"field": "high"}}, color=GRID, opacity=0.6)
    style = {"color": MUTED, "strokeDash": DASHES[baseline.name], "strokeWidth": 1.2}
    return band, mark("rule", [row], {"x": {**x, "field": "median"}}, **style)


def _limit(cosines: Floats, x: Chart) -> list[Chart]:
    near = int((cosines >= NOT_NEW).sum())
    row = {
        "low": NOT_NEW,
        "name": f"{count(near)} of {count(cosines.size)} ({percent(near / cosines.size)}) \u2265 {NOT_NEW}",
    }
    rule = mark("rule", [row], {"x": x}, color=INK, strokeDash=[2, 2], strokeWidth=1)
    words = {"x": x, "y": {"value": 5}, "text": {"field": "name", "type": "nominal"}}
    return [rule, mark("text", [row], words, align="right", dx=-4, fontSize=10.5)]
