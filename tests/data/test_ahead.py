"""Chunks made in the background: the same rows in the same order, whenever they are made."""

import threading

import pytest
import torch

from fovea.data.ahead import Ahead
from fovea.data.shuffle import MixingBuffer
from fovea.errors import ModelError
from tests.data.test_shuffle import Faulty, Numbered

LENGTHS = [5, 0, 7, 3, 11, 2, 6]


@pytest.mark.parametrize("n_ahead", [1, 2, 20])
def test_reading_ahead_changes_no_row_and_no_state_over_epochs_and_a_resume(n_ahead: int):
    plain = MixingBuffer(Numbered(LENGTHS), rows=10, seed=2, max_epochs=3)
    ahead = MixingBuffer(Numbered(LENGTHS), rows=10, seed=2, max_epochs=3, n_ahead=n_ahead)
    for step in range(12):
        assert torch.equal(plain.next_batch(9).x, ahead.next_batch(9).x)
        one, other = plain.state_dict(), ahead.state_dict()
        assert torch.equal(one.pop("x"), other.pop("x"))
        assert {k: v for k, v in one.items() if isinstance(v, int)} == {
            k: v for k, v in other.items() if isinstance(v, int)
        }
        if step == 5:
            state = ahead.state_dict()
            ahead = MixingBuffer(Numbered(LENGTHS), rows=10, seed=2, max_epochs=3, n_ahead=n_ahead)
            ahead.load_state_dict(state)
    assert ahead.exhausted
    assert plain.exhausted


def test_the_next_chunks_are_made_before_they_are_asked_for_and_no_more_than_wanted():
    made: list[int] = []
    third = threading.Event()
    threads: set[str] = set()

    def make(index: int):
        threads.add(threading.current_thread().name)
        made.append(index)
        if index == 9:
            third.set()
        return Numbered([index]).chunk(0)

    ahead = Ahead(make, n_ahead=2)
    assert len(ahead.chunk(4, [7, 9, 1, 2]).x) == 4
    assert third.wait(30)
    assert made == [4, 7, 9]
    assert len(ahead.chunk(7, [9]).x) == 7
    assert made == [4, 7, 9]
    assert len(threads) == 1
    assert threading.current_thread().name not in threads


def test_without_reading_ahead_there_is_no_thread():
    names: list[str] = []

    def make(index: int):
        names.append(threading.current_thread().name)
        return Numbered([1]).chunk(index)

    Ahead(make, n_ahead=0).chunk(0, [1, 2])
    assert names == [threading.current_thread().name]


def test_what_goes_wrong_in_the_background_is_raised_where_the_chunk_is_read():
    with pytest.raises(ModelError, match="NaN"):
        MixingBuffer(Faulty([5] * 6), rows=8, seed=0, n_ahead=3).next_batch(30)
