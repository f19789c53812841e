"""What a run's latents fire on, as SAEDashboard and Neuronpedia take it; by a schema always, by their code if there."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fovea.errors import ConfigError, RunError
from fovea.features.dashboards import LATENTS_PER_FILE, MAX_TOKENS, Source, Written, write_dashboards
from fovea.features.read import Features
from tests.features.made import CONTEXT_SIZE, N_TOKENS, make

SOURCE = Source("gpt2-small", 3, "res-demo", "words", CONTEXT_SIZE)
JOB = "ssae-batch_topk-k16-s0"
WIDE = 300

FEATURE = {
    "feature_index": int,
    **dict.fromkeys(["neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1"], list),
    **dict.fromkeys(["correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson"], list),
    **dict.fromkeys(["correlated_features_indices", "correlated_features_l1", "correlated_features_pearson"], list),
    **dict.fromkeys(["neg_str", "neg_values", "pos_str", "pos_values"], list),
    "frac_nonzero": float,
    **dict.fromkeys(["freq_hist_data_bar_values", "freq_hist_data_bar_heights"], list),
    **dict.fromkeys(["logits_hist_data_bar_heights", "logits_hist_data_bar_values"], list),
    "n_prompts_total": int,
    "n_tokens_in_prompt": int,
    "dataset": str,
    **dict.fromkeys(["decoder_weights_dist", "activations", "vector"], list),
}
"Keys of NeuronpediaDashboardFeature.to_dict in sae-dashboard 0.8.0."
ACTIVATION = {"bin_min": float, "bin_max": float, "bin_contains": float, "tokens": list, "values": list}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return Features(make(tmp_path_factory.mktemp("run"), jobs={"g": 64, JOB: WIDE}))


def written(features: Features, out: Path, layout: str) -> tuple[Written, list[dict[str, Any]]]:
    found = write_dashboards(features, JOB, out, layout=layout, source=SOURCE)
    stem = {"saedashboard": "batch", "neuronpedia": "upload"}[layout]
    return found, [json.loads((out / f"{stem}-{n}.json").read_text()) for n in range(found.n_files)]


def typed(value: dict[str, Any], schema: dict[str, type]) -> None:
    assert {name: type(value[name]) for name in schema} == schema


def test_saedashboards_batches_have_its_keys_and_types(features: Features, tmp_path: Path) -> None:
    found, batches = written(features, tmp_path / "out", "saedashboard")
    assert found.n_files == -(-found.n_latents // LATENTS_PER_FILE) > 1
    assert [set(batch) for batch in batches] == [{"model_id", "layer", "sae_set", "sae_id_suffix", "features"}] * len(
        batches
    )
    shown = [feature for batch in batches for feature in batch["features"]]
    assert max(len(batch["features"]) for batch in batches) == LATENTS_PER_FILE
    for feature in shown:
        assert set(feature) == set(FEATURE)
        typed(feature, FEATURE)
        for activation in feature["activations"]:
            assert set(activation) == {*ACTIVATION, "qualifying_token_index"}
            typed(activation, ACTIVATION)
            assert len(activation["tokens"]) == len(activation["values"]) == CONTEXT_SIZE
            assert activation["values"][activation["qualifying_token_index"]] > 0
    skipped = json.loads((tmp_path / "out" / "skipped_indexes.json").read_text())["skipped_indexes"]
    assert len(skipped) == found.n_skipped > 0
    assert sorted([feature["feature_index"] for feature in shown] + skipped) == list(range(WIDE))


def test_what_is_written_is_what_the_evidence_says(features: Features, tmp_path: Path) -> None:
    _, batches = written(features, tmp_path / "out", "saedashboard")
    feature = batches[0]["features"][0]
    card = features.card(JOB, feature["feature_index"])
    evidence = card.evidence[0]
    assert feature["frac_nonzero"] == evidence.n_fired / N_TOKENS
    assert feature["pos_str"] == [token.text for token in card.promoted]
    assert sum(feature["freq_hist_data_bar_heights"]) == evidence.n_fired
    assert feature["freq_hist_data_bar_values"][-1] < evidence.max_activation
    shares = [activation["bin_contains"] for activation in feature["activations"]]
    assert sorted(set(shares)) == [-1, pytest.approx(0.1), pytest.approx(0.4), pytest.approx(0.5)]
    top = feature["activations"][0]
    assert (top["bin_min"], top["bin_contains"]) == (-1, -1)
    assert top["bin_max"] == max(max(a["values"]) for a in feature["activations"] if a["bin_contains"] == -1)
    assert top["tokens"] == [piece.text for piece in evidence.groups[0].examples[0].pieces]


def test_neuronpedias_uploads_keep_its_limits(features: Features, tmp_path: Path) -> None:
    found, uploads = written(features, tmp_path / "out", "neuronpedia")
    assert sum(len(upload["features"]) for upload in uploads) == found.n_latents
    for upload in uploads:
        assert (upload["modelId"], upload["source"]) == ("gpt2-small", "3-res-demo")
        assert 1 <= len(upload["features"]) <= 128
        for feature in upload["features"]:
            assert set(feature) == {"index", "density", "activations", "explanations", "topLogits", "bottomLogits"}
            assert 0 < feature["density"] <= 1
            assert len(feature["topLogits"]) <= 20
            for activation in feature["activations"]:
                assert len(activation["tokens"]) == len(activation["values"]) <= MAX_TOKENS
                fraction = activation["quantileFraction"]
                assert fraction is None or 0 < fraction <= 1


def test_a_context_that_is_too_long_for_neuronpedia_is_cut_around_its_peak(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fovea.features.dashboards.MAX_TOKENS", 4)
    _, uploads = written(features, tmp_path / "out", "neuronpedia")
    for feature in uploads[0]["features"]:
        for activation in feature["activations"]:
            assert len(activation["tokens"]) == len(activation["values"]) == 4
            assert max(activation["values"]) > 0


def test_what_cannot_be_written_is_said_and_leaves_nothing(features: Features, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allowed: neuronpedia, saedashboard"):
        write_dashboards(features, JOB, tmp_path / "a", layout="delphi", source=SOURCE)
    with pytest.raises(RunError, match="has no job 'x'"):
        write_dashboards(features, "x", tmp_path / "b", layout="neuronpedia", source=SOURCE)
    assert list(tmp_path.iterdir()) == []


def module_at(name: str, *path: str) -> Any:
    """A module of a package whose __init__ would load everything that the package needs."""
    package = importlib.util.find_spec(name)
    assert package is not None
    assert package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]).joinpath(*path)
    spec = importlib.util.spec_from_file_location(f"only_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.saedashboard
def test_saedashboards_own_classes_take_the_batches_and_give_them_back(features: Features, tmp_path: Path) -> None:
    theirs = module_at("sae_dashboard", "neuronpedia", "neuronpedia_dashboard.py")
    for batch in written(features, tmp_path / "out", "saedashboard")[1]:
        assert theirs.NeuronpediaDashboardBatch(**batch).to_dict() == batch


@pytest.mark.neuronpedia
def test_neuronpedias_own_client_would_send_the_same_bodies(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np = importlib.import_module("neuronpedia.requests.feature_request")
    _, uploads = written(features, tmp_path / "out", "neuronpedia")
    sent: list[Any] = []
    monkeypatch.setattr(np.FeatureRequest, "__init__", lambda _: None)
    monkeypatch.setattr(np.FeatureRequest, "send_request", lambda _, **call: sent.append(call["json"]))
    feature_module = importlib.import_module("neuronpedia.np_feature")
    for upload in uploads:
        place = {"modelId": upload["modelId"], "source": upload["source"]}
        listed = [
            np.Feature(
                **place,
                index=each["index"],
                density=each["density"],
                top_logits=[feature_module.Logit(**logit) for logit in each["topLogits"]],
                bottom_logits=[feature_module.Logit(**logit) for logit in each["bottomLogits"]],
                activations=[np.Activation(**place, index=each["index"], **a) for a in each["activations"]],
            )
            for each in upload["features"]
        ]
        np.FeatureRequest().upload_batch(upload["modelId"], upload["source"], listed)
    assert sent == uploads
