"""The experiment file: sweeps, names, overrides, and one clear message for each mistake."""

from pathlib import Path

import pytest

from fovea.errors import ConfigError
from fovea.experiment.config import load_experiment, resolve
from fovea.experiment.run import demo_experiment
from fovea.train.job import OptimiserConfig
from tests.experiment.tiny import experiment

SHIPPED = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))


def test_lists_are_sweeps_and_each_job_has_a_readable_name(tmp_path):
    config = resolve(experiment(tmp_path), where="test")
    assert [job.name for job in config.job[:3]] == [f"direct-batch_topk-k{k}-s0" for k in (2, 4, 8)]
    assert config.job[6].name == "ssae_silence0.25-batch_topk-k1-s0"
    assert config.job[9].name == "mix0.5-topk-k4-s0"


def test_what_is_resolved_and_written_resolves_to_itself(tmp_path):
    import tomllib

    config = resolve(experiment(tmp_path), where="test")
    assert resolve(tomllib.loads(config.to_toml()), where="again") == config


def test_what_is_switched_off_stays_off_when_written_and_read_again():
    import tomllib

    config = load_experiment(Path(__file__).parents[2] / "experiments" / "general-smollm2.toml")
    assert config.general is None
    assert config.controls is None
    assert resolve(tomllib.loads(config.to_toml()), where="again") == config


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_experiment_is_valid(path):
    assert load_experiment(path).n_steps >= 1


def test_the_demo_holds_three_methods_at_three_sparsities():
    config = demo_experiment()
    assert {job.method.kind_name for job in config.job} == {"direct", "finetune", "ssae"}
    assert len(config.job) == 9


def test_an_override_reaches_a_nested_setting_and_a_list_entry():
    config = demo_experiment(("train.n_tokens=4096", 'domain.0.corpus="bundled:history"'))
    assert config.train.n_tokens == 4096
    assert config.domain[0].corpus == "bundled:history"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trian": {}}, r"unknown setting 'trian'.*did you mean 'train'"),
        ({"train": {"n_token": 5}}, r"train\.n_token.*did you mean 'n_tokens'"),
        (
            {"job": [{"method": {"kind": "direct", "silnce": 0.2}, "sae": {"kind": "topk", "d_sae": 8, "k": 4}}]},
            "'silence'",
        ),
        (
            {"job": [{"method": {"kind": "direct"}, "sae": {"kind": "topk", "d_sae": 8, "k": 4, "l1": 1}}]},
            r"unknown setting 'job\.0\.sae\.l1' = 1; its table takes aux_weight, .*k, kind$",
        ),
        (
            {"job": [{"method": {"kind": "direct"}, "sae": {"kind": "topk", "expansion": 0, "k": [4, 8]}}]},
            r"^test: setting 'job\.0\.sae\.expansion' = 0: Input should be greater than 0$",
        ),
        ({"job": [{"method": {"kind": "direct"}, "sae": {"kind": "topk", "d_sae": 8, "k": []}}]}, r"k = \[\] names no"),
        ({"name": ""}, "'name' = ''"),
        ({"train": {"n_tokens": 4096, "batch_size": 512, "buffer_rows": 100}}, "buffer_rows = 100 is less than one"),
        ({"train": {"n_tokens": 0}}, r"train\.n_tokens.*greater than 0"),
        ({"train": {"n_tokens": 10, "batch_size": 100}}, "less than one batch"),
        ({"domain": []}, "domain"),
        ({"domain": [{"name": "general", "corpus": "x"}]}, "'general' is taken"),
        ({"domain": [{"name": "No Spaces", "corpus": "x"}]}, r"domain\.0\.name"),
        ({"general": False}, "needs general text and a general SAE"),
        ({"job": [{"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "d_sae": 0, "k": 4}}]}, "d_sae"),
        ({"job": [{"method": {"kind": "direkt"}, "sae": {"kind": "topk", "d_sae": 8, "k": 4}}]}, "direkt"),
        (
            {"job": [{"method": {"kind": "direct"}, "sae": {"kind": "topk", "d_sae": 8, "k": 4}}] * 2},
            "two jobs are named",
        ),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        resolve(experiment(tmp_path, **change), where="test")


def test_a_file_that_is_not_toml_is_refused(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("name = \n")
    with pytest.raises(ConfigError, match="not valid toml"):
        load_experiment(path)
    with pytest.raises(ConfigError, match="does not exist"):
        load_experiment(tmp_path / "absent.toml")


def names(*jobs):
    config = resolve({"name": "a", "domain": [{"name": "d", "corpus": "d.txt"}], "job": list(jobs)}, where="test")
    return [config.job_name(config.domain[0], job) for job in config.job]


SSAE = {"method": {"kind": "ssae"}, "sae": {"kind": "batch_topk", "d_sae": 2304, "k": 16}}


def test_jobs_that_share_a_name_carry_what_tells_them_apart_and_others_do_not():
    direct = {"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "expansion": 2, "k": 16}}
    fast = {**SSAE, "optimiser": {"lr": {"peak": 1e-5}}}
    assert names(SSAE, direct) == ["ssae-batch_topk-k16-s0", "direct-batch_topk-k16-s0"]
    wide = {**SSAE, "sae": {**SSAE["sae"], "d_sae": [1152, 2304]}}
    assert names(wide, direct) == [
        "ssae_d1152-batch_topk-k16-s0",
        "ssae_d2304-batch_topk-k16-s0",
        "direct-batch_topk-k16-s0",
    ]
    peak = OptimiserConfig().lr.peak
    assert names(SSAE, fast) == [f"ssae_lr{peak:g}-batch_topk-k16-s0", "ssae_lr0.00001-batch_topk-k16-s0"]
    assert names({**direct, "optimiser": {"clip_norm": 2}}, direct) == [
        "direct_clip_norm2.0-batch_topk-k16-s0",
        "direct_clip_norm1.0-batch_topk-k16-s0",
    ]
    by_number = {**direct, "sae": {"kind": "batch_topk", "d_sae": 96, "k": 16}}
    assert names(direct, by_number) == ["direct_x2.0-batch_topk-k16-s0", "direct_d96-batch_topk-k16-s0"]


def test_a_sweep_of_silences_needs_no_more_than_the_method_already_says():
    quiet = [{**SSAE, "method": {"kind": "ssae", "silence": share}} for share in (0.1, 0.2)]
    assert names(*quiet) == ["ssae_silence0.1-batch_topk-k16-s0", "ssae_silence0.2-batch_topk-k16-s0"]
