"""A packet from elsewhere: read only, bounded in size, its schema exactly ours, every value checked."""

import json
import math
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from fovea.errors import StudyError
from fovea.rating.store import FORMAT, MAX_VALUE, Item, Rater, Stored, schema_of, schema_of_a_store

MAX_BYTES = 256 * 1024 * 1024
"Of a packet; one of 400 features has 7 MB."
MAX_EVENTS = 200_000
MAX_BODY = 64 * 1024
"Characters of one event's body."
LAST_SECOND = 253402300800.0
"The year 10000: times beyond cannot be written as dates."
_MAGIC = b"SQLite format 3\0"


class Packed(NamedTuple):
    """All rows of a packet."""

    facts: dict[str, Any]
    raters: list[Rater]
    items: list[Item]
    evidence: dict[str, str]
    events: list[Stored]


def check_is_closed(path: Path) -> None:
    """Nothing, if all steps are in the file itself.

    Raises:
        StudyError: a journal lies beside it: a step was being written when the process was killed.
    """
    for suffix in ("-journal", "-wal"):
        beside = path.with_name(path.name + suffix)
        if beside.is_file() and beside.stat().st_size:
            raise StudyError(
                f"{beside} lies beside the packet: it is being rated, or was killed while a step was written; run "
                f"`fovea study rate {path.name}` once more and stop it with Ctrl-C"
            )


def check_is_packet(path: Path) -> None:
    """Nothing, if the file may be one: of its size, and with its first bytes.

    Raises:
        StudyError: it is missing, too large, or no packet.
    """
    if not path.is_file():
        raise StudyError(f"{path} does not exist or is no file; give the packet that the rater sent")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise StudyError(f"{path} has {size:,} bytes, a packet at most {MAX_BYTES:,}; it is none")
    with path.open("rb") as file:
        head = file.read(20)
    if head[:16] != _MAGIC or head[18:20] != b"\x01\x01":
        raise StudyError(f"{path} is no packet as `fovea study packet` makes it; give the file that came back")


def read_packed(path: Path) -> Packed:
    """The rows of a packet.

    Raises:
        StudyError: the file is missing, too large, damaged, not a packet, or of another version.
    """
    check_is_packet(path)
    try:
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=30)
        try:
            return _read(connection, path)
        finally:
            connection.close()
    except (sqlite3.Error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StudyError(f"{path} is damaged ({error!r}); ask for the file again") from None


def _read(connection: sqlite3.Connection, path: Path) -> Packed:
    for limit, most in (
        (sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE),
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0),
    ):
        connection.setlimit(limit, most)
    for pragma in ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON", "mmap_size = 0"):
        connection.execute(f"PRAGMA {pragma}")
    if schema_of(connection) != schema_of_a_store():
        raise StudyError(f"{path} is no packet: its tables, indices and triggers are not those of one")
    (state,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if state != "ok":
        raise StudyError(f"{path} is damaged ({state}); ask for the file again")
    (n_events,) = connection.execute("SELECT count(*) FROM event").fetchone()
    if n_events > MAX_EVENTS:
        raise StudyError(f"{path} holds {n_events:,} events, at most {MAX_EVENTS:,} are read; it is no honest packet")
    facts = {_text(name): _json(body) for name, body in connection.execute("SELECT name, body FROM fact")}
    if facts.get("format") != FORMAT or "packet" not in facts:
        raise StudyError(f"{path} is no packet of this version (format {facts.get('format')!r}, not {FORMAT})")
    for name in ("rater", "token"):
        _text(facts["packet"][name])
    _text(facts["name"])
    return Packed(
        facts,
        [Rater(_whole(n), *map(_text, rest)) for n, *rest in connection.execute("SELECT * FROM rater")],
        [
            Item(_text(i), _whole(rater), _text(phase), _whole(position), _text(evidence))
            for i, rater, phase, position, evidence in connection.execute("SELECT * FROM item")
        ],
        {_text(i): _text(body) for i, body in connection.execute("SELECT id, body FROM evidence")},
        [_event(row) for row in connection.execute("SELECT * FROM event ORDER BY seq")],
    )


def _event(row: tuple[Any, ...]) -> Stored:
    seq, rater, key, kind, item, body, at = row
    told = _json(body, MAX_BODY)
    is_fine = isinstance(told, dict) and _whole(rater) == 1 and isinstance(at, float) and math.isfinite(at)
    if kind == "undo" and is_fine:
        _whole(told["of"])
    if not is_fine or len(_text(key)) > 128:
        raise ValueError(f"event {seq}")
    return Stored(_whole(seq), 1, key, _text(kind), None if item is None else _text(item), told, at)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} in place of a text")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError(f"{type(value).__name__} in place of a number")
    return value


def _json(value: Any, most: int = MAX_VALUE) -> Any:
    if len(_text(value)) > most:
        raise ValueError(f"{len(value)} characters of json, at most {most} are read")
    return json.loads(value, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise ValueError(name)
