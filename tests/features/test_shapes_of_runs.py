"""Runs of another shape than the usual: two domains with one g, and no general text at all; evidence, pages, export."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from fovea.app.server import Place, build
from fovea.features.read import Features
from fovea.sae.files import read_sae
from tests.app.conftest import BASE, TOKEN, sign_in
from tests.experiment.tiny import experiment, save_corpus
from tests.features.real import run_with_features

pytestmark = pytest.mark.slow
SETTINGS = {
    "tokens": 3000,
    "top": 3,
    "per_group": 2,
    "rank_edges": [0.0, 0.5, 1.0],
    "histogram_bins": 7,
    "tokens_shown": 4,
    "neighbours": 3,
}
KINDS = ("direct-batch_topk-k4-s0", "ssae-batch_topk-k2-s0", "control-random-k4", "control-moment-k4", "g")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the domains "words" and "other"."""
    folder = tmp_path_factory.mktemp("two")
    experiment(folder)
    other = save_corpus(folder / "other.jsonl", words=range(60, 97), seed=5)
    domains = [("words", folder / "domain.jsonl"), ("other", other)]
    tables = [{"name": name, "corpus": str(path)} for name, path in domains]
    train = {"n_tokens": 1600, "batch_size": 128, "buffer_rows": 512}
    return run_with_features(folder, domain=tables, features=SETTINGS, train=train)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without general text, and so without g."""
    job = [{"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "expansion": 2, "k": [2, 4]}}]
    return run_with_features(tmp_path_factory.mktemp("alone"), general=False, job=job)


@pytest.fixture
def owner(request: pytest.FixtureRequest) -> Iterator[TestClient]:
    """The app over the run that the test names, for its owner."""
    run = request.getfixturevalue(request.param)
    with TestClient(build(run, Place(), TOKEN), base_url=BASE, headers={"origin": BASE}) as client:
        yield sign_in(client)


def exported(owner: TestClient, latents: list[list[Any]], **more: Any) -> list[dict[str, Any]]:
    """The cards on the static page of a selection."""
    answer = owner.post("/api/export", json={"latents": latents, **more})
    assert answer.status_code == 200
    found = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', answer.text, re.DOTALL)
    assert found
    return json.loads(found[1])["cards"]


def test_each_domain_has_its_own_evidence_and_its_own_row_for_g(two: Path) -> None:
    features = Features(two)
    for domain, other in (("words", "other"), ("other", "words")):
        for kind in KINDS:
            job = f"{domain}-{kind}"
            latents = features.alive(job)
            assert len(latents), job
            card = features.card(job, int(latents[0]))
            assert [(one.corpus, one.role) for one in card.evidence] == [(domain, "domain"), ("general", "general")]
            assert card.domain == domain
            general = card.nearest_general
            assert (general is None) if kind == "g" else (general is not None and general.job == f"{domain}-g")
        # g is one SAE: the same on general text, another on each domain.
        ours, theirs = (Features(two).table(f"{name}-g") for name in (domain, other))
        np.testing.assert_array_equal(ours["n_fired_general"], theirs["n_fired_general"])
        assert (ours["n_fired_domain"] != theirs["n_fired_domain"]).any()


def test_every_setting_does_what_it_says(two: Path) -> None:
    features = Features(two)
    cards = [features.card("words-direct-batch_topk-k4-s0", latent) for latent in range(48)]
    evidence = [one for card in cards for one in card.evidence]
    assert {len(one.histogram) for one in evidence} == {7}
    assert {tuple(group.name for group in one.groups) for one in evidence} == {("top", "rank 0-50%", "rank 50-100%")}
    assert max(len(one.groups[0].examples) for one in evidence) == 3
    assert max(len(group.examples) for one in evidence for group in one.groups[1:]) == 2
    assert {len(card.promoted) for card in cards} == {len(card.suppressed) for card in cards} == {4}
    assert {len(card.nearest) for card in cards} == {3}
    assert max(len(card.cofiring) for card in cards) == 3
    assert {one.n_tokens for one in evidence} <= set(range(2500, 3001)), "what counts of 3,000 tokens"


def test_the_text_of_a_domain_is_not_that_of_the_other(two: Path) -> None:
    """One folder, several corpora: nothing of the first is read again for the second."""
    for domain, allowed in (("words", range(3, 40)), ("other", range(60, 97)), ("general", range(30, 97))):
        job = "words-g" if domain == "general" else f"{domain}-g"
        features = Features(two)
        for latent in features.alive(job)[:10].tolist():
            evidence = next(one for one in features.card(job, latent).evidence if one.corpus == domain)
            texts = [piece.text for group in evidence.groups for example in group.examples for piece in example.pieces]
            assert {int(text.strip()[1:]) for text in texts if text.strip().startswith("w")} <= set(allowed)


def test_the_nearest_latent_of_g_is_that_of_all_cosines_in_float64(two: Path) -> None:
    features = Features(two)
    g = read_sae(two / "general").sae.W_dec.detach().double().numpy()
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    for job in ("words-ssae-batch_topk-k2-s0", "other-direct-batch_topk-k4-s0", "words-control-random-k4"):
        rows = read_sae(two / features.manifest["jobs"][job]["sae"]).sae.W_dec.detach().double().numpy()
        cosines = rows / np.linalg.norm(rows, axis=1, keepdims=True) @ g.T
        for latent in range(0, len(rows), 7):
            link = features.card(job, latent).nearest_general
            assert link is not None
            assert link.value == pytest.approx(cosines[latent].max(), abs=1e-6)
            assert cosines[latent, link.latent] == pytest.approx(cosines[latent].max(), abs=1e-6)


@pytest.mark.parametrize("owner", ["two"], indirect=True)
def test_two_domains_are_listed_compared_and_exported(owner: TestClient) -> None:
    about = owner.get("/api/run").json()
    assert about["domains"] == ["words", "other"]
    jobs = {job["name"]: job for job in about["jobs"]}
    assert set(jobs) >= {f"{domain}-{kind}" for domain in ("words", "other") for kind in KINDS}
    assert jobs["other-g"]["domain"] == "other"
    rows = list(csv.DictReader(io.StringIO(owner.get("/api/latents.csv").text)))
    assert len(rows) == about["n_latents"] == sum(job["n_latents"] for job in jobs.values())
    controls = [jobs[row["job"]]["is_control"] for row in rows]
    assert controls == sorted(controls), "controls come last"
    across = owner.get("/api/compare", params={"a": "words-ssae-batch_topk-k2-s0", "b": "other-ssae-batch_topk-k2-s0"})
    assert [job["n_latents"] for job in across.json()["jobs"]] == [48, 48]
    words, other = exported(owner, [["words-g", 0], ["other-g", 0]], around=3)
    assert [one["evidence"][0]["corpus"] for one in (words, other)] == ["words", "other"]
    # General text is the same for both; the bins of the histogram end at the largest activation on either corpus.
    for name in ("corpus", "n_fired", "n_tokens", "max_activation", "groups"):
        assert words["evidence"][1][name] == other["evidence"][1][name]


@pytest.mark.parametrize("owner", ["alone"], indirect=True)
def test_without_general_text_what_is_unknown_is_said_to_be(alone: Path, owner: TestClient) -> None:
    features = Features(alone)
    job = "direct-batch_topk-k4-s0"
    card = features.card(job, int(features.alive(job)[0]))
    assert [one.role for one in card.evidence] == ["domain"]
    assert (card.nearest_general, card.novelty_decoder, card.novelty_encoder) == (None, None, None)
    assert owner.get("/api/run").json()["default_sort"] == "density_domain"
    page = owner.get("/api/latents", params={"limit": 48}).json()
    fired = [row[2] for row in page["rows"]]
    assert fired == sorted(fired, reverse=True)
    assert all(row[3] is None and row[4] is None and row[6:] == [None, None, None] for row in page["rows"])
    compared = owner.get("/api/compare", params={"a": job, "b": "direct-batch_topk-k2-s0"}).json()
    for found in compared["jobs"]:
        unknown = {"n_only", "n_specific", "n_new"}
        assert {name for name, value in found.items() if value is None} == unknown, "unknown, not 0"
        assert found["medians"]["density_domain"] > 0
        assert found["medians"]["ratio"] is None
    rows = list(csv.DictReader(io.StringIO(owner.get("/api/latents.csv").text)))
    assert {row["ratio"] for row in rows} == {row["novelty_decoder"] for row in rows} == {""}
    (kept,) = exported(owner, [[job, card.latent]])
    assert len(kept["evidence"]) == 1
    assert kept["nearest_general"] is None
