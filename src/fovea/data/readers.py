"""File formats: one file in, its texts out, one at a time.

    path --(suffix)--> txt md jsonl parquet, each plain, .gz or .zst --> Record(text, where), Record, ...

Files are read as bytes: text mode would also break lines at U+2028, which json leaves unescaped inside strings.
Decompression is pyarrow's, because python-zstandard ends a truncated file without an error.
"""

import io
import json
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fovea.errors import CorpusError

_CODECS = {".gz": "gzip", ".zst": "zstd"}
_BUFFER_BYTES = 1 << 20
_PARQUET_ROWS = 64
MAX_DOCUMENT_BYTES = 64 * 2**20
"Of one document; as text in memory it may take several times as much."
MAX_LINE_BYTES = MAX_DOCUMENT_BYTES
"Of one line of jsonl."
MAX_BRACKETS = 2**22
"Opened in one line of jsonl: small objects and lists take 27 times their text in memory, a text about its size."
MAX_PART_BYTES = 2**30
"Of the texts in one row group, unpacked."
MAX_RATIO = 100
"Unpacked over packed size of a parquet file that is packed once more."
_BOM = b"\xef\xbb\xbf"


class Record(NamedTuple):
    """One text of a file. `text` is empty where the field holds null."""

    text: str
    where: str
    "File, and line or row, counted from 1."


def format_of(path: Path) -> str | None:
    """The format that the file's name announces ("txt", "md", "jsonl", "parquet"), or None if we do not read it."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _CODECS:
        suffixes.pop()
    return suffixes[-1][1:] if suffixes and suffixes[-1][1:] in _READERS else None


def supported() -> str:
    """The names that `format_of` knows, for error messages."""
    return ", ".join(f".{name}" for name in _READERS) + ", each also with .gz or .zst"


def read_file(path: Path, *, text_field: str) -> Iterator[Record]:
    """The texts of one file, in its order.

    Raises:
        CorpusError: unsupported name, not UTF-8, truncated or damaged, not json, or `text_field` missing.
    """
    name = format_of(path)
    if name is None:
        raise CorpusError(f"corpus file {str(path)!r} has an unsupported name; allowed are {supported()}; convert it")
    try:
        with _opened(path) as file:
            yield from _READERS[name](path, file, text_field)
    except CorpusError:
        raise
    except (OSError, pa.ArrowException, MemoryError, ValueError, LookupError) as error:
        raise CorpusError(
            f"corpus file {str(path)!r} cannot be read to its end ({error}); it is damaged or was cut short: fetch or "
            "write it again"
        ) from error


def text_of(record: dict[str, Any], text_field: str, where: str) -> str:
    """The text of one record; empty where the field holds null.

    Raises:
        CorpusError: the field is missing, is not text, or holds half of a surrogate pair.
    """
    if text_field not in record:
        raise _missing_field(text_field, list(record), where)
    text = record[text_field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise CorpusError(
            f"{where}: field {text_field!r} holds a {type(text).__name__}, but must hold text; set text_field to "
            "another "
            f"of {sorted(record)}"
        )
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"{where}: field {text_field!r} holds half of a surrogate pair at character {error.start}, which "
                "no UTF-8 "
                "text can hold; remove that escape"
            ) from error
    return text


@contextmanager
def _opened(path: Path) -> Generator[io.BufferedReader]:
    """The file's bytes, decompressed on the way."""
    codec = _CODECS.get(path.suffix.lower())
    if codec is None:
        with path.open("rb", buffering=0) as file:
            yield io.BufferedReader(file, _BUFFER_BYTES)
        return
    with pa.input_stream(str(path), compression=codec) as stream:
        buffered = io.BufferedReader(stream, _BUFFER_BYTES)
        try:
            yield buffered
        finally:
            buffered.detach()


def _read_whole(path: Path, file: io.BufferedReader, text_field: str) -> Iterator[Record]:  # noqa: ARG001
    data = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise _too_long(str(path), "split it into several files, or into a jsonl with a text per line")
    yield Record(_decoded(data.removeprefix(_BOM), path, 0), str(path))


