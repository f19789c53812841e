"""Reading evidence: what pages and studies get to see of a latent."""

import numpy as np
import pytest

from fovea.errors import RunError
from fovea.features.read import Features
from tests.features.made import N_TOKENS, make


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made") / "run")


def test_a_card_holds_both_corpora_with_exact_text(run):
    features = Features(run)
    latent = int(features.alive("ssae-batch_topk-k16-s0")[0])
    card = features.card("ssae-batch_topk-k16-s0", latent)
    assert [evidence.role for evidence in card.evidence] == ["domain", "general"]
    example = card.evidence[0].groups[0].examples[0]
    assert len(example.pieces) == 32
    assert (example.pieces[5].text, example.pieces[6].text) == ("🧬", ""), (
        "a split character belongs to its first token"
    )
    assert example.pieces[20].text == "<|end|>"
    assert example.pieces[example.peak].activation == max(piece.activation for piece in example.pieces) > 0
    assert example.position == example.peak
    assert card.nearest_general is not None
    assert card.nearest_general.job == "g"


def test_not_firing_is_a_state_of_its_own(run):
    features = Features(run)
    silent = np.setdiff1d(np.arange(48), features.alive("ssae-batch_topk-k16-s0"))
    evidence = features.card("ssae-batch_topk-k16-s0", int(silent[0])).evidence[0]
    assert (evidence.n_fired, evidence.n_tokens, evidence.max_activation) == (0, N_TOKENS, None)
    assert all(not group.examples for group in evidence.groups), "a dead latent has no examples, not all-zero ones"
    assert sum(evidence.histogram) == 0


def test_the_table_has_integer_counts_and_a_ratio(run):
    table = Features(run).table("ssae-batch_topk-k16-s0")
    assert table["n_fired_domain"].dtype == np.int64
    expected = table["n_fired_domain"] / np.maximum(table["n_fired_general"], 1)
    np.testing.assert_allclose(table["ratio"], expected)
    assert not table["ratio"].flags.writeable
    assert np.isnan(Features(run).table("g")["nearest_general"]).all(), "g has no nearest latent of g"


def test_a_run_without_evidence_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match="fovea features"):
        Features(tmp_path)


def test_stale_evidence_is_refused(tmp_path):
    run = make(tmp_path / "run", jobs={"g": 8})
    latents = run / "features" / "g" / "latents.parquet"
    latents.write_bytes(latents.read_bytes() + b" ")
    with pytest.raises(RunError, match=r"stale: features/g/latents.parquet has changed"):
        Features(run)


def test_unknown_jobs_and_latents_are_named(run):
    with pytest.raises(RunError, match="has no job 'x'; it has: g"):
        Features(run).table("x")
    with pytest.raises(RunError, match="no latent 64; it has 0 to 63"):
        Features(run).card("g", 64)
