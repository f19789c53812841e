"""The table of latents, the baselines and the records that sum them up."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from fovea.eval.definitions import DEFINITIONS
from fovea.eval.density import FiringCounts
from fovea.eval.latents import (
    Baselines,
    LatentFacts,
    firing_records,
    n_domain_specific,
    novelty_records,
    write_baselines,
    write_definitions,
    write_latents,
)
from fovea.eval.novelty import N_QUANTILES, Baseline, MaxCosine, Novelty
from fovea.eval.records import MetricRecord
from fovea.eval.scoring import JobInfo, Part

JOB, PART = JobInfo("a", "ssae", domain="biology"), Part("biology", "heldout", "c")


def counts(values: list[int], n_tokens: int) -> FiringCounts:
    return FiringCounts(torch.tensor(values), n_tokens, 9)


def facts() -> LatentFacts:
    decoder = MaxCosine(torch.tensor([0.95, 0.5, 0.2, float("nan")]), torch.tensor([7, 8, 9, -1], dtype=torch.int32))
    encoder = MaxCosine(torch.tensor([0.4, 0.25, 0.2, 0.1]), torch.tensor([1, 2, 3, 4], dtype=torch.int32))
    return LatentFacts(counts([30, 20, 0, 1], 100), counts([10, 0, 0, 0], 10_000), Novelty(decoder, encoder))


def baselines() -> Baselines:
    steps = torch.linspace(0, 1, N_QUANTILES, dtype=torch.float64)
    side = Baseline(random=0.3 * steps / 0.99, moment=0.6 * steps / 0.99)
    return Baselines(side, side, n_latents=4, seed=5)


def values(records: list[MetricRecord]) -> dict[str, float | None]:
    return {record.metric: record.value for record in records}


def test_the_table_has_a_row_per_latent_with_integer_counts_and_nulls(tmp_path):
    write_latents(tmp_path / "latents.parquet", facts())
    table = pq.read_table(tmp_path / "latents.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "latent": "int32",
        "n_fired_domain": "int64",
        "n_tokens_domain": "int64",
        "n_fired_general": "int64",
        "n_tokens_general": "int64",
        "novelty_decoder": "float",
        "nearest_decoder": "int32",
        "novelty_encoder": "float",
        "nearest_encoder": "int32",
    }
    columns = table.to_pydict()
    assert columns["latent"] == [0, 1, 2, 3]
    assert columns["n_fired_domain"] == [30, 20, 0, 1]
    assert columns["n_tokens_general"] == [10_000] * 4
    assert columns["novelty_decoder"] == pytest.approx([0.95, 0.5, 0.2, None])
    assert columns["nearest_decoder"] == [7, 8, 9, -1]


def test_equal_facts_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        write_latents(tmp_path / name, facts())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_without_g_or_general_text_the_columns_are_null(tmp_path):
    write_latents(tmp_path / "latents.parquet", LatentFacts(counts([3], 4), None, None))
    row = pq.read_table(tmp_path / "latents.parquet").to_pylist()[0]
    assert {name for name, value in row.items() if value is None} == {
        "n_fired_general",
        "n_tokens_general",
        "novelty_decoder",
        "nearest_decoder",
        "novelty_encoder",
        "nearest_encoder",
    }


def test_firing_is_summed_up_in_whole_numbers():
    found = values(firing_records(facts().domain, job=JOB, part=PART))
    assert (found["n_latents"], found["n_alive"], found["n_dead"], found["n_dense"]) == (4, 3, 1, 2)
    assert found["density_median"] == 0.2
    assert found["density_bound"] == pytest.approx(1 - 0.05 ** (1 / 100))


def test_a_sae_that_never_fires_has_no_median_density_and_says_so():
    records = firing_records(counts([0, 0], 50), job=JOB, part=PART)
    (median,) = [record for record in records if record.metric == "density_median"]
    assert (median.value, median.reason, median.n_tokens) == (None, "no latent fired", 50)


def test_novelty_is_summed_up_over_the_latents_that_fired():
    found = values(novelty_records(facts(), baselines(), job=JOB, part=PART))
    assert found["novelty_decoder_median"] == pytest.approx(0.725)
    assert (found["n_matched_decoder"], found["n_novel"]) == (1, 1)
    assert (found["n_above_random_decoder"], found["n_above_moment_decoder"]) == (2, 1)
    assert found["novelty_encoder_median"] == pytest.approx(0.25)
    assert found["n_above_random_encoder"] == 1


def test_a_latent_is_specific_if_it_is_a_hundred_times_denser_on_the_domain():
    domain, general = counts([1, 2, 200, 0], 1000), counts([0, 0, 20, 0], 100_000)
    assert n_domain_specific(LatentFacts(domain, general, None)) == 2
    assert n_domain_specific(LatentFacts(domain, None, None)) is None


def test_without_g_novelty_is_missing_with_a_reason():
    records = novelty_records(facts()._replace(novelty=None), None, job=JOB, part=PART)
    missing = {record.metric: record.reason for record in records if record.value is None}
    assert set(missing.values()) == {"no general SAE to compare with"}
    assert len(missing) == 9


def test_every_record_has_a_definition():
    records = firing_records(facts().domain, job=JOB, part=PART) + novelty_records(
        facts(), baselines(), job=JOB, part=PART
    )
    assert {record.definition for record in records} <= DEFINITIONS.keys()


def test_baselines_and_definitions_are_plain_json(tmp_path):
    write_baselines(tmp_path / "baselines.json", baselines())
    found = json.loads((tmp_path / "baselines.json").read_text())
    assert (found["n_latents"], found["seed"]) == (4, 5)
    assert len(found["random"]["decoder"]) == len(found["moment"]["encoder"]) == N_QUANTILES
    write_definitions(tmp_path / "definitions.json")
    definitions = json.loads((tmp_path / "definitions.json").read_text())
    assert definitions["fvu"]["formula"] == "sum |x - x_hat|^2 / sum |x - mean(x)|^2"
