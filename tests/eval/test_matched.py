"""Comparison at matched L0: interpolated, never extrapolated, and paired."""

import json

import numpy as np
import pytest

from eval.made_sums import by_hand, candidate
from fovea.eval.bootstrap import Resampled, resample
from fovea.eval.matched import Curve, compare, l0_range, read_at, shared_l0s, write_comparisons
from fovea.eval.scoring import Part

PART = Part("biology", "heldout", "c")
N = 10


def resampled(points: dict[str, tuple[float, float]], *, n: int = N, noise: float = 0.0) -> Resampled:
    """Candidates with the given (L0, CE), in documents of one token; the same noise on all of them."""
    shift = noise * np.random.default_rng(0).normal(size=n)
    sums = by_hand(
        {name: candidate(ce=(ce + shift).tolist(), l0_domain=[l0] * n) for name, (l0, ce) in points.items()}
        | {"g": candidate(ce=[9.0] * n)},
        n_tokens=[1.0] * n,
        n_scored=[1.0] * n,
        ce_clean=[2.0] * n,
    )
    return resample(sums, corpus="biology", split="heldout", n_resamples=100)


POINTS = {"a1": (10.0, 4.0), "a2": (30.0, 3.0), "b1": (20.0, 5.0), "b2": (60.0, 3.0)}
A, B = Curve("a", (("a1",), ("a2",))), Curve("b", (("b2",), ("b1",)))


def test_a_curve_is_read_by_linear_interpolation_whatever_the_order_of_its_points():
    found = resampled(POINTS)
    assert read_at(found, A, l0=15.0, metric="ce").point == 3.75
    assert read_at(found, B, l0=30.0, metric="ce").point == 4.5
    assert read_at(found, A, l0=30.0, metric="ce").point == 3.0


def test_a_curve_is_never_read_outside_its_range():
    found = resampled(POINTS)
    for l0 in (9.99, 30.01):
        draws = read_at(found, A, l0=l0, metric="ce")
        assert np.isnan(draws.point)
        assert np.isnan(draws.resampled).all()
    assert l0_range(found, B) == (20.0, 60.0)


def test_the_difference_at_one_l0_is_a_less_b():
    (row,) = compare(resampled(POINTS), [A, B], metric="ce", part=PART, domain="biology", at=[25.0])
    assert (row.method_a, row.method_b, row.l0) == ("a", "b", 25.0)
    assert (row.value_a, row.value_b, row.difference) == (3.25, 4.75, -1.5)
    assert (row.ci_low, row.ci_high, row.reason) == (-1.5, -1.5, None)
    assert (row.domain, row.corpus, row.split, row.metric, row.n_documents) == (
        "biology",
        "biology",
        "heldout",
        "ce",
        N,
    )


def test_noise_that_both_share_cancels_in_the_difference():
    (row,) = compare(resampled(POINTS, noise=1.0), [A, B], metric="ce", part=PART, domain=None, at=[25.0])
    assert row.a_ci_low is not None
    assert row.a_ci_high is not None
    assert row.a_ci_high - row.a_ci_low > 0.5
    assert row.ci_low == pytest.approx(-1.5)
    assert row.ci_high == pytest.approx(-1.5)


def test_loss_recovered_is_read_the_same_way():
    (row,) = compare(resampled(POINTS), [A, B], metric="loss_recovered_gap", part=PART, domain=None, at=[25.0])
    assert row.value_a == pytest.approx((9 - 3.25) / 7)


def test_seeds_of_one_point_are_averaged():
    points = {**POINTS, "a1'": (14.0, 2.0)}
    found = resampled(points)
    curve = Curve("a", (("a1", "a1'"), ("a2",)))
    assert l0_range(found, curve) == (12.0, 30.0)
    assert read_at(found, curve, l0=12.0, metric="ce").point == 3.0


def test_an_l0_outside_one_curve_gives_null_with_the_range():
    (row,) = compare(resampled(POINTS), [A, B], metric="ce", part=PART, domain=None, at=[40.0])
    assert (row.value_a, row.value_b, row.difference) == (None, 4.0, None)
    assert row.reason == "a was measured at L0 10 to 30, not at 40"


def test_a_point_without_a_finite_value_is_named_as_the_cause():
    (row,) = compare(
        resampled({**POINTS, "a2": (30.0, float("nan"))}), [A, B], metric="ce", part=PART, domain=None, at=[25.0]
    )
    assert row.difference is None
    assert row.reason == "a has a value that is not a finite number next to L0 25"


def test_by_default_l0s_lie_inside_the_shared_range():
    assert shared_l0s(resampled(POINTS), [A, B]) == [22.0, 25.0, 28.0]
    narrow = resampled({**POINTS, "a2": (21.0, 3.0)})
    assert shared_l0s(narrow, [A, B]) == [20.25, 20.5, 20.75]
    rows = compare(resampled(POINTS), [A, B], metric="ce", part=PART, domain=None)
    assert [row.l0 for row in rows] == [22.0, 25.0, 28.0]


def test_curves_that_share_no_l0_are_not_compared():
    found = resampled({**POINTS, "a2": (15.0, 3.0)})
    (row,) = compare(found, [A, B], metric="ce", part=PART, domain=None)
    assert row.l0 is None
    assert row.difference is None
    assert row.reason is not None
    assert row.reason.startswith("no shared L0: a at L0 10 to 15 and b at L0 20 to 60")


def test_a_single_point_is_no_curve():
    (row,) = compare(resampled(POINTS), [A, Curve("c", (("b1",),))], metric="ce", part=PART, domain=None)
    assert row.reason is not None
    assert row.reason.startswith("no shared L0")


def test_a_metric_that_is_undefined_for_all_says_why():
    found = resampled(POINTS)
    found.point["zero"].ce_g[:] = found.point["zero"].ce_clean
    (row,) = compare(found, [A, B], metric="loss_recovered_gap", part=PART, domain=None)
    assert row.reason is not None
    assert row.reason.startswith("gap too small")


def test_few_documents_give_a_difference_without_an_interval():
    (row,) = compare(resampled(POINTS, n=4), [A, B], metric="ce", part=PART, domain=None, at=[25.0])
    assert (row.difference, row.ci_low) == (-1.5, None)
    assert row.reason == "no interval: 4 documents, at least 5 are needed"


def test_comparisons_are_written_sorted_with_every_key(tmp_path):
    rows = compare(resampled(POINTS), [A, B], metric="ce", part=PART, domain="biology")
    write_comparisons(tmp_path / "one", rows)
    write_comparisons(tmp_path / "two", reversed(rows))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "one").read_text().splitlines()]
    assert [line["l0"] for line in lines] == [22.0, 25.0, 28.0]
    assert lines[0]["difference"] == rows[0].difference
