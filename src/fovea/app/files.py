"""What the owner takes away: a selection as one static page, and rows of the table as csv."""

import csv
import hashlib
import io
import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from fovea.app.assets import STATIC, palette

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def static_page(title: str, words: str, cards: Sequence[dict[str, Any]]) -> str:
    """A page that shows `cards` without a network, a server or another file.

    The browser draws it with the explorer's own render.js. Its content security policy names its one style and its one
    script; data is json in which nothing can end the element that holds it.
    """
    import jinja2

    style = "\n".join((STATIC / "app.css").read_text() if name else palette() for name in (False, True))
    script = "\n".join((STATIC / name).read_text() for name in ("render.js", "static.js"))
    data = json.dumps({"title": title, "words": words, "cards": list(cards)}, allow_nan=False).translate(_ESCAPED)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(STATIC.parent / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("export.html").render(
        title=title, style=style, script=script, data=data, style_hash=_hash(style), script_hash=_hash(script)
    )


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as csv with CRLF; what is missing is empty, and no text is read as a formula by a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([safe_cell(name) for name in header])
    writer.writerows([safe_cell(cell) for cell in row] for row in rows)
    return out.getvalue()


def safe_cell(value: Any) -> Any:
    """`value` for csv: numbers as they are; text that a spreadsheet would calculate gets an apostrophe in front.

    Control characters and halves of surrogate pairs are written as their codes.
    """
    if not isinstance(value, str):
        return "" if value is None else value
    shown = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in value)
    starts = shown.lstrip(" \u00a0\u3000\ufeff")
    return f"'{shown}" if starts.startswith(_FORMULA) or shown.startswith(_FORMULA) else shown


def _hash(text: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()
