"""Parquet tables that may come from strangers: bounded in rows, columns of numbers, no more read than is asked for.

A table of a few bytes may hold a thousand million equal rows, so that what is on the disk says nothing of its size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fovea.foreign import Refusal, damage, regular

_WHAT = "not a readable parquet table"
MAX_ROWS = 2**24
"Latents of the widest SAE that is known (16 million)."

MAX_BYTES = 2**29
"Of the columns of one row group, unpacked."


def open_table(path: Path, run: Path, refusal: Refusal, *, max_rows: int = MAX_ROWS) -> pq.ParquetFile:
    """The parquet file at `path`, inside the folder `run`, of a plausible size.

    Raises:
        FoveaError: the refusal: not there, damaged, or too large.
    """
    with damage(path, refusal, pa.ArrowException, what=_WHAT):
        file = pq.ParquetFile(regular(path, run, refusal))
        about = file.metadata
        if not 0 <= about.num_rows <= max_rows:
            raise ValueError(f"{about.num_rows:,} rows, at most {max_rows:,} are read")
        for index in range(about.num_row_groups):
            group = about.row_group(index)
            if group.num_rows > max_rows or group.total_byte_size > MAX_BYTES:
                raise ValueError(f"{group.total_byte_size:,} bytes in one part, at most {MAX_BYTES:,} are read")
        return file


def read_table(
    path: Path, run: Path, refusal: Refusal, *, columns: Sequence[str] | None = None, max_rows: int = MAX_ROWS
) -> Any:
    """The table at `path`, of columns of numbers; `columns` that are not there are left out.

    Raises:
        FoveaError: the refusal: as `open_table`, or a column holds something else than numbers.
    """
    table = open_table(path, run, refusal, max_rows=max_rows)
    with damage(path, refusal, pa.ArrowException, what=_WHAT), table as file:
        names = [name for name in file.schema_arrow.names if columns is None or name in columns]
        if len(set(names)) < len(names):
            raise ValueError("two columns of one name")
        for name in names:
            kind = file.schema_arrow.field(name).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
                raise TypeError(f"column {name!r:.100} is of type {kind}, not of numbers")
        return file.read(columns=names)
