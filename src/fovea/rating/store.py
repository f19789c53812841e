"""The study's database: what was sealed into it at creation, and an event log that only grows.

    fact, rater, evidence, item   written once by `create`; then the table `closed` has its row and inserts are refused
    event                         one row per acknowledged step, one transaction each: WAL, synchronous = FULL

Triggers refuse every UPDATE and DELETE. An event has an idempotency key of its rater: the same step sent twice is
stored once. Which feature an item is, is not here: that is in sealed.json, which rating never opens.
"""

import json
import math
import sqlite3
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fovea.errors import StudyBusyError, StudyError
from fovea.foreign import Refusal, damage, is_there

FORMAT = 1
_COPY = Refusal(StudyError, "restore it (with its -wal file) from a copy")
_TABLES = ("fact", "rater", "evidence", "item", "event", "closed")
_SCHEMA = """
CREATE TABLE closed (at REAL NOT NULL);
CREATE TABLE fact (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE rater (number INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, token_sha256 TEXT NOT NULL);
CREATE TABLE evidence (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE item (
    id TEXT PRIMARY KEY, rater INTEGER NOT NULL REFERENCES rater, phase TEXT NOT NULL, position INTEGER NOT NULL,
    evidence TEXT NOT NULL REFERENCES evidence, UNIQUE (rater, phase, position)
);
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, rater INTEGER NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL,
    item TEXT REFERENCES item, body TEXT NOT NULL, at REAL NOT NULL, UNIQUE (rater, key)
);
CREATE INDEX event_of_rater ON event (rater, seq);
"""
BUSY_SECONDS = 5.0
"How long a write waits for another program's: less than a page waits for its answer, so that waits do not pile up."
MAX_VALUE = 16 * 1024 * 1024
"Bytes of one value."
Journal = Literal["wal", "delete"]
OWNER = 0
"Rater number of the study's owner, whose only event is the unblinding."


class Stored(NamedTuple):
    """One event as it is in the log."""

    seq: int
    rater: int
    key: str
    kind: str
    item: str | None
    body: dict[str, Any]
    at: float
    "Seconds since 1970, of the server."


class Rater(NamedTuple):
    """One who rates."""

    number: int
    name: str
    kind: str
    token_sha256: str


class Item(NamedTuple):
    """One thing that one rater sees."""

    id: str
    rater: int
    phase: str
    position: int
    evidence: str


class Content(NamedTuple):
    """Everything that is written once."""

    facts: dict[str, Any]
    raters: Iterable[Rater]
    evidence: dict[str, str]
    items: Iterable[Item]


