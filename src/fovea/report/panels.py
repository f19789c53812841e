"""How a Pareto panel is drawn: axes, lines, bars and markers of figure 1 as Vega-Lite layers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fovea.report.drawing import NARROW, Chart, mark
from fovea.report.legend import Entry, legend
from fovea.report.palette import CONTROL_LOOK, G_LOOK, INK, MUTED, PAPER, Look
from fovea.report.points import Point
from fovea.report.words import number

X_TITLE = "L0: latents per token, all SAEs (log scale)"
WORST_LINEAR = -2.0
"Below this loss recovered the axis is compressed (symmetric log)."
TICKS = (1, 2, 3, 5)
SYMLOG_TICKS = (-1000, -300, -100, -30, -10, -3, -1, 0, 1)
LEFT, GAP = 52, 26
"Pixels: room for the vertical axis, space between panels."


class Marker(NamedTuple):
    """g or a control: a point that belongs to no line."""

    name: str
    l0: float
    value: float
    is_g: bool


class Panel(NamedTuple):
    """One pair of axes."""

    title: str
    is_general: bool
    points: list[Point]
    markers: list[Marker]
    rule: float | None
    "The matched L0."


def value_range(panels: Sequence[Panel]) -> tuple[float, float]:
    """Ends of the vertical axis: all methods, their bars and g, but not the controls."""
    values = [marker.value for panel in panels for marker in panel.markers if marker.is_g]
    for point in (point for panel in panels for point in panel.points if point.is_drawn):
        values += [value for value in (point.value, point.low, point.high) if value is not None]
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.05
    return low - room, high + room


def is_compressed(panels: Sequence[Panel]) -> bool:
    """The vertical axis of these panels is a symmetric log."""
    return bool(panels) and value_range(panels)[0] < WORST_LINEAR


def grid(panels: Sequence[Panel], looks: Mapping[str, Look], width: int, *, axis: str) -> Chart:
    """The whole figure: legend, then panels of the domains, then of general text."""
    narrow = width <= NARROW
    blocks = [[p for p in panels if p.is_general is general] for general in (False, True)]
    blocks = [block for block in blocks if block]
    if len(panels) <= 2:
        blocks = [list(panels)]
    longest = max(len(block) for block in blocks)
    columns = (1 if longest <= 2 else 2) if narrow else min(4, max(2, longest))
    size = (width - 8 - columns * LEFT - (columns - 1) * GAP) / columns
    height = {1: 190, 2: 220, 3: 180}.get(columns, 150) if not narrow or columns == 1 else 120
    x_domain = _l0_domain(panels)
    rows: list[Chart] = [legend(_entries(panels, looks), width=width - LEFT - 8)]
    for block in blocks:
        for start in range(0, len(block), columns):
            cells: list[Chart] = []
            for i, panel in enumerate(block[start : start + columns]):
                group = [p for p in panels if p.is_general is panel.is_general]
                is_last = start + i + columns >= len(block)
                is_first = i == 0 or len(blocks) == 1
                titles = (X_TITLE if size > 240 else "L0 (log scale)") if is_last else None, axis if is_first else None
                cell = _panel(panel, looks, x=_x(x_domain, titles[0]), y=_y(group, titles[1]), ends=value_range(group))
                title = {"text": panel.title, "limit": size + 24, **({"fontSize": 11} if size < 200 else {})}
                cells.append({**cell, "title": title, "width": size, "height": height})
            rows.append({"hconcat": cells, "spacing": GAP})
    return {"vconcat": rows, "spacing": 16}


def _entries(panels: Sequence[Panel], looks: Mapping[str, Look]) -> list[Entry]:
    names = dict.fromkeys(point.series.name for panel in panels for point in panel.points if point.is_drawn)
    entries = [Entry(name, looks[name], list(looks[name].dash)) for name in names]
    markers = [marker for panel in panels for marker in panel.markers]
    if any(marker.is_g for marker in markers):
        entries.append(Entry("g, the general SAE", G_LOOK))
    if any(not marker.is_g for marker in markers):
        entries.append(Entry("controls", CONTROL_LOOK))
    return entries


def _l0_domain(panels: Sequence[Panel]) -> tuple[float, float]:
    l0s = [point.l0 for panel in panels for point in panel.points if point.is_drawn and point.l0]
    l0s += [marker.l0 for panel in panels for marker in panel.markers if marker.l0 > 0]
    low, high = (min(l0s), max(l0s)) if l0s else (1.0, 10.0)
    return low / 1.15, high * 1.15


def _x(domain: tuple[float, float], title: str | None) -> Chart:
    ticks = [10**e * nice for e in range(-1, 7) for nice in TICKS if domain[0] <= 10**e * nice <= domain[1]]
    axis = {"title": title, "values": ticks, "format": "~g", "grid": False, "labelOverlap": True}
    scale = {"type": "log", "domain": list(domain), "nice": False}
    return {"field": "l0", "type": "quantitative", "scale": scale, "axis": axis}


def _y(group: Sequence[Panel], title: str | None) -> Chart:
    low, high = value_range(group)
    axis: Chart = {"title": title, "format": "~g", "minExtent": LEFT - 22, "tickCount": 6}
    scale: Chart = {"domain": [low, high], "zero": False, "nice": False}
    if is_compressed(group):
        scale |= {"type": "symlog", "constant": 0.5}
        axis["values"] = [tick for tick in SYMLOG_TICKS if low <= tick <= high]
    return {"field": "value", "type": "quantitative", "scale": scale, "axis": axis}


def _panel(panel: Panel, looks: Mapping[str, Look], *, x: Chart, y: Chart, ends: tuple[float, float]) -> Chart:
    layers: list[Chart] = []
    if ends[0] <= 0 <= ends[1] and any(marker.is_g and marker.value == 0 for marker in panel.markers):
        layers.append(mark("rule", [{"value": 0.0}], {"y": y}, color=INK, strokeWidth=1))
    if panel.rule is not None:
        layers += _rule(panel.rule, x)
    drawn = [point for point in panel.points if point.is_drawn and (point.l0 or 0.0) > 0]
    for name in dict.fromkeys(point.series.name for point in drawn):
        rows = [_row(point) for point in drawn if point.series.name == name]
        colour = looks[name].colour
        order = {"order": {"field": "l0", "type": "quantitative"}}
        style = {"color": colour, "strokeWidth": 1.8, "strokeDash": list(looks[name].dash)}
        layers.append(mark("line", rows, {"x": x, "y": y, **order}, **style))
        layers.append(_dots(rows, looks[name], x=x, y=y))
        bars = [row for row in rows if row["low"] is not None and row["high"] is not None]
        layers += _bars(bars, colour, x=x, y=y) if bars else []
    layers += [_marker(marker, ends, x=x, y=y) for marker in panel.markers if marker.l0 > 0]
    return {"layer": layers}


def _rule(l0: float, x: Chart) -> list[Chart]:
    row = {"l0": l0, "name": f"L0 {l0:g}"}
    line = mark("rule", [row], {"x": x}, color=MUTED, strokeDash=[2, 3], strokeWidth=1)
    words = {"x": x, "y": {"value": 5}, "text": {"field": "name", "type": "nominal"}}
    return [line, mark("text", [row], words, align="left", dx=4, color=MUTED, fontSize=10.5)]


def _row(point: Point) -> dict[str, Any]:
    told = f"{point.series.name} {point.sparsity}: {point.told} at L0 {number(point.l0, 1)}"
    return {"l0": point.l0, "value": point.value, "low": point.low, "high": point.high, "told": told}


def _bars(rows: list[dict[str, Any]], colour: str, *, x: Chart, y: Chart) -> list[Chart]:
    low, high = {**y, "field": "low"}, {**y, "field": "high"}
    bar = mark("rule", rows, {"x": x, "y": low, "y2": {"field": "high"}}, color=colour, strokeWidth=1.4)
    caps = [mark("tick", rows, {"x": x, "y": end}, color=colour, thickness=1.4, size=9) for end in (low, high)]
    return [bar, *(cap | {"mark": cap["mark"] | {"orient": "horizontal"}} for cap in caps)]


def _dots(rows: list[dict[str, Any]], look: Look, *, x: Chart, y: Chart) -> Chart:
    style = {"shape": look.shape, "size": look.size, "color": look.colour, "stroke": PAPER, "strokeWidth": 0.8}
    told = {"description": {"field": "told", "type": "nominal"}}
    return mark("point", rows, {"x": x, "y": y, **told}, filled=True, opacity=1, **style)


def _marker(marker: Marker, ends: tuple[float, float], *, x: Chart, y: Chart) -> Chart:
    look = G_LOOK if marker.is_g else CONTROL_LOOK
    low, high = ends
    row: dict[str, Any] = {"l0": marker.l0, "value": marker.value}
    if marker.value < low or marker.value > high:
        look = look._replace(shape="triangle-down" if marker.value < low else "triangle-up")
        y = {"value": "height" if marker.value < low else 0}
    row["told"] = f"{marker.name}: {number(marker.value)} at L0 {number(marker.l0, 1)}"
    return _dots([row], look, x=x, y=y)
