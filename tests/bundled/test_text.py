"""Cutting, de-duplicating and the file format of corpora."""

import io
import random

from hypothesis import given
from hypothesis import strategies as st

from fovea.bundled.text import (
    BundledDocument,
    document_id,
    pack,
    read_records,
    shingles,
    without_near_duplicates,
    without_repeated_paragraphs,
    write_documents,
)

WORDS = (
    "cell",
    "membrane",
    "lets",
    "small",
    "polar",
    "molecules",
    "pass",
    "while",
    "large",
    "ones",
    "need",
    "a",
    "carrier",
)


def sentence(seed: int, length: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


@given(st.lists(st.text("ab", min_size=1, max_size=30), max_size=20), st.integers(1, 50))
def test_packing_keeps_every_unit_in_order_and_within_the_limit(units, limit):
    packed = pack(units, limit, joint=" ")
    assert " ".join(packed) == " ".join(units)
    assert all(len(text) <= limit or text in units for text in packed)


@given(st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=20), st.integers(10, 50))
def test_packing_needs_no_more_texts_than_greedy_filling(units, limit):
    greedy, room = 1, limit - len(units[0])
    for unit in units[1:]:
        room -= len(unit) + 1
        if room < 0:
            greedy, room = greedy + 1, limit - len(unit)
    assert len(pack(units, limit, joint=" ")) == greedy


def test_packed_texts_are_about_equally_long():
    lengths = [len(text) for text in pack(["x" * 9] * 101, 500, joint=" ")]
    assert max(lengths) - min(lengths) <= 20


def test_a_near_duplicate_is_dropped_and_a_different_text_kept():
    first, other = sentence(0), sentence(1)
    nearly = first + " indeed"
    assert without_near_duplicates([first, nearly, other, first.upper() + "!"]) == [first, other]


def test_shingles_ignore_case_and_punctuation_and_hold_short_texts():
    assert shingles("One, two THREE.") == shingles("one two three")
    assert len(shingles("one two three")) == 1
    assert len(shingles(sentence(0, length=20))) == 8


def test_a_repeated_paragraph_stands_only_where_it_came_first():
    assert without_repeated_paragraphs([["a", "b", "a"], ["b", "c"], ["a"]]) == [["a", "b"], ["c"], []]


def test_documents_come_back_whatever_separators_they_hold(tmp_path):
    texts = ["one\u2028two\u2029three\x85four", "a\nb\r\nc", "\u00e4\U0001f600"]
    path = tmp_path / "x.jsonl.zst"
    write_documents(path, [BundledDocument(text, "test") for text in texts])
    records = list(read_records(path))
    assert {record["text"] for record in records} == set(texts)
    assert all(record["id"] == document_id(record["text"]) for record in records)


def test_documents_lie_in_the_order_of_their_ids(tmp_path):
    documents = [BundledDocument(sentence(seed), "test") for seed in range(20)]
    for name, order in (("a", documents), ("b", documents[::-1])):
        write_documents(tmp_path / name, order)
    ids = [record["id"] for record in read_records(tmp_path / "a")]
    assert ids == sorted(ids)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_same_documents_give_the_same_bytes(tmp_path):
    documents = [BundledDocument(sentence(seed), "test") for seed in range(50)]
    for name in ("a", "b"):
        write_documents(tmp_path / name, documents)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert io.BytesIO((tmp_path / "a").read_bytes()).read(4) == b"\x28\xb5\x2f\xfd"
