"""Parquet tables and SQLite databases with other columns, types and values than they should have, whole as files."""

import io
import random
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

VALUES: list[Any] = [None, 0, -1, 2**31, 2**62, float("nan"), float("inf"), "x", "", b"\xff\xfe", [], [1], "\0"]


def changed(data: bytes, rng: random.Random) -> bytes:
    """A parquet file with a column less, of another type or with other values, or with other rows."""
    try:
        table = pq.read_table(io.BytesIO(data))
        table = _changed(table, rng)
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=rng.choice([1, 32, 1024]), compression=rng.choice(["zstd", "none"]))
        return sink.getvalue()
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError):
        at = rng.randrange(max(1, len(data)))
        return data[:at] + rng.randbytes(4) + data[at + 4 :]


def _changed(table: Any, rng: random.Random) -> Any:
    at = rng.randrange(table.num_columns)
    name, column = table.column_names[at], table.column(at)
    match rng.randrange(7):
        case 0:
            return table.drop_columns([name])
        case 1:
            return table.slice(rng.randrange(len(table) + 1))
        case 2:
            return pa.concat_tables([table] * rng.choice([2, 40]))
        case 3:
            return table.set_column(at, name, pa.nulls(len(table), column.type))
        case 4:
            return table.set_column(at, name, pa.array([rng.choice(VALUES[5:])] * len(table)))
        case 5:
            return table.rename_columns([rng.choice(["x", "text", "latent", each]) for each in table.column_names])
        case _:
            values = column.to_pylist()
            if values:
                row = rng.randrange(len(values))
                values[row] = _other(values[row], rng)
            return table.set_column(at, name, pa.array(values))


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return rng.choice([[*value[:at], _other(value[at], rng), *value[at + 1 :]], value[:at], value * 3])
    if isinstance(value, int):
        return rng.choice([-1, 0, value + 1, 2**31 - 1, 2**62, None])
    if isinstance(value, float):
        return rng.choice([float("nan"), float("inf"), -1.0, 1e300, None])
    return rng.choice(VALUES[7:])


def database(data: bytes, rng: random.Random) -> bytes:
    """A SQLite file in which one value is another; its triggers, which forbid that, are as before."""
    with tempfile.NamedTemporaryFile(dir=_memory(), suffix=".sqlite") as file:
        Path(file.name).write_bytes(data)
        try:
            connection = sqlite3.connect(file.name, isolation_level=None)
            try:
                _rewritten(connection, rng)
            finally:
                connection.close()
            return Path(file.name).read_bytes()
        except (sqlite3.Error, ValueError, OverflowError):
            at = rng.randrange(max(1, len(data)))
            return data[:at] + rng.randbytes(4) + data[at + 4 :]


def _rewritten(connection: sqlite3.Connection, rng: random.Random) -> None:
    from scripts.fuzzing.mutations import described

    connection.execute("PRAGMA journal_mode = memory")
    connection.execute("PRAGMA synchronous = off")
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    table = rng.choice([name for name in names if not name.startswith("sqlite_")])
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    rows = connection.execute(f"SELECT rowid, * FROM {table}").fetchall()
    match rng.randrange(8):
        case 0 if rows:
            connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (rng.choice(rows)[0],))
        case 1:
            connection.execute(f"CREATE TRIGGER evil AFTER INSERT ON {table} BEGIN SELECT 1; END")
        case 2:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN more TEXT")
        case _ if rows:
            row, at = rng.choice(rows), rng.randrange(len(columns))
            value = row[1 + at]
            is_text = isinstance(value, str) and value[:1] in ("{", "[") and rng.random() < 0.8
            new = described(value.encode(), rng).decode(errors="replace") if is_text else rng.choice([*VALUES[:10]])
            connection.execute(f"UPDATE OR IGNORE {table} SET {columns[at]} = ? WHERE rowid = ?", (new, row[0]))
        case _:
            pass
    if rng.random() < 0.95:
        for _, sql in triggers:
            connection.execute(sql)


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
