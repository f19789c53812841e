"""Reading a run folder: what eval writes is read; damage is an error that names the line."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fovea.errors import RunError
from fovea.eval.records import read_metrics
from fovea.report.latents import read_latents
from fovea.report.points import Text, looks_of, middle_jobs, points
from fovea.report.rundata import read_run
from tests.report.make_run import Shape, make_run, read_lines, write_lines


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_the_made_run_is_one_that_eval_could_have_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Shape(domains=("biology", "history"), nulls=True))
    assert len(read_metrics(run / "metrics.jsonl")) == len(read_run(run).records)


def test_job_names_give_method_architecture_and_sparsity(tmp_path: Path) -> None:
    jobs = {job.name: job for job in read_run(make_run(tmp_path / "a")).jobs}
    assert jobs["ssae-gated-l1_10-s0"][1:] == ("ssae", "gated", "biology", 0, "ssae", "l1_10")
    assert jobs["control-random-k40"].sparsity == "random-k40"
    assert jobs["control-frozen_decoder-k40"].sparsity == "frozen_decoder-k40"
    several = {job.name: job for job in read_run(make_run(tmp_path / "b", Shape(domains=("biology", "history")))).jobs}
    assert several["history-direct-gated-l1_2-s0"].label == "direct"
    assert several["history-control-moment-k40"].sparsity == "moment-k40"


def test_a_method_with_settings_is_a_line_of_its_own(run: Path) -> None:
    lines = read_lines(run / "metrics.jsonl")
    extra = [
        line | {"job": line["job"].replace("ssae-", "ssae_silence0.1-")} for line in lines if line["method"] == "ssae"
    ]
    write_lines(run / "metrics.jsonl", lines + extra)
    looks = looks_of(read_run(run))
    assert list(looks) == ["direct", "finetune", "ssae", "ssae_silence0.1"]
    assert len({(look.colour, look.shape) for look in looks.values()}) == 4


def test_two_architectures_are_two_lines(run: Path) -> None:
    lines = read_lines(run / "metrics.jsonl")
    extra = [
        line | {"job": line["job"].replace("-gated-", "-relu-"), "architecture": "relu"}
        for line in lines
        if line["method"] == "direct"
    ]
    write_lines(run / "metrics.jsonl", lines + extra)
    assert {"direct gated", "direct relu"} <= set(looks_of(read_run(run)))


def test_seeds_are_pooled_to_means_with_the_widest_bar(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", Shape(seeds=2)))
    first = points(run, "biology", Text("biology", "heldout"), metric="loss_recovered_gap")[0]
    assert first.n_seeds == 2
    assert first.value == pytest.approx(0.4590 + 0.004)
    singles = [
        r for r in run.records if r.metric == "loss_recovered_gap" and (r.corpus, r.split) == ("biology", "heldout")
    ]
    own = [r for r in singles if r.job.startswith("direct-gated-l1_5")]
    assert (first.low, first.high) == (min(r.ci_low or 0 for r in own), max(r.ci_high or 0 for r in own))


def test_points_of_a_line_are_in_order_of_l0(run: Path) -> None:
    data = read_run(run)
    found = points(data, "biology", Text("biology", "heldout"), metric="fvu")
    for series in {point.series for point in found}:
        l0s = [point.l0 or 0.0 for point in found if point.series == series]
        assert l0s == sorted(l0s)
    assert {series.name: job.sparsity for series, job in middle_jobs(data, "biology").items()} == {
        "direct": "l1_2",
        "finetune": "l1_2",
        "ssae": "l1_10",
    }


def test_a_job_of_one_domain_is_not_read_for_another(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", Shape(domains=("biology", "history"))))
    where = {"corpus": "general", "split": "heldout"}
    assert run.find("biology-ssae-gated-l1_6-s0", "l0", **where, domain="history") is None
    assert run.find("g", "l0", **where, domain="history") is not None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not a record"),
        ('{"job": "a"}', "line 2: not a record"),
        ('{"value": NaN}', "NaN is not a number"),
    ],
)
def test_a_damaged_line_is_named(run: Path, line: str, said: str) -> None:
    first = (run / "metrics.jsonl").read_text().splitlines()[0]
    (run / "metrics.jsonl").write_text(f"{first}\n{line}\n")
    with pytest.raises(RunError, match=said):
        read_run(run)


def test_an_empty_metrics_file_is_refused(run: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="is empty"):
        read_run(run)


def test_damaged_json_and_parquet_are_errors_and_not_gaps(run: Path) -> None:
    (run / "features" / "g" / "latents.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(RunError, match="not a readable parquet table"):
        read_latents(run, "g")
    (run / "excluded.json").write_text("[1]")
    with pytest.raises(RunError, match="holds a list, but an object is needed"):
        read_run(run)


def test_latents_tell_silent_from_dead_and_count_in_integers(tmp_path: Path) -> None:
    path = tmp_path / "features" / "a" / "latents.parquet"
    path.parent.mkdir(parents=True)
    columns = {"n_fired_general": [0, 0, 10, 1000], "n_tokens_general": [10_000] * 4}
    columns |= {"n_fired_domain": [0, 5, 10, 0], "n_tokens_domain": [500] * 4}
    cosines = pa.array([0.2, None, 0.95, 0.4], pa.float32())
    table = pa.table({**columns, "novelty_decoder": cosines, "novelty_encoder": pa.nulls(4, pa.float32())})
    pq.write_table(table, path)
    found = read_latents(tmp_path, "a")
    assert found is not None
    assert (found.n_latents, found.n_silent, found.n_dead, found.n_tokens_general) == (4, 2, 1, 10_000)
    assert found.densities is not None
    np.testing.assert_allclose(found.densities, [0.001, 0.1])
    assert found.novelty("encoder") is None
    assert found.novelty("decoder") is not None
    assert len(found.novelty("decoder")) == 3
    assert read_latents(tmp_path, "b") is None