class Store:
    """An open database. One connection, used by one thread at a time; any number of processes.

    Args:
        journal: wal for a study on its server; delete for a packet, which is one file after every step.
    """

    def __init__(self, path: Path, *, journal: Journal = "wal") -> None:
        if not is_there(path, path.parent, _COPY):
            raise StudyError(f"{path} does not exist, so there is no such study; make one with `fovea study new`")
        self._path, self._lock = path, threading.RLock()
        self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._open(path, journal)
        except StudyError:
            self._connection.close()
            raise

    def _open(self, path: Path, journal: Journal) -> None:
        try:
            _bound(self._connection)
            if schema_of(self._connection) != schema_of_a_store():
                raise ValueError("its tables, indices and triggers are not those of one")
            _set_up(self._connection, journal)
            facts = self._connection.execute("SELECT name, body FROM fact").fetchall()
            raters = self._connection.execute("SELECT * FROM rater ORDER BY number").fetchall()
            self.facts: dict[str, Any] = {name: json.loads(body) for name, body in facts}
            self.raters = tuple(Rater(*row) for row in raters)
            _check_raters(self.raters)
        except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise StudyBusyError(f"{path} is held by another program ({error}); try again") from None
            raise StudyError(
                f"{path} cannot be read as a study ({error}); restore it (with its -wal file) from a copy"
            ) from None
        if self.facts.get("format") != FORMAT:
            raise StudyError(f"{path} has format {self.facts.get('format')!r}, this version reads {FORMAT}")

    def close(self) -> None:
        """Close the connection; acknowledged events are on the disk already."""
        with self._lock:
            self._connection.close()

    def items(self, rater: int) -> list[Item]:
        """The rater's items in their order, phase by phase."""
        with self._lock, self.sound():
            rows = self._connection.execute("SELECT * FROM item WHERE rater = ? ORDER BY phase, position", (rater,))
            return [Item(*row) for row in rows]

    def evidence(self, identity: str) -> dict[str, Any]:
        """What is shown."""
        with self.sound():
            return json.loads(self.evidence_text(identity))

    def evidence_text(self, identity: str) -> str:
        """What is shown, as it is stored."""
        with self._lock, self.sound():
            (body,) = self._connection.execute("SELECT body FROM evidence WHERE id = ?", (identity,)).fetchone()
            return body

    def events(self, rater: int | None = None, *, after: int = 0) -> list[Stored]:
        """Events in order, of one rater or of all."""
        where, values = ("AND rater = ?", (after, rater)) if rater is not None else ("", (after,))
        columns = "seq, rater, key, kind, item, body, at"
        with self._lock, self.sound():
            rows = self._connection.execute(f"SELECT {columns} FROM event WHERE seq > ? {where} ORDER BY seq", values)
            return [_stored(row) for row in rows]

    def find(self, rater: int, key: str) -> Stored | None:
        """The event with this idempotency key."""
        columns = "seq, rater, key, kind, item, body, at"
        with self._lock, self.sound():
            row = self._connection.execute(
                f"SELECT {columns} FROM event WHERE rater = ? AND key = ?", (rater, key)
            ).fetchone()
            return None if row is None else _stored(row)

    @contextmanager
    def sound(self) -> Generator[None]:
        """Context in which what the database holds may turn out to be nonsense.

        Raises:
            StudyError: it does, or another program holds the database.
            ProgrammingError: the store is closed, which says nothing of the file.
        """
        misused: sqlite3.ProgrammingError | None = None
        with damage(self._path, _COPY, sqlite3.Error):
            try:
                yield
            except sqlite3.ProgrammingError as error:
                misused = error
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                    raise StudyBusyError(f"{self._path} is held by another program ({error}); try again") from None
                raise
        if misused is not None:
            raise misused

    @contextmanager
    def writing(self) -> Generator[None]:
        """A transaction that nobody else can write in; committed to the disk when the block ends well."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                raise StudyBusyError(
                    f"the study's database cannot be written now ({error}): another program may hold it; "
                    "nothing was recorded, try again"
                ) from None
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def append(
        self, rater: int, key: str, *, kind: str, item: str | None, body: dict[str, Any], at: float | None = None
    ) -> Stored:
        """Add one event; only inside `writing`. `at` is now, unless the step was made elsewhere."""
        at = time.time() if at is None else at
        written = json.dumps(body, ensure_ascii=True, allow_nan=False, sort_keys=True)
        cursor = self._connection.execute(
            "INSERT INTO event (rater, key, kind, item, body, at) VALUES (?, ?, ?, ?, ?, ?)",
            (rater, key, kind, item, written, at),
        )
        assert cursor.lastrowid is not None
        return Stored(cursor.lastrowid, rater, key, kind, item, body, at)


def _stored(row: tuple[Any, ...]) -> Stored:
    seq, rater, key, kind, item, body, at = row
    texts = isinstance(key, str) and isinstance(kind, str) and isinstance(item, str | None)
    if not (texts and isinstance(at, int | float) and math.isfinite(at)):
        raise ValueError(f"event {seq}")
    return Stored(seq, rater, key, kind, item, json.loads(body), at)


def _check_raters(raters: tuple[Rater, ...]) -> None:
    for number, rater in enumerate(raters, start=1):
        texts: tuple[Any, ...] = rater[1:]
        if rater.number != number or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"rater {number}")
    if not raters:
        raise ValueError("it has no rater")


def _bound(connection: sqlite3.Connection) -> None:
    """What no study needs is off: large values, other files, functions in the schema."""
    for limit, most in ((sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE), (sqlite3.SQLITE_LIMIT_ATTACHED, 0)):
        connection.setlimit(limit, most)
    connection.execute("PRAGMA trusted_schema = OFF")


def _set_up(connection: sqlite3.Connection, journal: Journal) -> None:
    synchronous = "FULL" if journal == "wal" else "EXTRA"  # where a journal is deleted, the folder is synced as well
    for pragma in (f"journal_mode = {journal}", f"synchronous = {synchronous}"):
        connection.execute(f"PRAGMA {pragma}")
    for pragma in ("recursive_triggers = ON", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("PRAGMA trusted_schema = OFF")


def schema_of(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    """All that a database holds but rows: tables, indices and triggers."""
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()


def schema_of_a_store() -> list[tuple[str, ...]]:
    """The schema of every database that `create_store` makes."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(_SCHEMA)
        _forbid_changes(connection)
        return schema_of(connection)
    finally:
        connection.close()


def create_store(path: Path, content: Content, *, journal: Journal = "wal") -> None:
    """Write a new database; everything but events is fixed from here on."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        _set_up(connection, journal)
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN IMMEDIATE")
        facts = {"format": FORMAT, **content.facts}
        connection.executemany("INSERT INTO fact VALUES (?, ?)", [(k, json.dumps(v)) for k, v in facts.items()])
        connection.executemany("INSERT INTO rater VALUES (?, ?, ?, ?)", list(content.raters))
        connection.executemany("INSERT INTO evidence VALUES (?, ?)", sorted(content.evidence.items()))
        connection.executemany("INSERT INTO item VALUES (?, ?, ?, ?, ?)", sorted(content.items))
        connection.execute("COMMIT")
        _forbid_changes(connection)
        connection.execute("INSERT INTO closed VALUES (?)", (time.time(),))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


def _forbid_changes(connection: sqlite3.Connection) -> None:
    for table in _TABLES:
        for verb in ("UPDATE", "DELETE"):
            connection.execute(
                f"CREATE TRIGGER no_{verb.lower()}_{table} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'the study is append-only'); END"
            )
        if table != "event":
            connection.execute(
                f"CREATE TRIGGER no_insert_{table} BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM closed) "
                f"BEGIN SELECT RAISE(ABORT, 'the study is sealed'); END"
            )
