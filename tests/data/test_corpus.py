"""Documents: every format and reference, exact de-duplication, and what is said about bad input."""

import gzip
import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from fovea.data.corpus import CorpusReader, documents
from fovea.errors import CorpusError, UnknownReferenceError

TEXTS = ["One cell.", "Two\u2028lines and a caf\u00e9.", "Three \U0001f9ec genes."]


def _jsonl(texts: list[str]) -> bytes:
    return "".join(
        json.dumps({"text": text, "id": str(n)}, ensure_ascii=False) + "\n" for n, text in enumerate(texts)
    ).encode()


def _parquet(texts: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts, "n": list(range(len(texts)))}), sink)
    return sink.getvalue().to_pybytes()


FORMATS: dict[str, Callable[[list[str]], bytes]] = {"jsonl": _jsonl, "parquet": _parquet}
CODECS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize(("name", "codec"), list(itertools.product(FORMATS, CODECS)))
def test_every_format_gives_the_same_documents_plain_and_compressed(tmp_path: Path, name: str, codec: str):
    path = tmp_path / f"corpus.{name}{codec}"
    path.write_bytes(CODECS[codec](FORMATS[name](TEXTS)))
    assert [document.text for document in documents(str(path))] == TEXTS


@pytest.mark.parametrize(("name", "codec"), list(itertools.product(["txt", "md"], CODECS)))
def test_a_text_file_is_one_document(tmp_path: Path, name: str, codec: str):
    path = tmp_path / f"a.{name}{codec}"
    path.write_bytes(CODECS[codec](b"\xef\xbb\xbf# Title\n\nBody.\n"))
    (document,) = documents(str(path))
    assert document.text == "# Title\n\nBody."
    assert document.source == str(path)


def test_concatenated_compressed_members_are_all_read(tmp_path: Path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(_jsonl(TEXTS[:1])) + zstandard.compress(_jsonl(TEXTS[1:])))
    assert len(list(documents(str(path)))) == 3


def test_a_folder_is_read_in_the_order_of_relative_paths_and_other_files_are_named(tmp_path: Path, caplog):
    for name, text in {"b.txt": "second", "a/z.md": "first", "c.txt": "third"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "d.pdf").write_text("not read")
    with caplog.at_level(logging.WARNING, "fovea"):
        assert [document.text for document in documents(str(tmp_path))] == ["first", "second", "third"]
    assert "1 of 4 files" in caplog.text
    assert "d.pdf" in caplog.text


def test_a_glob_and_a_list_of_references_are_read(tmp_path: Path):
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert [document.text for document in documents(str(tmp_path / "*.txt"))] == ["a.txt", "b.txt"]
    both = [str(tmp_path / "c.md"), str(tmp_path / "a.*")]
    assert [document.text for document in documents(both)] == ["c.md", "a.txt"]


