"""Controls: features of known specificity, mixed in blind, reported per rater and part of nothing else."""

import csv
import json

import pytest

from fovea.errors import ConfigError, StudyError
from fovea.rating.exports import export
from tests.rating.made_study import MadeSource, config, made, work

SSAE, DIRECT = "ssae-k16-s0", "direct-k40-s0"
CONTROLS = [
    {"job": SSAE, "latent": 5, "known": "specific"},
    {"job": SSAE, "latent": 7, "known": "specific"},
    {"job": DIRECT, "latent": 9, "known": "general"},
    {"job": DIRECT, "latent": 13, "known": "general"},
]


def control_items(study, number):
    sealed = study.sealed()
    items = {item.id: item for item in study.store.items(number)}
    return {i: sealed.evidence[item.evidence]["control"] for i, item in items.items()}


def rated(study):
    """ann puts every control where it belongs but one, of which she cannot tell; bob gives everything 3."""
    for rater in study.store.raters:
        known = control_items(study, rater.number)

        def rule(item, n, known=known, name=rater.name):
            which = known[item.id]
            if name == "bob" or which is None:
                return {"specificity": 3 if name == "bob" else n % 4}
            return {"cannot_tell": True} if which == 3 else {"specificity": 2 if which < 2 else 1}

        work(study.rater(study.tokens()[rater.name]), rule)
    return study


def test_controls_are_items_like_all_others(tmp_path):
    study = made(tmp_path, control=CONTROLS, repeat_share=0.0)
    shapes = set()
    for number in (1, 2):
        known = control_items(study, number)
        items = [item for item in study.store.items(number) if known[item.id] is not None]
        assert sorted(known[item.id] for item in items) == [0, 1, 2, 3]
        assert {item.phase for item in items} == {"rating"}
        for item in study.store.items(number):
            body = study.store.evidence(item.evidence)
            if item.phase == "rating":
                shapes.add((frozenset(body), tuple(len(group["examples"]) for group in body["groups"])))
    assert len(shapes) == 1
    protocol = (study.folder / "protocol.md").read_text()
    assert "latent 5 of ssae-k16-s0 (specific)" in protocol


def test_controls_are_reported_per_rater_and_are_in_no_other_number(tmp_path):
    study = rated(made(tmp_path, control=CONTROLS, repeat_share=0.3))
    found = json.loads(study.unblind().read_text())
    rates = {(each["rater"], each["known"]): each for each in found["controls"]}
    assert [rates["ann", "specific"][name] for name in ("n_controls", "n_rated", "n_hits")] == [2, 2, 2]
    assert [rates["ann", "general"][name] for name in ("n_rated", "n_hits", "n_cannot_tell")] == [1, 1, 1]
    assert rates["bob", "specific"]["hit_rate"]["value"] == 1
    assert rates["bob", "general"]["hit_rate"]["value"] == 0
    for each in found["panels"]["domain"]["distributions"]:
        assert sum(each["points"]) + each["n_cannot_tell"] == 2 * 20
        assert each["n_features"] == 20
    assert sum(each["n_features"] for each in found["nice"]["by_arm"]) == 40
    assert found["contrasts"][0]["n_a"] == found["contrasts"][0]["n_b"] == 20
    assert found["panels"]["domain"]["agreement"]["n_features_by_two"] == 40
    picked = {(f["job"], f["latent"]) for f in study.sealed().features}
    assert not picked & {(c["job"], c["latent"]) for c in CONTROLS}
    assert [each["n_controls"] for each in found["excluded"]] == [2, 2]
    with export(study, tmp_path / "out")[0].open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["control"]]
    assert {(row["control"], row["job"], row["latent"], row["arm"]) for row in rows} == {
        (c["known"], c["job"], str(c["latent"]), "") for c in CONTROLS
    }


def test_before_the_unblinding_nothing_tells_a_control(tmp_path):
    study = rated(made(tmp_path, control=CONTROLS))
    assert not any('"control"' in path.read_text() for path in export(study, tmp_path / "out"))


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ({"job": "nothing", "latent": 1}, "the run has no such job; it has: ssae"),
        ({"job": SSAE, "latent": 60}, "latents 0 to 59"),
        ({"job": SSAE, "latent": 10}, "cannot be shown: it has too few distinct examples on domain text"),
    ],
)
def test_what_cannot_be_a_control_is_said(tmp_path, control, message):
    with pytest.raises(StudyError, match=message):
        made(tmp_path, control=[{"known": "general", **control}])


def test_a_control_of_another_domain_or_named_twice_is_refused(tmp_path):
    source = MadeSource(domains=("bio", "law"))
    arms = [{"name": n, "jobs": [f"bio-{j}"]} for n, j in (("ssae", SSAE), ("direct", DIRECT))]
    with pytest.raises(StudyError, match="is of domain 'law', but the study is on bio"):
        made(tmp_path, source=source, arm=arms, control=[{"job": f"law-{SSAE}", "latent": 5, "known": "general"}])
    with pytest.raises(ConfigError, match="named as a control twice"):
        config(MadeSource(), control=[CONTROLS[0], CONTROLS[0]])


def test_studies_that_were_sealed_before_there_were_controls_still_open(tmp_path):
    study = made(tmp_path)
    old = json.loads(study.sealed().to_bytes())
    del old["controls"]
    for meaning in old["evidence"].values():
        del meaning["control"]
    assert type(study.sealed()).from_bytes(json.dumps(old).encode()).controls == []
