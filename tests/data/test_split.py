"""The split is a property of the document."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fovea.data.split import split_of
from fovea.errors import ConfigError

IDS = st.lists(st.text("0123456789abcdef", min_size=16, max_size=16), min_size=1, max_size=30, unique=True)


@given(ids=IDS, others=IDS, salt=st.text(max_size=3), data=st.data())
def test_a_document_keeps_its_split_when_others_come_go_or_change_places(ids, others, salt, data):
    def split(names):
        return {name: split_of(name, heldout_fraction=0.3, salt=salt) for name in names}

    before, after = split(ids), split(data.draw(st.permutations(ids + others)))
    assert before == {name: after[name] for name in ids}


@given(ids=IDS, low=st.floats(0.0, 1.0), high=st.floats(0.0, 1.0))
def test_a_larger_held_out_fraction_only_adds_documents(ids, low, high):
    low, high = sorted((low, high))
    for name in ids:
        if split_of(name, heldout_fraction=low) == "heldout":
            assert split_of(name, heldout_fraction=high) == "heldout"


def test_the_held_out_share_is_the_one_asked_for_and_salts_differ():
    ids = [f"{n:016x}" for n in range(10_000)]
    held = {name for name in ids if split_of(name, heldout_fraction=0.1) == "heldout"}
    assert len(held) == pytest.approx(1000, abs=120)
    salted = {name for name in ids if split_of(name, heldout_fraction=0.1, salt="b") == "heldout"}
    assert len(held & salted) == pytest.approx(100, abs=45)
    assert all(split_of(name, heldout_fraction=0.0) == "train" for name in ids[:100])
    assert all(split_of(name, heldout_fraction=1.0) == "heldout" for name in ids[:100])


def test_a_fraction_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"heldout_fraction = 1\.5"):
        split_of("a", heldout_fraction=1.5)
