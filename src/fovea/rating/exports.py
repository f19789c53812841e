"""Ratings for other tools: one row per rater and item as csv and as json; the mapping only after the unblinding.

Cells of the csv that a spreadsheet would take for a formula get an apostrophe in front; json has the exact text.
"""

import csv
import io
import time
from pathlib import Path
from typing import Any

from fovea.atomic import write_json, write_text
from fovea.errors import StudyError
from fovea.rating.collect import Row, rows_of
from fovea.rating.sealing import Sealed
from fovea.rating.study import Study

COLUMNS = (
    "study", "rater", "rater_kind", "phase", "position", "item", "panel", "domain", "specificity", "cannot_tell",
    "nice", "skip_reason", "note", "explanation", "guess", "seconds", "answered_at",
)  # fmt: skip
MAPPING = ("arm", "job", "latent", "repeat_of", "control")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20", "|", "%")


def export(study: Study, out: Path) -> list[Path]:
    """Write ratings.csv, ratings.json and events.json into the new folder `out`; their paths.

    Raises:
        StudyError: the folder exists.
    """
    if out.exists():
        raise StudyError(f"--out {str(out)!r} exists; give a new folder")
    sealed = study.sealed() if study.is_unblinded else None
    names = COLUMNS + (MAPPING if sealed is not None else ())
    rows = [_values(study, row, sealed) for row in rows_of(study.store, sealed)]
    write_text(out / "ratings.csv", to_csv(names, rows))
    head = {"study": study.name, "is_unblinded": sealed is not None, "commitment": study.store.facts["commitment"]}
    write_json(out / "ratings.json", {**head, "rows": rows})
    names_of = {rater.number: rater.name for rater in study.store.raters} | {0: "(owner)"}
    events = [{**e._asdict(), "rater": names_of[e.rater]} for e in study.store.events()]
    write_json(out / "events.json", {**head, "events": events})
    return [out / name for name in ("ratings.csv", "ratings.json", "events.json")]


def _values(study: Study, row: Row, sealed: Sealed | None) -> dict[str, Any]:
    answer = row.answer
    at = answer.answered_at
    found: dict[str, Any] = {
        "study": study.name,
        "rater": row.rater.name,
        "rater_kind": row.rater.kind,
        "phase": row.phase,
        "position": row.position,
        "item": row.item,
        "panel": row.panel,
        "domain": row.subject,
        "specificity": answer.specificity,
        "cannot_tell": answer.cannot_tell,
        "nice": answer.nice,
        "skip_reason": answer.skip_reason,
        "note": answer.note,
        "explanation": answer.explanation,
        "guess": answer.guess,
        "seconds": answer.seconds if answer.is_done else None,
        "answered_at": None if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)),
    }
    if sealed is not None:
        control = {} if row.control is None else sealed.controls[row.control]
        feature = control if row.feature is None else sealed.features[row.feature]
        found |= {name: feature.get(name) for name in ("arm", "job", "latent")}
        found |= {"repeat_of": row.repeat_of, "control": control.get("known")}
    return found


def to_csv(names: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    """Rows as csv that is safe to open in a spreadsheet."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([safe_cell(row[name]) for name in names] for row in rows)
    return file.getvalue()


def safe_cell(value: Any) -> Any:
    """A cell that no spreadsheet runs: an apostrophe before what looks like a formula, NUL made visible."""
    if not isinstance(value, str):
        return value
    text = value.replace("\0", "\u2400")
    return f"'{text}" if text.lstrip(" \u00a0\ufeff\u200b").startswith(_FORMULA) else text
