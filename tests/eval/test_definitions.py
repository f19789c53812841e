"""The list of definitions is complete and says what a reader needs."""

import re

import pytest

from fovea.eval.definitions import DEFINITIONS


@pytest.mark.parametrize("key", sorted(DEFINITIONS))
def test_a_definition_names_formula_and_unit_in_plain_ascii(key: str):
    definition = DEFINITIONS[key]
    assert definition.id == key
    assert re.fullmatch(r"[a-z0-9_]+", key)
    for text in (definition.name, definition.formula, definition.unit):
        assert text
        assert text.isascii()


def test_the_masked_definition_says_what_the_mask_does_wrong():
    note = DEFINITIONS["loss_recovered_gap_masked"].note
    assert "0.001" in DEFINITIONS["loss_recovered_gap_masked"].formula
    assert "harm done where g did none is not counted" in note
