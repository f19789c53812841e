"""The finding in words: the right winner, the right hedge, from constructed numbers."""

from pathlib import Path
from typing import Any

import pytest

from fovea.report.finding import finding, matched_l0, verdict
from fovea.report.rundata import Comparison, read_run
from fovea.report.summary import headline, summary_table
from tests.report.make_run import Shape, make_run, read_lines, write_lines


def compared(run: Path, lines: list[dict[str, Any]]) -> Path:
    """`run` with these comparisons of loss recovered on held-out biology instead of its own."""
    where = {"domain": "biology", "corpus": "biology", "split": "heldout", "metric": "loss_recovered_gap", "l0": 30.0}
    write_lines(run / "comparisons.jsonl", [where | line for line in lines])
    return run


def pair(a: str, b: str, values: tuple[float | None, float | None], ends: tuple[float, float] | None) -> dict[str, Any]:
    """One comparison."""
    known = values[0] is not None and values[1] is not None
    line = {"method_a": a, "method_b": b, "value_a": values[0], "value_b": values[1]}
    line["difference"] = values[0] - values[1] if known else None
    line["ci_low"], line["ci_high"] = ends or (None, None)
    return line | {"reason": None if known else f"{b} was not measured there"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_the_method_whose_interval_excludes_0_is_ahead(run: Path) -> None:
    found = verdict(read_run(compared(run, [pair("direct", "ssae", (0.4, 0.6), (-0.25, -0.15))])), "biology")
    assert found.winner == "ssae"
    assert found.l0 == 30
    assert "at a matched L0 of 30, ssae is ahead: it recovers 0.600" in found.sentence
    assert "against direct (0.400; difference 0.200, 95% interval 0.150 to 0.250)" in found.sentence


def test_an_interval_that_includes_0_is_no_clear_difference(run: Path) -> None:
    found = verdict(read_run(compared(run, [pair("direct", "ssae", (0.52, 0.50), (-0.01, 0.05))])), "biology")
    assert found.winner is None
    assert "direct recovers the most, 0.520" in found.sentence
    assert "no clear difference from ssae" in found.sentence
    assert "is ahead" not in found.sentence


def test_the_best_of_three_is_ahead_of_one_and_level_with_another(run: Path) -> None:
    lines = [
        pair("direct", "finetune", (0.60, 0.61), (-0.03, 0.01)),
        pair("direct", "ssae", (0.60, 0.40), (0.15, 0.25)),
        pair("finetune", "ssae", (0.61, 0.40), (0.16, 0.26)),
    ]
    found = verdict(read_run(compared(run, lines)), "biology")
    assert found.winner is None
    assert "finetune recovers the most, 0.610" in found.sentence
    assert "no clear difference from direct (0.600; difference 0.010" in found.sentence
    assert "it is ahead of ssae (0.400; difference 0.210, 95% interval 0.160 to 0.260)" in found.sentence


def test_without_an_interval_nobody_is_called_ahead(run: Path) -> None:
    found = verdict(read_run(compared(run, [pair("direct", "ssae", (0.4, 0.6), None)])), "biology")
    assert found.winner is None
    assert "whether it is ahead of direct (0.400; difference 0.200, no interval" in found.sentence


def test_a_method_that_cannot_be_read_is_named_with_the_reason(run: Path) -> None:
    lines = [pair("direct", "finetune", (0.4, 0.6), (-0.3, -0.1)), pair("direct", "ssae", (0.4, None), None)]
    found = verdict(read_run(compared(run, lines)), "biology")
    assert found.winner == "finetune"
    assert "Not read at that L0: ssae (ssae was not measured there)" in found.sentence


def test_no_comparison_names_no_winner_but_the_best_points(run: Path) -> None:
    (run / "comparisons.jsonl").unlink()
    found = verdict(read_run(run), "biology")
    assert found.winner is None
    assert "no two methods can be compared at a matched L0" in found.sentence
    assert "0.828 [0.806, 0.850] (direct l1_1, L0 107.0)" in found.sentence


def test_the_reason_of_a_gap_too_small_reaches_the_reader_and_zero_ablation_stands_in(run: Path) -> None:
    small = {"l0": None, "reason": "gap too small"} | pair("direct", "ssae", (None, None), None)
    zero = pair("direct", "ssae", (0.97, 0.98), (-0.02, -0.005)) | {"metric": "loss_recovered_zero"}
    found = verdict(read_run(compared(run, [small | {"reason": "gap too small"}, zero])), "biology")
    assert "cannot be read against g's gap (gap too small)" in found.sentence
    assert found.winner == "ssae"
    assert "between zero ablation and the unpatched model" in found.sentence


def test_a_negative_best_is_said_to_be_worse_than_g(run: Path) -> None:
    found = verdict(read_run(compared(run, [pair("direct", "ssae", (-0.4, -0.1), (-0.4, -0.2))])), "biology")
    assert "worse than g alone" in found.sentence


def test_one_method_wins_nothing(tmp_path: Path) -> None:
    said = headline(make_run(tmp_path / "run", Shape(methods=("ssae",))))
    assert "only one method, ssae, was trained" in said
    assert "0.598 [0.579, 0.617] (ssae l1_6" in said


def test_the_matched_l0_is_the_middle_of_those_that_most_pairs_share() -> None:
    base = {"domain": "d", "corpus": "d", "split": "heldout", "metric": "m", "method_a": "a", "method_b": "b"}
    rows = [Comparison(**base, l0=l0, difference=d) for l0, d in [(20.0, 0.1), (30.0, 0.1), (40.0, 0.1), (50.0, None)]]
    assert matched_l0(rows) == 30
    assert matched_l0([*rows, Comparison(**base, l0=40.0, difference=0.2)]) == 40
    assert matched_l0(rows[-1:]) is None


def test_the_cost_rarity_and_novelty_are_said_with_numbers(run: Path) -> None:
    said = headline(run)
    assert "changes the loss against g by +0.192 (direct l1_2), \u22120.101 (finetune l1_2)" in said
    assert "The rarest latents are those of ssae" in said
    assert "The newest latents are those of ssae" in said
    assert "(a random dictionary: 0.16)" in said


def test_one_seed_and_few_documents_are_hedged(tmp_path: Path) -> None:
    said = headline(make_run(tmp_path / "run", Shape(n_documents=9)))
    assert "One seed per job" in said
    assert "Only 9 documents held out: these numbers are rough" in said


def test_several_seeds_are_said_to_be_means(tmp_path: Path) -> None:
    said = headline(make_run(tmp_path / "run", Shape(seeds=3)))
    assert "Numbers are means over 3 seeds" in said
    assert "One seed" not in said


def test_many_domains_are_counted(tmp_path: Path) -> None:
    sentences = finding(read_run(make_run(tmp_path / "run", Shape(domains=("biology", "mathematics", "history")))))
    assert "finetune is ahead of every other method on 2 of 3 domains" in sentences[0]
    assert "on 1 (mathematics) no method is clearly ahead" in sentences[0]
    assert any("ssae on 3 of 3 domains" in sentence for sentence in sentences)


def test_the_summary_has_a_row_per_method_and_sparsity(run: Path) -> None:
    table = summary_table(run)
    assert table.row_count == 9
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["method"][:3] == ["direct"] * 3
    assert columns["L0"][:3] == ["13.1", "40.0", "107.0"]
    assert columns["on D [95%]"][0] == r"0.459 [0.441, 0.477]"


def test_the_summary_explains_its_dashes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    lines = read_lines(run / "metrics.jsonl")
    for line in lines:
        if line["metric"] == "loss_recovered_gap" and line["corpus"] == "biology" and line["method"] == "ssae":
            line |= {"value": None, "ci_low": None, "ci_high": None, "reason": "gap too small"}
    write_lines(run / "metrics.jsonl", lines)
    assert "gap too small" in str(summary_table(run).caption)
