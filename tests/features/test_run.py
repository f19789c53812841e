"""The evidence of a whole tiny run: what the SAEs do on the text; kept, refused and made again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import fovea.experiment.features as collecting
from fovea.errors import ConfigError, RunError
from fovea.experiment.features import features_of_run
from fovea.experiment.folder import RunFolder
from fovea.experiment.prepare import load_subject, materials
from fovea.features.prompt import Prompter
from fovea.features.read import Features
from fovea.sae.files import read_sae
from tests.features.real import run_with_features

pytestmark = pytest.mark.slow
JOB = "ssae-batch_topk-k2-s0"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return run_with_features(tmp_path_factory.mktemp("real"))


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def evidence_bytes(run: Path) -> dict[str, bytes]:
    names = ("evidence.parquet", "links.parquet", "tokens.parquet", ".safetensors", "manifest.json")
    paths = (path for path in sorted((run / "features").rglob("*")) if path.name.endswith(names))
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def test_every_sae_of_the_run_has_evidence_on_both_corpora(run):
    features = Features(run)
    controls = {f"control-{kind}-k4" for kind in ("random", "moment", "frozen_decoder")}
    assert set(features.jobs) == {"g", "direct-batch_topk-k4-s0", JOB} | controls
    for job in features.jobs:
        card = features.card(job, int(features.alive(job)[0]))
        assert [(one.corpus, one.role) for one in card.evidence] == [("words", "domain"), ("general", "general")]
        assert card.evidence[0].split == "heldout+train"


@pytest.mark.parametrize("job", ["g", JOB, "control-random-k4"])
def test_counts_and_examples_are_what_the_sae_does_on_the_text(run, job):
    config, folder = RunFolder(run).config(), RunFolder(run)
    subject = load_subject(config)
    found = materials(config, folder, subject)["words"]
    manifest = Features(run).manifest
    encode = read_sae(run / manifest["jobs"][job]["sae"]).sae.encode
    n = manifest["corpora"]["words"]["n_contexts"] - found.heldout.packed.n_contexts
    latents, by_token = [], {}
    for chunks, n_contexts in ((found.heldout, found.heldout.packed.n_contexts), (found.train, n)):
        ids = chunks.packed.document_ids()
        for index in range(chunks.n_chunks):
            chunk = chunks.chunk(index)
            rows = encode(chunk.x).numpy()
            for row, document, position, context in zip(rows, *chunk[1:], strict=True):
                if context < n_contexts:
                    latents.append(row)
                    by_token.setdefault((ids[document], int(position)), []).append(row)
    shutil.rmtree(folder.activations)
    counts = (np.array(latents) > 0).sum(axis=0)
    for latent in range(0, len(counts), 5):
        evidence = Features(run).card(job, latent).evidence[0]
        assert (evidence.n_fired, evidence.n_tokens) == (counts[latent], len(latents))
        for group in evidence.groups:
            values = [example.pieces[example.peak].activation for example in group.examples]
            assert values == sorted(values, reverse=True)
            for example, value in zip(group.examples, values, strict=True):
                rows = by_token[example.document, example.position]
                assert any(np.isclose(row[latent], value, rtol=1e-4) for row in rows)
                ranks = (np.array(latents)[:, latent] > value * (1 + 1e-4)).sum() / max(counts[latent], 1)
                assert group.name == "top" or ranks <= group.high, "a share of firings, not of the largest activation"


def test_collecting_again_changes_nothing_and_reads_nothing(copy, monkeypatch):
    before = evidence_bytes(copy)
    monkeypatch.setattr(collecting, "gather", None)
    features_of_run(copy)
    assert evidence_bytes(copy) == before


def test_a_killed_collection_goes_on_and_ends_in_the_same_bytes(copy, monkeypatch):
    before = evidence_bytes(copy)
    (copy / "features" / "manifest.json").unlink()
    real, corpora = collecting.save_part, []

    def killed(path, part):
        corpora.append(path.name.partition("--")[0])
        if len(set(corpora)) == 2:
            raise KeyboardInterrupt
        real(path, part)

    monkeypatch.setattr(collecting, "save_part", killed)
    with pytest.raises(KeyboardInterrupt):
        features_of_run(copy)
    with pytest.raises(RunError, match="fovea features"):
        Features(copy)
    read = []
    monkeypatch.setattr(collecting, "save_part", lambda path, part: (read.append(path.name), real(path, part)))
    features_of_run(copy)
    assert {name.partition("--")[0] for name in read} == {corpora[-1]}, "the corpus that was done is not read again"
    assert evidence_bytes(copy) == before


def test_other_settings_are_refused_unless_forced_and_made_anew(copy):
    with pytest.raises(RunError, match=r"differs in settings, text; add --force"):
        features_of_run(copy, tokens=500)
    assert "500" not in features_of_run(copy, tokens=512, force=True)
    corpora = json.loads((copy / "features" / "manifest.json").read_text())["corpora"]
    assert corpora["words"]["split"] == "heldout", "held-out text was enough"


def test_evidence_of_other_weights_is_refused(copy):
    path = copy / "saes" / JOB / "sae_weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match="is stale: saes/ssae.* has changed"):
        Features(copy)
    with pytest.raises(RunError, match="not the weights that were saved"):
        features_of_run(copy)


def test_an_unfinished_run_says_so(copy):
    (copy / "saes" / JOB / "job.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        features_of_run(copy)


def test_a_run_without_features_leaves_them_out(tmp_path):
    run = run_with_features(tmp_path, features=False)
    assert not (run / "features" / "manifest.json").exists()
    assert (run / "features" / "g" / "latents.parquet").exists()


def test_a_prompt_fires_what_the_sae_does_on_its_activations(run):
    prompter = Prompter(run)
    prompt = prompter.fire("w5 w6 w7 w40 w41")
    assert "".join(token.text for token in prompt.tokens) == "w5 w6 w7 w40 w41"
    assert [token.counted for token in prompt.tokens] == [False, True, True, True, True]
    assert {firing.job for firing in prompt.jobs} == set(Features(run).jobs)
    config = RunFolder(run).config()
    subject = load_subject(config)
    ids = torch.tensor([[token.token_id for token in prompt.tokens]])
    expected = read_sae(run / "saes" / JOB).sae.encode(subject.lm.activations(ids, subject.hook_point)[0])
    (own,) = (firing for firing in prompt.jobs if firing.job == JOB)
    for row, fired in list(zip(expected, own.tokens, strict=True))[1:]:
        assert {one.latent for one in fired} == set(row.nonzero()[:, 0].tolist())
        assert [one.activation for one in fired] == sorted((one.activation for one in fired), reverse=True)
    with pytest.raises(ConfigError, match="empty"):
        prompter.fire("")
    with pytest.raises(ConfigError, match="shorten it"):
        prompter.fire("w5 " * 10_000)
    assert len(prompter.fire("w5 " * 40).tokens) == 40, "longer than a context"
