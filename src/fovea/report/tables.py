"""The report's tables as values: columns, rows and cells, with the reason of every gap.

A gap is shown as a dash with a letter; the letters are explained under the table, so that a phone and a printout have
the reasons too. `sort` is what a click on the column's heading sorts by; gaps sort last whatever the direction.
"""

from collections.abc import Sequence
from typing import NamedTuple

from fovea.report.words import DASH

NO_RECORD = "not measured in this run"


class Cell(NamedTuple):
    """One cell."""

    text: str
    sort: int | float | str | None = None
    note: str = ""
    "A second, smaller line: an interval."
    reason: str | None = None
    "Why the cell is a gap."
    mark: str = ""
    "Letter of the reason, set by `Sheet`."
    slot: int | None = None
    "Colour slot of a method's swatch."


class Column(NamedTuple):
    """One column."""

    name: str
    is_number: bool = True
    hint: str = ""
    "What the heading means."


class Sheet(NamedTuple):
    """A table with its explained gaps."""

    name: str
    "Unique; part of the element's id."
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    reasons: list[tuple[str, str]]
    "Letter and reason."


def sheet(name: str, caption: str, columns: Sequence[Column], *, rows: Sequence[Sequence[Cell]]) -> Sheet:
    """A table whose gaps carry letters."""
    letters: dict[str, str] = {}
    marked: list[list[Cell]] = []
    for row in rows:
        cells: list[Cell] = []
        for cell in row:
            if cell.reason is not None:
                letters.setdefault(cell.reason, _letter(len(letters)))
                cell = cell._replace(mark=letters[cell.reason])
            cells.append(cell)
        marked.append(cells)
    return Sheet(name, caption, list(columns), marked, [(letter, reason) for reason, letter in letters.items()])


def words(text: str | None, slot: int | None = None) -> Cell:
    """A cell of words; a dash where there are none."""
    return Cell(text or DASH, text or None, slot=slot)


def gap(reason: str | None) -> Cell:
    """A dash and why."""
    return Cell(DASH, reason=reason or NO_RECORD)


def _letter(index: int) -> str:
    """a, b ... z, aa, ab ..."""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)
