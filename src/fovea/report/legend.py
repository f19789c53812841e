"""A legend drawn as a strip above the panels: line, dash and marker of each entry, wrapped to the page's width."""

from typing import NamedTuple

from fovea.report.drawing import Chart, mark
from fovea.report.palette import Look

CHARACTER, LINE_HEIGHT, SAMPLE, GAP = 6.4, 20, 30, 22
"Pixels: width of a character at 12 px, height of a row, length of a line sample, space between entries."


class Entry(NamedTuple):
    """One line or marker and its name; a look without a shape is a line alone."""

    name: str
    look: Look
    dash: list[int] | None = None
    "None: a marker alone."


def legend(entries: list[Entry], *, width: int | float) -> Chart:
    """The strip."""
    x, y, layers = 0.0, LINE_HEIGHT / 2, list[Chart]()
    for entry in entries:
        sample = SAMPLE if entry.dash is not None else 12
        length = sample + 6 + CHARACTER * len(entry.name)
        if x > 0 and x + length > width:
            x, y = 0.0, y + LINE_HEIGHT
        layers += _entry(entry, x, y, sample)
        x += length + GAP
    return {"layer": layers, "width": width, "height": y + LINE_HEIGHT / 2}


def _entry(entry: Entry, x: float, y: float, sample: int) -> list[Chart]:
    look = entry.look
    layers: list[Chart] = []
    if entry.dash is not None:
        line = {**_at("x", "y"), "x2": {"field": "x2"}}
        rows = [{"x": x, "x2": x + sample, "y": y}]
        layers.append(mark("rule", rows, line, color=look.colour, strokeWidth=1.8, strokeDash=entry.dash))
    if look.shape:
        layers.append(_dot(look, x + sample / 2, y))
    words = {**_at("x", "y"), "text": {"field": "name", "type": "nominal"}}
    row = {"x": x + sample + 6, "y": y, "name": entry.name}
    layers.append(mark("text", [row], words, align="left", baseline="middle", fontSize=12))
    return layers


def _dot(look: Look, x: float, y: float) -> Chart:
    style = {"shape": look.shape, "size": look.size, "color": look.colour}
    return mark("point", [{"x": x, "y": y}], _at("x", "y"), filled=True, opacity=1, **style)


def _at(*fields: str) -> Chart:
    """Channels in pixels."""
    return {name: {"field": name, "type": "quantitative", "scale": None, "axis": None} for name in fields}
