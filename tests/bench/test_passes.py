"""What runs the lm, on a tiny one: harvest, one more SAE, the nine end to end, evaluation against whole forwards."""

from pathlib import Path

import pytest

from fovea.bench import evals, passes
from fovea.bench.config import BenchConfig, PassConfig, StepConfig
from fovea.bench.driver import OURS, Measured, Round, Variant
from fovea.bench.evaluated import evaluated_saes
from fovea.bench.material import Rows, activations, load_subject
from fovea.bench.passgroups import GRID, e2e_groups, eval_groups, eval_numbers, line_numbers
from fovea.bench.suite import Plan
from fovea.data.activations import ActivationChunks
from tests.experiment import tiny
from tests.lm import tiny as tiny_lm


@pytest.fixture
def config(tmp_path, monkeypatch) -> BenchConfig:
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "made"
    made.mkdir()
    tables = tiny.experiment(made)
    lm = PassConfig(
        model=tables["lm"]["model"],
        hook_point=tiny.HOOK_POINT,
        corpus=tables["domain"][0]["corpus"],
        general_sae=tables["general"]["sae"],
        context_size=16,
        train_tokens=512,
        eval_contexts=6,
        n_evaluated=2,
    )
    return BenchConfig(step=StepConfig(n_rows=600, d_sae_many=80, batch_size=64), lm=lm)


def lm_task(config: BenchConfig, **changes) -> dict:
    return {"lm": config.lm.model_dump(), "dtype": "float32", **changes}


def test_harvest_counts_the_tokens_that_the_lm_read(config):
    unit, _ = passes.harvest(lm_task(config))
    assert unit() == 64 * 16


def test_flops_of_the_lm_are_two_a_weight_up_to_the_hook_and_attention(config):
    subject = load_subject(config.lm, dtype="float32")
    layer = 24 * (24 + 2 * 12 + 24) + 3 * 24 * 40  # q, k, v, o, and the three of the mlp
    assert passes.lm_flops(subject.lm, subject.hook_point, 16) == 2 * (2 * layer) + 2 * 2 * 16 * 24


def test_one_pass_runs_the_lm_and_trains_n_saes_a_step(config, monkeypatch):
    made, chunk = [], ActivationChunks.chunk
    monkeypatch.setattr(ActivationChunks, "chunk", lambda self, index: made.append(index) or chunk(self, index))
    task = lm_task(config, arch="topk", d_sae=48, k=4, batch_size=256)
    for n in (0, 2):
        unit, _ = passes.line(task | {"n": n})
        made.clear()
        assert unit() == 256
        assert len(made) == 1


def test_the_activations_are_those_of_the_corpus(config):
    path = activations(config.step, config.lm)
    assert path == activations(config.step, config.lm)
    rows = Rows(str(path), 64)
    assert rows.x.shape == (600, tiny_lm.D_MODEL)


def test_the_evaluation_gives_the_losses_of_whole_forwards(config):
    (group,) = eval_groups(Plan(config, {}))
    results = {}
    for variant in group.variants:
        kinds = {"eval": evals.evaluation, "whole_forwards": evals.whole_forwards}
        unit, found = kinds[variant.task["kind"]](dict(variant.task))
        assert unit() == 6 * 16
        results[variant.name] = found()
    measured = [
        Measured(variant, [Round(1.0, 1.0, 96, None)], 1, results[variant.name], None) for variant in group.variants
    ]
    numbers = eval_numbers([measured])
    assert numbers["largest difference of a loss against whole forwards, nats"] < 1e-5
    assert len(results[OURS]["ce"]) == 2
    assert len(set(results[OURS]["ce"].values())) == 2


def test_evaluated_saes_are_made_once(config):
    folders = evaluated_saes(config)
    before = [(folder / "sae_weights.safetensors").stat().st_mtime_ns for folder in folders]
    assert [(folder / "sae_weights.safetensors").stat().st_mtime_ns for folder in evaluated_saes(config)] == before


@pytest.mark.slow
def test_the_grid_is_nine_saes_trained_and_saved(config):
    general = tiny.save_corpus(Path(config.lm.corpus).with_name("other.jsonl"), words=range(30, 97), seed=5)
    (group,) = e2e_groups(Plan(config, {}))
    (variant,) = group.variants
    experiment = variant.task["experiment"]
    experiment["general"]["corpus"] = str(general)
    unit, results = passes.end_to_end({"experiment": experiment})
    assert unit() == 512
    names = results()["saes"]
    wanted = {f"{swept.method}-batch_topk-k{k}-s0" for swept in GRID for k in swept.sparsities}
    assert set(names) == wanted
    assert list(results()["seconds"])[-1] == "train and save"


def test_the_line_needs_two_points_and_is_per_sae():
    def point(n: int, seconds: float) -> Measured:
        return Measured(Variant(f"{n} SAEs", OURS, {"n": n}), [Round(seconds, seconds, 1_000_000, None)], 1, {}, None)

    numbers = line_numbers([[point(0, 100.0), point(1, 104.0), point(3, 112.0), point(9, 136.0)]])
    assert numbers["us_per_token_of_one_more_sae"] == pytest.approx(4.0)
    assert numbers["one_more_sae_as_share_of_lm_pass"] == pytest.approx(0.04)
    assert line_numbers([[point(0, 100.0)]]) == {}


def test_bfloat16_lm_is_used_only_where_the_processor_has_it(config, monkeypatch):
    for has, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("fovea.bench.passgroups.has_bf16", lambda has=has: has)
        (group,) = eval_groups(Plan(config, {}))
        assert group.about["lm_dtype"] == dtype
