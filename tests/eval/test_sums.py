"""Sums add up, whatever the order; files are complete, keyed and checked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.made_sums import at_random
from fovea.errors import RunError
from fovea.eval.sums import (
    Sums,
    add_by_row,
    cached_sums,
    empty_sums,
    load_sums,
    merge,
    rows_of,
    save_sums,
    without_empty_documents,
)


def assert_equal(first: Sums, second: Sums) -> None:
    torch.testing.assert_close(first.documents, second.documents, rtol=0, atol=0)
    torch.testing.assert_close(first.corpus._asdict(), second.corpus._asdict(), rtol=0, atol=0)
    assert first.candidates.keys() == second.candidates.keys()
    for name, sums in first.candidates.items():
        torch.testing.assert_close(sums._asdict(), second.candidates[name]._asdict(), rtol=0, atol=0)


def moved(sums: Sums, offset: int) -> Sums:
    return sums._replace(documents=sums.documents + offset)


def test_tokens_are_added_to_the_row_of_their_document():
    sums = empty_sums(torch.tensor([3, 7]), ["a"], d_in=2)
    rows = rows_of(torch.tensor([7, 3, 7]), sums)
    add_by_row(sums.corpus.sum_x, rows, torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert sums.corpus.sum_x.tolist() == [[3.0, 4.0], [6.0, 8.0]]


def test_a_document_that_occurs_in_both_parts_is_added_up():
    part = at_random(0)
    twice = merge(part, part)
    assert_equal(
        twice,
        part._replace(
            corpus=type(part.corpus)(*(2 * values for values in part.corpus)),
            candidates={name: type(c)(*(2 * values for values in c)) for name, c in part.candidates.items()},
        ),
    )


@settings(max_examples=8, deadline=None)
@given(seeds=st.tuples(*[st.integers(0, 1000)] * 3), offsets=st.tuples(*[st.integers(0, 20)] * 3))
def test_merging_is_associative_and_commutative(seeds: tuple[int, ...], offsets: tuple[int, ...]):
    a, b, c = (moved(at_random(seed), offset) for seed, offset in zip(seeds, offsets, strict=True))
    assert_equal(merge(merge(a, b), c), merge(a, merge(b, c)))
    assert_equal(merge(a, b), merge(b, a))


def test_sums_of_different_candidates_are_not_merged():
    with pytest.raises(RunError, match=r"\['b'\] occur in one only"):
        merge(at_random(0), at_random(0, names=["a"]))


def test_documents_without_a_kept_token_are_left_out():
    sums = empty_sums(torch.tensor([3, 7]), ["a"], d_in=2)
    add_by_row(sums.corpus.n_tokens, torch.tensor([1]), torch.ones(1))
    assert without_empty_documents(sums).documents.tolist() == [7]


def test_a_saved_file_gives_the_same_sums_and_the_same_bytes(tmp_path):
    sums = at_random(1)
    for name in ("one", "two"):
        save_sums(tmp_path / name, sums, key="k")
    assert_equal(load_sums(tmp_path / "one", key="k"), sums)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_sums_of_another_evaluation_are_refused(tmp_path):
    save_sums(tmp_path / "part", at_random(1), key="old")
    with pytest.raises(RunError, match="key 'old', expected 'new'"):
        load_sums(tmp_path / "part", key="new")


def test_a_finished_part_is_not_evaluated_again(tmp_path):
    calls: list[int] = []

    def compute() -> Sums:
        calls.append(1)
        return at_random(2)

    first = cached_sums(tmp_path / "part", compute, key="k")
    assert_equal(cached_sums(tmp_path / "part", compute, key="k"), first)
    assert len(calls) == 1


def test_a_damaged_part_is_evaluated_again_and_said(tmp_path, caplog):
    (tmp_path / "part").write_bytes(b"\x08half of a file")
    assert_equal(cached_sums(tmp_path / "part", lambda: at_random(2), key="k"), at_random(2))
    assert "is damaged" in caplog.text
    assert_equal(load_sums(tmp_path / "part", key="k"), at_random(2))
