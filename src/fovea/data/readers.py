"""File formats: one file in, its texts out, one at a time.

    path --(suffix)--> txt md jsonl parquet, each plain, .gz or .zst --> Record(text, where), Record, ...

Files are read as bytes: text mode would also break lines at U+2028, which json leaves unescaped inside strings.
Decompression is pyarrow's, because python-zstandard ends a truncated file without an error.
"""

import io
import json
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fovea.errors import CorpusError

_CODECS = {".gz": "gzip", ".zst": "zstd"}
_BUFFER_BYTES = 1 << 20
_PARQUET_ROWS = 64
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
    except (OSError, pa.ArrowException) as error:
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
def _opened(path: Path) -> Generator[IO[bytes]]:
    """The file's bytes, decompressed on the way."""
    codec = _CODECS.get(path.suffix.lower())
    if codec is None:
        with path.open("rb", buffering=_BUFFER_BYTES) as file:
            yield file
        return
    with pa.input_stream(str(path), compression=codec) as stream:
        buffered = io.BufferedReader(stream, _BUFFER_BYTES)
        try:
            yield buffered
        finally:
            buffered.detach()


def _read_whole(path: Path, file: IO[bytes], text_field: str) -> Iterator[Record]:  # noqa: ARG001
    yield Record(_decoded(file.read().removeprefix(_BOM), path, 0), str(path))


def _read_jsonl(path: Path, file: IO[bytes], text_field: str) -> Iterator[Record]:
    offset = 0
    for number, line in enumerate(file, start=1):
        text = _decoded(line.removeprefix(_BOM) if number == 1 else line, path, offset)
        offset += len(line)
        if text.strip():
            where = f"{path} line {number}"
            yield Record(text_of(_json_object(text, where), text_field, where), where)


def _read_parquet(path: Path, file: IO[bytes], text_field: str) -> Iterator[Record]:
    with tempfile.TemporaryFile() as copy:
        if not file.seekable():
            shutil.copyfileobj(file, copy, _BUFFER_BYTES)
            copy.seek(0)
        with pq.ParquetFile(file if file.seekable() else copy) as table:
            if text_field not in table.schema_arrow.names:
                raise _missing_field(text_field, table.schema_arrow.names, str(path))
            batches = table.iter_batches(batch_size=_PARQUET_ROWS, columns=[text_field])
            cells = (cell for batch in batches for cell in batch.column(0))
            for number, cell in enumerate(cells, start=1):
                where = f"{path} row {number}"
                yield Record(text_of({text_field: _python_value(cell, where)}, text_field, where), where)


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
        raise CorpusError(f"{where} is not json ({error}); a jsonl file holds one object a line: correct it") from error
    if not isinstance(value, dict):
        raise CorpusError(f"{where} holds a {type(value).__name__}, not an object; write it as {{'text': ...}}")
    return value


def _missing_field(text_field: str, names: list[str], where: str) -> CorpusError:
    return CorpusError(f"{where} has no field {text_field!r}; it has {sorted(names)}: set text_field to one of them")