def test_equal_texts_are_read_once_and_counted(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(_jsonl(["x", " x\n", "y", "", "x"]) + b'{"text": null}\n\n')
    reader = CorpusReader(str(path))
    for _ in range(2):
        assert [document.text for document in reader] == ["x", "y"]
        assert (reader.n_documents, reader.n_duplicates, reader.n_empty) == (2, 2, 2)


def test_an_id_depends_on_the_text_alone(tmp_path: Path):
    for name in ("a.txt", "b.md"):
        (tmp_path / name).write_text("same text")
    (first,), (second,) = documents(str(tmp_path / "a.txt")), documents(str(tmp_path / "b.md"))
    assert first.id == second.id
    assert len(first.id) == 16


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_hugging_face_dataset_in_a_folder_is_streamed(tmp_path: Path, name: str):
    (tmp_path / f"train.{name}").write_bytes(FORMATS[name](TEXTS))
    reader = CorpusReader(f"hf:{tmp_path}#train")
    assert [document.text for document in reader] == TEXTS
    before = reader.content()
    (tmp_path / f"train.{name}").write_bytes(FORMATS[name](TEXTS[:2]))
    assert reader.content() != before


def test_an_incomplete_or_unknown_hugging_face_reference_says_what_to_write(tmp_path: Path):
    with pytest.raises(UnknownReferenceError, match="write hf:NAME#SPLIT"):
        list(documents("hf:some/name"))
    (tmp_path / "train.jsonl").write_bytes(_jsonl(TEXTS))
    with pytest.raises(UnknownReferenceError, match="split 'tarin'"):
        list(documents(f"hf:{tmp_path}#tarin"))
    with pytest.raises(UnknownReferenceError, match="check the three names and the network"):
        list(documents("hf:nobody/nothing#train"))


def test_a_missing_field_is_reported_with_the_fields_there_are(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"body": "b", "title": "t"}\n')
    with pytest.raises(CorpusError, match=r"a\.jsonl line 2 has no field 'text'; it has \['body', 'title'\]"):
        list(documents(str(tmp_path / "a.jsonl")))
    (tmp_path / "a.parquet").write_bytes(_parquet(TEXTS))
    with pytest.raises(CorpusError, match=r"no field 'body'; it has \['n', 'text'\]"):
        list(documents(str(tmp_path / "a.parquet"), text_field="body"))
    (tmp_path / "train.jsonl").write_bytes(_jsonl(TEXTS))
    with pytest.raises(CorpusError, match=r"no field 'body'; it has \['id', 'text'\]"):
        list(documents(f"hf:{tmp_path}#train", text_field="body"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "line 2 is not json"),
        ('["a"]', "line 2 holds a list"),
        ('{"text": 3}', "line 2: field 'text' holds a int"),
        (r'{"text": "\ud83d"}', "half of a surrogate pair at character 0"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "good"}}\n{line}\n')
    with pytest.raises(CorpusError, match=message):
        list(documents(str(tmp_path / "a.jsonl")))


@pytest.mark.parametrize("codec", list(CODECS))
def test_bytes_that_are_not_utf8_are_named_with_their_offset(tmp_path: Path, codec: str):
    data = _jsonl(["good"]) + b'{"text": "caf\xe9"}\n'
    path = tmp_path / f"a.jsonl{codec}"
    path.write_bytes(CODECS[codec](data))
    with pytest.raises(CorpusError, match=rf"not UTF-8: byte 0xe9 at byte offset {data.index(0xE9)}.*iconv"):
        list(documents(str(path)))
    (tmp_path / "a.txt").write_bytes("text".encode("utf-16"))
    with pytest.raises(CorpusError, match="byte offset 0"):
        list(documents(str(tmp_path / "a.txt")))


@pytest.mark.parametrize("codec", [".gz", ".zst"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: data[: len(data) // 2], lambda _: b"no archive"]
)
def test_a_truncated_or_damaged_archive_is_noticed(tmp_path: Path, codec: str, damage: Callable[[bytes], bytes]):
    path = tmp_path / f"a.jsonl{codec}"
    path.write_bytes(damage(CODECS[codec](_jsonl([f"document {n * n}" for n in range(3000)]))))
    with pytest.raises(CorpusError, match="cannot be read to its end"):
        list(documents(str(path)))


def test_a_damaged_parquet_file_is_noticed(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(_parquet(TEXTS)[:-20])
    with pytest.raises(CorpusError, match="cannot be read to its end"):
        list(documents(str(tmp_path / "a.parquet")))


def test_an_empty_corpus_is_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(CorpusError, match=r"has no text \(1 empty records\)"):
        list(documents(str(tmp_path / "a.txt")))
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(CorpusError, match="has no text"):
        list(documents(str(tmp_path / "b.jsonl")))
    with pytest.raises(CorpusError, match="is empty"):
        CorpusReader([])


def test_what_does_not_exist_or_can_not_be_read_is_refused_with_what_is_allowed(tmp_path: Path):
    (tmp_path / "a.pdf").write_text("x")
    for reference in (tmp_path / "missing.txt", tmp_path, tmp_path / "*.txt", tmp_path / "a.pdf"):
        with pytest.raises(CorpusError, match=r"\.jsonl"):
            list(documents(str(reference)))
