"""The figure of a blind study: for each text and method, how often each point of the rubric was given, stacked."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fovea.rating.visible import visible
from fovea.report.drawing import NARROW, Chart, mark
from fovea.report.legend import Entry, legend
from fovea.report.palette import CONTROL, INK, PAPER, RAMP, Look
from fovea.report.words import number

BAR, ROW = 20, 34
"Pixels: height of a bar, of a row."
_PALE = 6
"From this entry of the ramp on, numbers inside a bar are set in the paper's colour."
_SMALLEST = 0.035
"Share of the width below which a part carries no number."


class Row(NamedTuple):
    """One bar."""

    panel: str
    arm: str
    counts: dict[str, int]
    "Point in words -> ratings; the last is what could not be interpreted."
    mean: float | None


def rows_of(result: Mapping[str, Any], panels: Mapping[str, str]) -> list[Row]:
    """The bars in reading order."""
    found: list[Row] = []
    for panel, about in result["panels"].items():
        for each in about["distributions"]:
            counts = {str(point): n for point, n in enumerate(each["points"])}
            counts["can't tell"] = each["n_cannot_tell"]
            found.append(Row(panels[panel], visible(each["arm"]), counts, each["mean"]["value"]))
    return found


def draw(result: Mapping[str, Any], panels: Mapping[str, str], width: int) -> Chart:
    """The chart."""
    n_points = len(result["points"])
    colours = [*_colours(n_points), CONTROL]
    names = [*(str(point) for point in range(n_points)), "can't tell"]
    left = 70 if width <= NARROW else 110
    entries = [Entry(n, Look(0, c, "square", ())) for n, c in zip(names, colours, strict=True)]
    charts = [legend(entries, width=width - left)]
    rows = rows_of(result, panels)
    for panel in dict.fromkeys(row.panel for row in rows):
        own = [row for row in rows if row.panel == panel]
        charts.append(_panel(own, colours, panel=panel, size=(width - left - 16, left)))
    return {"vconcat": charts, "spacing": 14}


def _colours(n_points: int) -> list[str]:
    """The ramp, thinned to so many points."""
    last = len(RAMP) - 1
    return [RAMP[round(i * last / max(n_points - 1, 1))] for i in range(n_points)]


def _panel(rows: list[Row], colours: list[str], *, panel: str, size: tuple[int, int]) -> Chart:
    width, left = size
    parts: list[dict[str, Any]] = []
    for row in rows:
        total = max(sum(row.counts.values()), 1)
        start = 0.0
        for (name, n), colour in zip(row.counts.items(), colours, strict=True):
            end = start + n / total
            told = f"{row.arm}, {panel}: {n} ratings of {name}"
            ink = PAPER if colour in RAMP[_PALE:] or colour == CONTROL else INK
            part = {"arm": row.arm, "low": start, "high": end, "middle": (start + end) / 2, "n": str(n)}
            parts.append({**part, "told": told, "colour": colour, "ink": ink})
            start = end
    axis = {"format": "%", "title": "share of ratings", "grid": False, "tickCount": 5}
    x = {"field": "low", "type": "quantitative", "scale": {"domain": [0, 1], "nice": False}, "axis": axis}
    y_axis = {"title": None, "minExtent": left - 8, "maxExtent": left - 8, "labelLimit": left - 12, "ticks": False}
    y = {"field": "arm", "type": "nominal", "sort": None, "axis": {**y_axis, "domain": False}}
    layers: list[Chart] = []
    for colour in dict.fromkeys(colours):
        own = [part for part in parts if part["colour"] == colour and part["high"] > part["low"]]
        channels = {"x": x, "x2": {"field": "high"}, "y": y, "description": {"field": "told", "type": "nominal"}}
        layers.append(mark("bar", own, channels, color=colour, height=BAR, stroke=PAPER, strokeWidth=1))
    for ink in (INK, PAPER):
        own = [part for part in parts if part["ink"] == ink and part["high"] - part["low"] >= _SMALLEST]
        channels = {"x": {**x, "field": "middle"}, "y": y, "text": {"field": "n", "type": "nominal"}}
        layers.append(mark("text", own, channels, color=ink, baseline="middle"))
    title = {"text": _title(panel, rows), "limit": width + left}
    return {"layer": layers, "width": width, "height": ROW * len(rows), "title": title}


def _title(panel: str, rows: list[Row]) -> list[str]:
    return [f"On {panel}", "means: " + ", ".join(f"{row.arm} {number(row.mean, 2)}" for row in rows)]
