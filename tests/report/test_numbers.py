"""Words and bins: what the reader sees is the number that was measured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.report.density import bins as density_bins
from fovea.report.novelty import baselines_of
from fovea.report.novelty import bins as novelty_bins
from fovea.report.palette import DARK, LOOKS, assign_looks
from fovea.report.sheets import is_higher_better
from fovea.report.tables import Cell, Column, gap, sheet
from fovea.report.words import count, interval, listing, number, one_in, percent, scientific, signed


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.6825, "0.682"),
        (-1.4, "\u22121.400"),
        (0.0, "0.000"),
        (1234.56, "1,234.6"),
        (None, "\u2013"),
        (-0.00026, "\u22120.00026"),
    ],
)
def test_numbers_have_three_decimals_and_a_minus_sign(value: float | None, said: str) -> None:
    assert number(value) == said


def test_other_words() -> None:
    assert signed(0.1) == "+0.100"
    assert count(204800) == "204,800"
    assert interval(0.1, 0.2) == "[0.100, 0.200]"
    assert interval(None, 0.2) == ""
    assert one_in(1 / 12_800) == "1 in 13,000"
    assert one_in(0.4) == "1 in 2.5"
    assert percent(0.051) == "5.1%"
    assert [percent(share) for share in (0, 0.0001, 0.5, 0.999, 1)] == ["0%", "<0.1%", "50%", ">99%", "100%"]
    assert scientific(5.2e14) == "5.2e14"
    assert listing(["a", "b", "c"]) == "a, b and c"


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1000, 10**7))
def test_density_bins_hold_every_latent_that_fired(counts: list[int], n_tokens: int) -> None:
    fired = np.array([c for c in counts if c > 0], dtype=np.float64)
    found = density_bins(fired / n_tokens, n_tokens=n_tokens, n_latents=len(counts))
    assert sum(b["share"] for b in found) * len(counts) == pytest.approx(len(fired))
    assert found[0]["low"] == pytest.approx(-np.log10(n_tokens))
    assert found[-1]["high"] == 0


def test_counts_1_2_and_3_fall_into_bins_without_a_hole() -> None:
    n_tokens = 10**6
    shares = [density_bins(np.array([c / n_tokens]), n_tokens=n_tokens, n_latents=1) for c in (1, 2, 3)]
    assert [next(i for i, b in enumerate(found) if b["share"]) for found in shares] == [0, 1, 2]


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1.0000001), min_size=1, max_size=60))
def test_novelty_bins_hold_every_latent(cosines: list[float]) -> None:
    values = np.array(cosines)
    found = novelty_bins(values, low=min(0.0, values.min()))
    assert sum(b["share"] for b in found) == pytest.approx(1)


def test_baselines_are_the_middle_95_percent() -> None:
    [random] = baselines_of({"random": {"decoder": list(np.linspace(0, 1, 1001))}}, "decoder")
    assert random == ("random", pytest.approx(0.025), pytest.approx(0.5), pytest.approx(0.975))
    assert baselines_of({}, "decoder") == []


def test_equal_reasons_share_a_letter() -> None:
    rows = [[gap("x"), gap("y")], [gap("x"), Cell("1", 1.0)]]
    made = sheet("s", "c", [Column("a"), Column("b")], rows=rows)
    assert [[cell.mark for cell in row] for row in made.rows] == [["a", "b"], ["a", ""]]
    assert made.reasons == [("a", "x"), ("b", "y")]


def test_looks_are_distinct_and_fixed_by_method() -> None:
    looks = assign_looks([("new", "new"), ("ssae", "ssae"), ("ssae_silence0.1", "ssae"), ("direct", "direct")])
    assert looks["ssae"].slot == 2
    assert looks["direct"].slot == 0
    assert len({look.slot for look in looks.values()}) == 4


def test_every_colour_has_a_dark_value() -> None:
    assert {look.colour for look in LOOKS} <= set(DARK)


@pytest.mark.parametrize(("word", "better"), [("higher", True), ("lower", False), ("none", None)])
def test_direction_is_read_from_the_definition(word: str, better: bool | None) -> None:
    assert is_higher_better({"direction": word}) is better
