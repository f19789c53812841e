"""Charts to files: a Vega-Lite chart becomes the SVG and PNG of the figures folder and the SVG inside the page.

    Figure (wide and narrow chart) --vl-convert--> SVG --+--> figures/NAME.svg, figures/NAME.png (2x)
                                                         +--> inline SVG: own ids, a label, no namespace, tooltips

One drawing serves light and dark: the style sheet maps each fill and stroke of `palette` to its dark value.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from fovea.atomic import write_bytes, write_text
from fovea.errors import ConfigError
from fovea.report.palette import FONT, GRID, INK, MUTED, PAPER

Chart = dict[str, Any]
"A Vega-Lite 6 specification."

WIDE, NARROW = 960, 350
NEEDS_EXTRA = 'the report needs {}, which is not installed; run: pip install "fovea-sae[report]"'

_TEXT = {"labelColor": MUTED, "titleColor": INK, "labelFont": FONT, "titleFont": FONT}
_LINES = {"gridColor": GRID, "domainColor": MUTED, "tickColor": MUTED, "tickSize": 4, "titlePadding": 8}
HOUSE_STYLE: Chart = {
    "font": FONT,
    "view": {"stroke": None},
    "axis": {**_TEXT, **_LINES, "titleFontWeight": "normal", "titleFontSize": 12, "labelFontSize": 11},
    "title": {"color": INK, "font": FONT, "fontSize": 12.5, "fontWeight": "bold", "anchor": "start", "offset": 8},
    "text": {"font": FONT, "color": INK, "fontSize": 11},
}


class Figure(NamedTuple):
    """A figure before it is drawn."""

    name: str
    "File name without suffix."
    title: str
    caption: str
    label: str
    "What the figure shows, in words with numbers, for those who cannot see it."
    draw: Callable[[int], Chart]
    "The chart for a page this many pixels wide."
    tab: str = ""
    "What the switch between figures calls it."


class Drawn(NamedTuple):
    """A figure as the page shows it."""

    name: str
    title: str
    tab: str
    caption: str
    wide: str
    narrow: str


def require_extra() -> None:
    """Check that the drawing libraries are installed.

    Raises:
        ConfigError: the `report` extra is missing.
    """
    for module in ("jinja2", "vl_convert"):
        if find_spec(module) is None:
            raise ConfigError(NEEDS_EXTRA.format(module))


def write_figure(figure: Figure, folder: Path) -> Drawn:
    """Draw `figure` into folder/NAME.svg and folder/NAME.png, and for the page."""
    import vl_convert

    wide, narrow = (to_svg(figure.draw(width)) for width in (WIDE, NARROW))
    write_text(folder / f"{figure.name}.svg", wide)
    write_bytes(folder / f"{figure.name}.png", vl_convert.svg_to_png(wide, scale=2))
    return Drawn(
        name=figure.name,
        title=figure.title,
        tab=figure.tab or figure.title,
        caption=figure.caption,
        wide=inline(wide, prefix=f"{figure.name}-w", label=figure.label, kind="wide"),
        narrow=inline(narrow, prefix=f"{figure.name}-n", label=figure.label, kind="narrow"),
    )


def to_svg(chart: Chart) -> str:
    """The chart as an SVG document in the light palette."""
    import vl_convert

    return vl_convert.vegalite_to_svg({**chart, "config": HOUSE_STYLE, "background": PAPER, "padding": 4})


def mark(kind: str, rows: Sequence[Mapping[str, Any]], channels: Chart, **style: Any) -> Chart:
    """One layer: `rows` drawn as `kind` marks (point, line, rule, bar, text)."""
    return {"data": {"values": list(rows)}, "mark": {"type": kind, **style}, "encoding": channels}


def inline(svg: str, *, prefix: str, label: str, kind: str) -> str:
    """`svg` for inside a page: ids made unique, hidden parts out, each described mark with a tooltip."""
    size = re.search(r'<svg[^>]* viewBox="(0 0 ([\d.]+) ([\d.]+))"[^>]*>', svg)
    assert size is not None, "vl-convert always gives a viewBox"
    body = re.sub(r"<[a-z][^>]*>", lambda tag: _clean(tag[0], prefix), svg[size.end() :])
    escaped = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
    box = f'viewBox="{size[1]}" width="{size[2]}" height="{size[3]}"'
    return f'<svg class="figure {kind}" role="img" aria-label="{escaped}" {box}>{body}'


def _clean(tag: str, prefix: str) -> str:
    """One element of Vega's SVG: what only Vega's own page needs is dropped, a mark's description becomes a tooltip."""
    if ' display="none"' in tag and tag.endswith("/>"):
        return ""
    told = re.search(r' aria-label="([^"]* at L0 [^"]*)"', tag)
    tag = re.sub(r' (role|aria-[a-z]+|pointer-events|cursor|class|stroke-miterlimit)="[^"]*"', "", tag)
    tag = tag.replace(' opacity="1"', "")
    tag = re.sub(r' (d|transform|x|y|x2|y2|width|height)="[^"]*"', lambda part: _DECIMALS.sub(r"\1", part[0]), tag)
    tag = re.sub(r'( id="| clip-path="url\(#| href="#)', lambda part: f"{part[0]}{prefix}-", tag)
    if told is None or not tag.endswith("/>"):
        return tag
    name = tag[1:].split(maxsplit=1)[0]
    return f"{tag[:-2]}><title>{told[1]}</title></{name}>"


_DECIMALS = re.compile(r"(\d+\.\d{2})\d+")
"Beyond a hundredth of a pixel."