def _read_jsonl(path: Path, file: io.BufferedReader, text_field: str) -> Iterator[Record]:
    offset = 0
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
        if len(line) > MAX_LINE_BYTES:
            raise CorpusError(
                f"{path} line {number} has more than {MAX_LINE_BYTES:,} bytes, which is the most that is read of one; "
                "split that text over several lines"
            )
        if line.count(b"{") + line.count(b"[") > MAX_BRACKETS:
            raise CorpusError(
                f"{path} line {number} opens more than {MAX_BRACKETS:,} brackets, which is the most that is read of "
                "one; leave out all but the text"
            )
        text = _decoded(line.removeprefix(_BOM) if number == 1 else line, path, offset)
        offset += len(line)
        if text.strip():
            where = f"{path} line {number}"
            yield Record(text_of(_json_object(text, where), text_field, where), where)


def _read_parquet(path: Path, file: io.BufferedReader, text_field: str) -> Iterator[Record]:
    with tempfile.TemporaryFile() as copy:
        if not file.seekable():
            _unpack(file, copy, path)
        source = file if file.seekable() else copy
        with pq.ParquetFile(source) as table:
            if text_field not in table.schema_arrow.names:
                raise _missing_field(text_field, table.schema_arrow.names, str(path))
            _check_column(table, text_field, path)
        # A column of texts that repeat stays a dictionary: unpacked, a small file can be larger than any memory.
        source.seek(0)
        with pq.ParquetFile(source, read_dictionary=[text_field], buffer_size=_BUFFER_BYTES) as table:
            batches = table.iter_batches(batch_size=_PARQUET_ROWS, columns=[text_field])
            cells = (cell for batch in batches for cell in batch.column(0))
            for number, cell in enumerate(cells, start=1):
                where = f"{path} row {number}"
                text = text_of({text_field: _python_value(cell, where)}, text_field, where)
                if len(text) > MAX_DOCUMENT_BYTES:
                    raise _too_long(where, "split it over several rows")
                yield Record(text, where)


def _unpack(file: io.BufferedReader, copy: io.BufferedRandom, path: Path) -> None:
    """Write what `file` unpacks to into `copy`, as far as that is plausible."""
    most = max(MAX_DOCUMENT_BYTES, MAX_RATIO * path.stat().st_size)
    left = most
    while data := file.read(min(_BUFFER_BYTES, left + 1)):
        left -= len(data)
        if left < 0:
            raise CorpusError(
                f"corpus file {str(path)!r} unpacks to more than {most:,} bytes, {MAX_RATIO} times its size: parquet "
                "is packed inside and does not shrink like that; unpack it yourself if you trust it"
            )
        copy.write(data)
    copy.seek(0)


def _check_column(table: pq.ParquetFile, text_field: str, path: Path) -> None:
    """Nothing, if the column holds text and no part of it unpacks to more than memory should hold."""
    kind = table.schema_arrow.field(text_field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise CorpusError(f"{path}: column {text_field!r} holds {kind}, but must hold text; set text_field to another")
    about = table.metadata
    for group in range(about.num_row_groups):
        columns = [about.row_group(group).column(index) for index in range(about.num_columns)]
        for column in columns:
            if column.path_in_schema == text_field and column.total_uncompressed_size > MAX_PART_BYTES:
                raise CorpusError(
                    f"{path}: a row group holds {column.total_uncompressed_size:,} bytes of {text_field!r}, at most "
                    f"{MAX_PART_BYTES:,} are read; write it again with smaller row groups"
                )


def _too_long(where: str, what_to_do: str) -> CorpusError:
    return CorpusError(
        f"{where} has more than {MAX_DOCUMENT_BYTES:,} bytes, which is the most that one document may have; "
        f"{what_to_do}"
    )


def _python_value(cell: Any, where: str) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{where} is not UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start} of the text; "
            "write the "
            "file again with UTF-8 text"
        ) from error


_READERS = {"txt": _read_whole, "md": _read_whole, "jsonl": _read_jsonl, "parquet": _read_parquet}


def _decoded(data: bytes, path: Path, offset: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"corpus file {str(path)!r} is not UTF-8: byte 0x{data[error.start]:02x} at byte offset "
            f"{offset + error.start}{' of the decompressed text' if path.suffix.lower() in _CODECS else ''}; "
            "convert it, "
            "for example with `iconv -f LATIN1 -t UTF-8`, or remove that byte"
        ) from error


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"{where} is not json ({str(error)[:200]}); a jsonl file holds one object a line: correct it"
        ) from error
    if not isinstance(value, dict):
        raise CorpusError(f"{where} holds a {type(value).__name__}, not an object; write it as {{'text': ...}}")
    return value


def _missing_field(text_field: str, names: list[str], where: str) -> CorpusError:
    return CorpusError(f"{where} has no field {text_field!r}; it has {sorted(names)}: set text_field to one of them")
