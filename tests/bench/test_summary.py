"""From rounds to numbers: medians, spread, paired ratios, the fitted line, fractions of the peak."""

import pytest

from fovea.bench.driver import Measured, Round, Variant
from fovea.bench.summary import MULTI, RUN_EVALS, SEPARATE, fit_line, ratio, rows, summarise, together


def taken(*seconds: float, tokens: int = 1000, cpu: float = 2.0) -> list[Round]:
    return [Round(each, cpu * each, tokens, 0.0) for each in seconds]


def measured(name: str, rounds: list[Round], *, flops: float | None = None, kind: str = "step") -> Measured:
    return Measured(Variant(name, "fovea", {"kind": kind}, flops), rounds, 3 << 20, {}, None)


def test_the_middle_round_is_what_counts():
    found = summarise(taken(1.0, 9.0, 2.0))
    assert found.us_per_token == pytest.approx(2000)
    assert found.tokens_per_second == pytest.approx(500)
    assert found.cpu_us_per_token == pytest.approx(4000)
    assert found.spread == pytest.approx(8.0 / 2.0)


def test_times_are_per_token_whatever_a_round_did():
    mixed = [Round(1.0, 1.0, 1000, None), Round(3.0, 3.0, 3000, None)]
    assert summarise(mixed).us_per_token == pytest.approx(1000)
    assert summarise(mixed).spread == pytest.approx(0)


def test_a_ratio_pairs_the_rounds_that_stood_beside_each_other():
    ours, theirs = taken(1.0, 2.0, 8.0), taken(3.0, 6.0, 8.0)
    assert ratio(theirs, ours) == pytest.approx(3.0)  # of 3, 3 and 1; the ratio of medians would be 3 as well
    assert ratio(taken(4.0, 4.0, 4.0), taken(1.0, 2.0, 4.0)) == pytest.approx(2.0)
    assert ratio(taken(5.0, 1.0, 10.0), taken(1.0, 5.0, 2.0)) == pytest.approx(5.0)  # that of medians: 2.5


def test_the_line_is_least_squares():
    fitted = fit_line([1, 3, 9, 27], [12.0, 16.0, 28.0, 64.0])
    assert fitted.intercept == pytest.approx(10.0)
    assert fitted.slope == pytest.approx(2.0)
    assert fitted.r_squared == pytest.approx(1.0)
    assert fit_line([0, 1, 2], [0.0, 1.0, 0.0]).r_squared == pytest.approx(0.0)


def test_a_fraction_is_of_the_peak_that_was_measured_in_the_same_group():
    peak = measured("peak", taken(1.0, tokens=10), flops=100.0, kind="matmul")  # 1,000 FLOP/s
    own = measured("fovea", taken(2.0, tokens=100), flops=8.0)  # 400 FLOP/s
    found = {row["variant"]: row for row in rows([own, peak], base="fovea", peak="peak")}
    assert found["fovea"]["fraction_of_peak"] == pytest.approx(0.4)
    assert found["peak"]["fraction_of_peak"] == pytest.approx(1.0)
    assert found["peak"]["times_ours"] is None  # a product has no tokens
    assert found["fovea"]["peak_rss_mib"] == 3


def test_a_variant_that_failed_says_why_and_has_no_numbers():
    broken = Measured(Variant("theirs", "peer", {}), [], 0, {}, "Traceback ...\nImportError: no such thing")
    own = measured("fovea", taken(1.0))
    found = rows([own, broken], base="fovea", peak=None)[1]
    assert found == {"variant": "theirs", "tool": "peer", "error": "ImportError: no such thing"}
    assert "times_ours" not in found


def test_a_fraction_of_the_limit_pairs_the_rounds():
    limit = measured("encoder", taken(1.0, 2.0, 3.0))
    own = measured("fovea", taken(2.0, 2.0, 4.0))
    found = {row["variant"]: row for row in rows([own, limit], base="fovea", peak=None, limit="encoder")}
    assert found["fovea"]["fraction_of_limit"] == pytest.approx(0.75)  # of 0.5, 1 and 0.75
    assert found["encoder"]["fraction_of_limit"] == pytest.approx(1.0)
    assert rows([own], base="fovea", peak=None)[0]["fraction_of_limit"] is None


def benchmark(**seconds: list[float]) -> dict:
    """A result with one group: row -> seconds of its rounds."""
    names = {"fovea": "fovea", "separate": SEPARATE, "multi": MULTI, "run_evals": RUN_EVALS}
    rows = [
        {"variant": names[name], "rounds": [each._asdict() for each in taken(*values)]}
        for name, values in seconds.items()
    ]
    return {"groups": [{"rows": rows}]}


def test_training_and_evaluation_add_up_round_by_round():
    train = benchmark(fovea=[10.0, 20.0, 10.0], separate=[90.0, 95.0, 70.0], multi=[20.0, 40.0, 20.0])
    evaluate = benchmark(fovea=[10.0, 10.0, 10.0], run_evals=[30.0, 55.0, 30.0])
    assert together(train, evaluate) == {
        f"training and evaluation, {SEPARATE}: times as long": pytest.approx(5.0),  # of 6, 5 and 5
        f"training and evaluation, {MULTI}: times as long": pytest.approx(2.5),  # of 2.5, 95/30 and 2.5
    }
    assert together(train, benchmark(fovea=[1.0])) == {}
