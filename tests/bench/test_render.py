"""The page of results: every table from the files that are there, whatever is missing."""

import json

import pytest
from benchmarks import render


def result(name: str, *, rows: list[dict], numbers: dict | None = None, about: dict | None = None) -> dict:
    machine = {
        "processor": "P",
        "cores": 2,
        "vector_instructions": ["avx2"],
        "memory_gib": 1,
        "python": "3",
        "packages": {"torch": "2"},
    }
    group = {"title": f"{name} title", "about": about or {}, "rows": rows}
    found = {"what": "", "groups": [group] if rows else [], "numbers": numbers or {}}
    return {"command": f"fovea bench {name}", "machine": machine, "bf16": "no", "benchmarks": {name: found}}


def row(variant: str, *seconds: float, **more) -> dict:
    rounds = [{"seconds": each, "cpu_seconds": each, "tokens": 10, "others": None} for each in seconds]
    numbers = {"tokens_per_second": 10.0, "us_per_token": 1.0, "spread": 0.1, "cpu_us_per_token": 1.0}
    return {
        "variant": variant,
        "rounds": rounds,
        **numbers,
        "times_ours": 1.0,
        "fraction_of_peak": None,
        "peak_rss_mib": 1.0,
        **more,
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    return tmp_path


def test_every_mark_of_the_page_names_a_benchmark_or_a_section():
    from fovea.bench.run import BENCHMARKS

    marks = {match[1] for match in render.MARKS.finditer(render.PAGE.read_text())}
    assert marks == {*BENCHMARKS, "machines", "together", "ranks"}


@pytest.mark.usefixtures("folder")
def test_without_results_each_section_says_so():
    for name in ("step", "machines", "together", "ranks"):
        assert render.section(name, render.collected()) == "Not measured yet.\n"


def test_a_part_of_the_results_fills_its_own_tables_alone(folder):
    rows = [row("fovea", 1.0, fraction_of_limit=0.71), {"variant": "theirs", "error": "no such thing"}]
    (folder / "step.json").write_text(json.dumps(result("step", rows=rows)))
    found = render.collected()
    shown = render.section("step", found)
    assert "`fovea bench step` on P, 2 cores" in shown
    assert "| 71% |" in shown
    assert "| theirs | failed: no such thing |" in shown
    assert len({line.count("|") for line in shown.splitlines() if line.startswith("|")}) == 1
    assert render.section("eval", found) == "Not measured yet.\n"


def test_a_row_without_a_ratio_has_an_empty_cell(folder):
    rows = [{"variant": "fovea", "error": "died"}, row("theirs", 1.0, times_ours=None, gflops=None)]
    (folder / "step.json").write_text(json.dumps(result("step", rows=rows)))
    assert "| theirs | 10 | 1.0 | 10% | 1.0 |  |  |  | 1 |" in render.section("step", render.collected())


def test_a_row_with_fewer_rounds_than_its_table_says_so(folder):
    rows = [row("fovea", 1.0, 1.0, 1.0), row("slow", 9.0)]
    (folder / "e2e.json").write_text(json.dumps(result("e2e", rows=rows)))
    shown = render.section("e2e", render.collected())
    assert "(medians of 3 rounds)" in shown
    assert "| slow (1 of the rounds) |" in shown
    assert "| fovea |" in shown


def test_training_and_evaluation_are_added_up_across_files(folder):
    train = [row("fovea", 1.0, 1.0), row("sae-lens, one run each", 8.0, 8.0)]
    evaluate = [row("fovea", 1.0, 1.0), row("sae-lens run_evals", 4.0, 4.0)]
    (folder / "a.json").write_text(json.dumps(result("e2e", rows=train, about={"train_tokens": 32_768})))
    assert render.section("together", render.collected()) == "Not measured yet.\n"
    (folder / "b.json").write_text(json.dumps(result("eval", rows=evaluate, about={"tokens": 1024})))
    shown = render.section("together", render.collected())
    assert "32,768 tokens an SAE in training, 1,024 in evaluation" in shown
    assert "sae-lens, one run each: times as long: 6" in shown


def test_the_roofline_is_a_table_of_stages_and_their_time(folder):
    stage = {"flops_per_byte": 20.0, "limit_gflops": 80.0, "gflops": 60.0, "share_of_limit": 0.75}
    numbers = {"peak": 80.0, "stages": {"harvest": stage | {"share_of_time": {"products": 0.9, "attention": 0.1}}}}
    (folder / "roofline.json").write_text(json.dumps(result("roofline", rows=[row("x", 1.0)], numbers=numbers)))
    shown = render.section("roofline", render.collected())
    assert "| harvest | 20 | 80 | 60 | 75% | 10% | 90% |" in shown
    assert "- peak: 80" in shown
    assert "stages" not in shown
