"""Corpora and experiment files that strangers wrote: bombs, links, pipes, columns that are no text."""

import gzip
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from fovea.config import MAX_TOML_BYTES, load_toml
from fovea.data import readers
from fovea.data.corpus import documents
from fovea.errors import ConfigError, CorpusError

PACKED: dict[str, Callable[[bytes], bytes]] = {".gz": lambda data: gzip.compress(data, 1), ".zst": zstandard.compress}


@pytest.mark.parametrize("codec", PACKED)
@pytest.mark.parametrize(("name", "said"), [("a.txt", "67,108,864 bytes"), ("a.jsonl", "line 1 has more than")])
def test_a_packed_bomb_is_unpacked_no_further_than_a_document(name: str, said: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}{codec}"
    path.write_bytes(PACKED[codec](bytes(readers.MAX_DOCUMENT_BYTES + 1)))
    assert path.stat().st_size < 2**20
    with pytest.raises(CorpusError, match=said):
        list(documents(str(path)))


def test_a_line_of_many_small_objects_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "more": [' + "{}," * readers.MAX_BRACKETS + "{}]}")
    with pytest.raises(CorpusError, match="line 1 opens more than 4,194,304 brackets"):
        list(documents(str(tmp_path / "a.jsonl")))


@pytest.mark.parametrize("codec", PACKED)
def test_a_packed_table_that_is_a_bomb_does_not_fill_the_disk(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 2**16)
    path = tmp_path / f"a.parquet{codec}"
    path.write_bytes(PACKED[codec](b"PAR1" + bytes(2**22)))
    with pytest.raises(CorpusError, match="unpacks to more than .* 100 times its size"):
        list(documents(str(path)))


def test_one_text_a_million_times_is_not_a_million_texts_in_memory(tmp_path: Path) -> None:
    text = "x" * 2**20
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, np.int32)), [text])
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 2**16
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = readers.read_file(tmp_path / "a.parquet", text_field="text")
    assert all(len(next(rows).text) == 2**20 for _ in range(200))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17, "KiB"


@pytest.mark.parametrize("column", [[[1]], [b"x"], [1.5], [{"a": 1}]])
def test_a_column_that_is_no_text_is_refused_before_it_is_read(column: list[Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="must hold text"):
        list(documents(str(tmp_path / "a.parquet")))


@pytest.mark.parametrize("reference", ["{}", "{}/*.txt", "{}/**/*.txt"])
def test_a_link_in_a_corpus_that_leads_out_of_it_is_refused(reference: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("a secret")
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("a text")
    (folder / "b.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(CorpusError, match=r"b\.txt is a link to .*secret\.txt, outside"):
        list(documents(reference.format(folder)))
    assert [found.text for found in documents(str(folder / "b.txt"))] == ["a secret"], "a file given by name is read"


def test_a_pipe_in_a_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    os.mkfifo(tmp_path / "b.txt")
    with pytest.raises(CorpusError, match=r"b\.txt is not a regular file"):
        list(documents(str(tmp_path)))


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 5000, "a" + ".a" * 5000 + " = 1", "a = " + "9" * 5000, "a = '\0'", "x" * (MAX_TOML_BYTES + 1)],
)
def test_toml_bombs_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"x\.toml"):
        load_toml(tmp_path / "x.toml")
