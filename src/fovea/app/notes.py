"""The owner's notes and flags on latents: RUN/notes.sqlite, an append-only log of events.

A note that is taken back and a flag that is lowered are events too, so nothing written is ever lost. An event is
acknowledged after its commit (WAL, synchronous=FULL). The file is made by the first event: looking writes nothing.
"""

import sqlite3
import threading
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from fovea.errors import RunError, UnknownReferenceError
from fovea.foreign import Refusal, is_there

FILE = "notes.sqlite"
MAX_VALUE = 2**20
"Bytes of one note."
_AWAY = Refusal(RunError, "move it away")
_TABLE = """CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_utc TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('note', 'retract', 'flag', 'unflag')),
    job TEXT NOT NULL,
    latent INTEGER NOT NULL,
    text TEXT NOT NULL DEFAULT '',
    note INTEGER
)"""
_GUARDS = [
    f"CREATE TRIGGER IF NOT EXISTS no_{verb.lower()} BEFORE {verb} ON events "
    "BEGIN SELECT RAISE(ABORT, 'events are only ever added'); END"
    for verb in ("UPDATE", "DELETE")
]


class Note(NamedTuple):
    """One note as it stands."""

    number: int
    at_utc: str
    text: str


class Marks(NamedTuple):
    """What the owner said of one latent."""

    is_flagged: bool
    notes: tuple[Note, ...]


Place = tuple[str, int]
"Job and latent."


class Notes:
    """Notes and flags of a run, in memory as they stand; also what other processes append is seen."""

    def __init__(self, run: Path) -> None:
        self.path = run / FILE
        self.version = 0
        "Grows with every event."
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._flagged: set[Place] = set()
        self._notes: dict[Place, dict[int, Note]] = defaultdict(dict)

    def of(self, job: str, latent: int) -> Marks:
        """The marks of one latent."""
        with self._lock:
            self.refresh()
            notes = self._notes.get((job, latent), {})
            return Marks((job, latent) in self._flagged, tuple(notes.values()))

    def flagged(self) -> list[Place]:
        """Latents with a raised flag."""
        with self._lock:
            return list(self._flagged)

    def texts(self) -> dict[Place, str]:
        """All standing notes of each latent that has some, as one text."""
        with self._lock:
            return {place: "\n".join(n.text for n in notes.values()) for place, notes in self._notes.items() if notes}

    def add(self, job: str, latent: int, text: str) -> Marks:
        """Append a note."""
        return self._append("note", (job, latent), text=text)

    def flag(self, job: str, latent: int, raised: bool) -> Marks:
        """Raise or lower the flag of a latent."""
        return self._append("flag" if raised else "unflag", (job, latent))

    def retract(self, job: str, latent: int, number: int) -> Marks:
        """Take a note back; its text stays in the log.

        Raises:
            UnknownReferenceError: the latent has no such note.
        """
        with self._lock:
            self.refresh()
            if number not in self._notes.get((job, latent), {}):
                raise UnknownReferenceError(f"latent {latent} of {job} has no note {number}; reload the page")
            return self._append("retract", (job, latent), note=number)

    def refresh(self) -> None:
        """Take in the events that were appended since the last look."""
        with self._lock:
            if self._connection is None and not is_there(self.path, self.path.parent, _AWAY):
                return
            try:
                rows = self._open().execute(
                    "SELECT id, at_utc, kind, job, latent, text, note FROM events WHERE id > ? ORDER BY id",
                    (self.version,),
                )
                for row in rows:
                    self._apply(row)
            except (sqlite3.Error, ValueError, TypeError) as error:
                raise RunError(f"{self.path}: not a readable log of notes ({error}); move it away") from None

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _append(self, kind: str, place: Place, *, text: str = "", note: int | None = None) -> Marks:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._lock:
            try:
                with self._open() as connection:
                    connection.execute(
                        "INSERT INTO events (at_utc, kind, job, latent, text, note) VALUES (?, ?, ?, ?, ?, ?)",
                        (at, kind, *place, text, note),
                    )
            except sqlite3.Error as error:
                raise RunError(f"{self.path}: the note was not kept ({error}); is the folder writable?") from None
            return self.of(*place)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self.path, timeout=10, check_same_thread=False)
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
            connection.execute("PRAGMA trusted_schema = OFF")
            _check_schema(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                for statement in (_TABLE, *_GUARDS):
                    connection.execute(statement)
            self._connection = connection
        return self._connection

    def _apply(self, row: tuple[Any, ...]) -> None:
        number, at, kind, job, latent, text, note = row
        if not all(isinstance(each, str) for each in (at, kind, job, text)) or not isinstance(latent, int):
            raise ValueError(f"event {number}")
        place = (job, latent)
        match kind:
            case "note":
                self._notes[place][number] = Note(number, at, text)
            case "retract":
                self._notes[place].pop(note or 0, None)
            case "flag":
                self._flagged.add(place)
            case _:
                self._flagged.discard(place)
        self.version = number


def _check_schema(connection: sqlite3.Connection) -> None:
    """Nothing, if the file holds our table and triggers alone, or is new: a trigger of others could do anything."""
    found = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")}
    ours = {statement.replace(" IF NOT EXISTS", "") for statement in (_TABLE, *_GUARDS)}
    if not found <= ours:
        raise sqlite3.DatabaseError("it holds other tables or triggers")
