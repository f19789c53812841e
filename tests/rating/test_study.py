"""Sealing, leaks, unblinding, the result and exports."""

import csv
import json
import re
import stat

import numpy as np
import pytest

from fovea.errors import StudyError
from fovea.rating.exports import export, safe_cell
from fovea.rating.sealing import commitment
from fovea.rating.session import RaterEvent
from fovea.rating.study import Study, create, study_names
from fovea.rating.words import result_text
from tests.rating.made_study import HOSTILE, MadeSource, config, made, work


def planted(study, *, effect=1.2, noise=0.7, blind=True):
    """Raters that know the mapping (by opening what is sealed) and rate arm ssae higher; for the statistics only."""
    sealed = study.sealed()
    study.store._connection.execute("PRAGMA synchronous = OFF")  # 1,000 steps; durability has its own tests

    def rule_of(number):
        items = {item.id: sealed.evidence[item.evidence]["feature"] for item in study.store.items(number)}
        rng = np.random.default_rng(number)

        def rule(item, n):
            feature = items[item.id]
            arm = "" if feature is None else sealed.features[feature]["arm"]
            own = np.random.default_rng(feature or 0).normal(
                1.2 + effect * (arm == "ssae") * (item.panel == "domain"), 0.8
            )
            point = int(np.clip(round(own + noise * rng.normal()), 0, 3))
            guess = arm if not blind else "direct" if rng.random() < 0.5 else "ssae"
            if n % 17 == 0:
                return {"cannot_tell": True, "guess": guess}
            return {"specificity": point, "nice": arm == "ssae" and own > 2.6, "note": HOSTILE, "guess": guess}

        return rule

    for rater in study.store.raters:
        work(study.rater(study.tokens()[rater.name]), rule_of(rater.number))
    return study


def result(study, **how):
    return json.loads(study.unblind(**how).read_text())


def test_what_raters_use_holds_no_mapping(tmp_path):
    study = made(tmp_path)
    data = (study.folder / "study.sqlite").read_bytes()
    facts = json.dumps({name: value for name, value in study.store.facts.items() if name not in ("config", "excluded")})
    assert "k16" not in facts
    for item in study.store.items(1):
        body = study.store.evidence(item.evidence)
        assert set(body) <= {"panel", "subject", "groups", "explanation", "fact"}
        assert not re.search(r"ssae|direct|latent|doc\d{4}", json.dumps(body))
    assert b"n_fired" not in data
    (study.folder / "sealed.json").unlink()
    (study.folder / "protocol.md").unlink()
    session = Study.open(tmp_path, "one").rater(study.tokens()["ann"])
    assert work(session) > 100, "rating needs nothing of the mapping"


def test_nothing_about_an_item_separates_the_arms(tmp_path):
    """Same number of groups, examples and pieces for all; ids and their order of storage are random."""
    study = made(tmp_path)
    sealed = study.sealed()
    shapes = set()
    for item in study.store.items(1):
        groups = study.store.evidence(item.evidence)["groups"]
        shapes.add(json.dumps([[len(e["pieces"]) for e in group["examples"]] for group in groups]))
        assert re.fullmatch("[0-9a-f]{16}", item.id)
    assert len(shapes) == 1
    ids = sorted(identity for identity, meaning in sealed.evidence.items() if meaning["feature"] is not None)
    arms = [sealed.features[sealed.evidence[identity]["feature"]]["arm"] == "ssae" for identity in ids]
    changes = sum(a != b for a, b in zip(arms, arms[1:], strict=False))
    assert changes > len(arms) / 4, "stored in an order that knows the arm"


def test_orders_differ_between_raters_and_are_balanced(tmp_path):
    study = made(tmp_path, repeat_share=0.0)
    sealed = study.sealed()
    orders = []
    for number in (1, 2):
        items = [item for item in study.store.items(number) if item.phase == "rating"]
        meanings = [sealed.evidence[item.evidence] for item in items]
        orders.append([(m["feature"], m["panel"]) for m in meanings])
        arms = np.array([sealed.features[m["feature"]]["arm"] == "ssae" for m in meanings])
        running = np.cumsum(arms - arms.mean())
        assert np.abs(running).max() < 3
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_hidden_repeats_are_items_like_all_others(tmp_path):
    study = made(tmp_path, repeat_share=0.1)
    sealed = study.sealed()
    items = {item.id: item for item in study.store.items(1) if item.phase == "rating"}
    again = [(items[a], items[b]) for a, b in sealed.repeats.items() if a in items]
    assert len(again) == round(0.1 * (len(items) - len(again)))
    assert all(a.evidence == b.evidence and a.position > b.position for a, b in again)


def test_the_commitment_is_published_and_salted(tmp_path):
    study = made(tmp_path)
    data = (study.folder / "sealed.json").read_bytes()
    assert commitment(data) in (study.folder / "protocol.md").read_text()
    assert study.status().commitment == commitment(data)
    assert len(study.sealed().salt) == 64
    assert made(tmp_path, "two").store.facts["commitment"] != commitment(data), "equal samples, other salt"


def test_secrets_are_the_owners_alone(tmp_path):
    study = made(tmp_path)
    for name in ("sealed.json", "links.json"):
        assert stat.S_IMODE((study.folder / name).stat().st_mode) == 0o600
    data = (study.folder / "study.sqlite").read_bytes()
    assert all(token.encode() not in data for token in study.tokens().values())


def test_a_changed_mapping_cannot_be_opened(tmp_path):
    study = made(tmp_path)
    path = study.folder / "sealed.json"
    path.write_bytes(path.read_bytes().replace(b'"ssae"', b'"else"', 1))
    with pytest.raises(StudyError, match="not what was committed to"):
        study.unblind(force_reason="curious")
    assert not study.is_unblinded


def test_a_changed_protocol_is_reported(tmp_path):
    study = made(tmp_path)
    path = study.folder / "protocol.md"
    path.write_text(path.read_text().replace("general", "generous"))
    assert result(study, force_reason="test")["unblinding"]["protocol_is_intact"] is False


def test_unblinding_waits_for_all_or_is_forced_and_says_so(tmp_path):
    study = made(tmp_path)
    work(study.rater(study.tokens()["ann"]))
    with pytest.raises(StudyError, match="bob of study 'one' has not locked"):
        study.unblind()
    with pytest.raises(StudyError, match="has not locked"):
        study.unblind(force_reason="   ")
    assert study.status().unblinded is None
    found = result(study, force_reason="bob moved away")
    assert found["unblinding"]["is_forced"]
    assert found["unblinding"]["reason"] == "bob moved away"
    assert found["unblinding"]["not_locked"] == ["bob"]
    assert [event.kind for event in study.store.events(0)] == ["unblind"]
    assert result(study) == found, "a second time gives the same and adds nothing"


def test_the_result_finds_what_was_planted(tmp_path):
    study = planted(made(tmp_path, features_per_arm=30, n_guesses=20))
    assert study.status().is_ready
    found = result(study)
    primary = found["contrasts"][0]
    assert primary["is_primary"]
    assert (primary["panel"], primary["a"], primary["b"]) == ("domain", "ssae", "direct")
    assert primary["difference"]["ci_low"] > 0
    assert primary["p"] < 0.01
    assert primary["p_holm"] is None
    assert primary["delta"]["value"] > 0.3
    assert primary["superiority"] == pytest.approx((primary["delta"]["value"] + 1) / 2)
    second = found["contrasts"][1]
    assert second["panel"] == "general"
    assert second["difference"]["ci_low"] < 0 < second["difference"]["ci_high"]
    assert second["p_holm"] == second["p"]
    for panel in ("domain", "general"):
        agreement = found["panels"][panel]["agreement"]
        assert 0.2 < agreement["alpha_ordinal"]["value"] < 1
        assert agreement["alpha_ordinal"]["ci_low"] < agreement["alpha_ordinal"]["value"]
        assert agreement["ac2_ordinal"]["value"] > 0.2
        assert np.sum(agreement["confusion"][0]["table"]) == agreement["n_features_by_two"]
    domain = {each["arm"]: each for each in found["panels"]["domain"]["distributions"]}
    for each in domain.values():
        assert sum(each["points"]) + each["n_cannot_tell"] + each["n_skipped"] + each["n_open"] == 2 * 30
    assert domain["ssae"]["mean"]["value"] > domain["direct"]["mean"]["value"]
    nice = {each["arm"]: each for each in found["nice"]["by_arm"]}
    assert nice["ssae"]["n_yes"] > nice["direct"]["n_yes"] == 0
    assert found["nice"]["pairs"][0]["p"] < 0.05
    assert {each["arm"] for each in found["panel_difference"]} == {"ssae", "direct"}
    assert all(each["n_pairs"] > 0 for each in found["repeats"])
    assert found["blinding"]["accuracy"]["ci_low"] < 0.5 < found["blinding"]["accuracy"]["ci_high"]
    assert found["n_scripted"] == 0
    assert found["best"][0]["arm"] == "ssae"
    assert found["best"][0]["nice_by"] == ["ann", "bob"]
    assert found["best"][0]["panels"]["domain"]["said"][0]["note"] == HOSTILE
    assert len(found["best"][0]["panels"]["domain"]["examples"]) == 3


def test_several_jobs_per_arm_are_also_compared_job_by_job(tmp_path):
    source = MadeSource()
    for name in ("ssae-k16-s1", "direct-k40-s1"):
        source.sizes[name], source.domain_of[name], source.scales[name] = 60, "bio", 1.0
    source.jobs = tuple(source.sizes)
    study = planted(made(tmp_path, source=source, features_per_arm=24, n_practice=0, n_guesses=0))
    path = study.unblind()
    primary = json.loads(path.read_text())["contrasts"][0]
    jobs = primary["over_jobs"]
    assert (jobs["n_jobs_a"], jobs["n_jobs_b"]) == (2, 2)
    assert jobs["p"] >= jobs["p_smallest"] == pytest.approx(1 / 3)
    assert jobs["difference"]["value"] == pytest.approx(primary["difference"]["value"], abs=0.3)
    assert "with 2 and 2 jobs p cannot be below 0.33" in result_text(path)
    assert [each["rater"] for each in primary["by_rater"]] == ["ann", "bob"]
    own = [each["difference"]["value"] for each in primary["by_rater"]]
    assert np.mean(own) == pytest.approx(primary["difference"]["value"], abs=0.15)
    assert "whole jobs permuted" in (study.folder / "protocol.md").read_text()


def test_ratings_without_a_difference_show_none(tmp_path):
    found = result(planted(made(tmp_path, features_per_arm=30), effect=0.0))
    assert found["contrasts"][0]["p"] > 0.05
    assert found["contrasts"][0]["difference"]["ci_low"] < 0 < found["contrasts"][0]["difference"]["ci_high"]


def test_flags_are_of_features_that_somebody_answered_and_per_panel(tmp_path):
    """Stopped early: what was never asked is not "not nice"; a feature without a general panel has fewer chances."""
    study = made(tmp_path, n_practice=0, repeat_share=0.0, explanation="none")
    sealed = study.sealed()
    session = study.rater(study.tokens()["ann"])
    seen = {"domain": set(), "general": set()}
    evidence = {item.id: item.evidence for item in study.store.items(1)}
    for n in range(15):
        item = session.next_item()
        feature = sealed.evidence[evidence[item.id]]["feature"]
        if n % 5 == 4:
            session.record(RaterEvent(kind="skip", key=f"k{n}", item=item.id, text="garbled"))
            continue
        seen[item.panel].add(feature)
        told = {"cannot_tell": True} if item.panel == "general" else {"specificity": 1}
        session.record(RaterEvent(kind="rate", key=f"k{n}", item=item.id, nice=True, **told))
    found = result(study, force_reason="test")
    for name in ("nice", "cannot_tell"):
        assert sum(each["n_features"] for each in found[name]["by_arm"]) == len(seen["domain"] | seen["general"])
        for panel, features in seen.items():
            own = found[name]["by_panel"][panel]["by_arm"]
            assert sum(each["n_features"] for each in own) == len(features)
    on_domain = found["cannot_tell"]["by_panel"]["domain"]["by_arm"]
    assert sum(each["n_yes"] for each in on_domain) == 0
    assert sum(each["n_yes"] for each in found["nice"]["by_panel"]["domain"]["by_arm"]) == len(seen["domain"])


def test_unblinded_raters_are_caught(tmp_path):
    found = result(planted(made(tmp_path, n_guesses=20), blind=False))["blinding"]
    assert found["accuracy"]["value"] == 1
    assert found["accuracy"]["ci_low"] > found["chance"] == 0.5
    assert all(each["index"]["value"] == 1 for each in found["by_arm"])


def test_scripted_raters_are_declared(tmp_path):
    study = made(tmp_path, rater=[{"name": "ann"}, {"name": "script", "kind": "scripted"}])
    found = result(study, force_reason="test")
    assert found["n_scripted"] == 1
    assert [rater["kind"] for rater in found["raters"]] == ["human", "scripted"]
    assert "script (scripted)" in (study.folder / "protocol.md").read_text()


def test_one_rater_three_arms_and_two_domains(tmp_path):
    source = MadeSource(domains=("bio", "law"))
    jobs = [[job for job in source.jobs if "ssae" in job], ["bio-direct-k40-s0", "law-direct-k40-s0"]]
    source.sizes |= {f"{d}-mix-k9-s0": 60 for d in ("bio", "law")}
    source.domain_of |= {f"{d}-mix-k9-s0": d for d in ("bio", "law")}
    source.scales |= {f"{d}-mix-k9-s0": 1.0 for d in ("bio", "law")}
    source.jobs = tuple(source.sizes)
    jobs.append([job for job in source.jobs if "mix" in job])
    arms = [{"name": name, "jobs": own} for name, own in zip(("ssae", "direct", "mix"), jobs, strict=True)]
    study = made(tmp_path, source=source, arm=arms, rater=[{"name": "solo"}], features_per_arm=8)
    work(study.rater(study.tokens()["solo"]))
    found = result(study)
    assert len(found["contrasts"]) == 6
    assert found["panels"]["domain"]["omnibus_p"] is not None
    assert found["panels"]["domain"]["agreement"]["alpha_ordinal"]["value"] is None
    assert found["nice"]["pairs"][0]["odds_ratio_within_domains"] is None
    assert found["blinding"]["chance"] == pytest.approx(1 / 3)
    assert len(found["excluded"]) == 6


def test_exports_hold_the_mapping_only_after_the_unblinding(tmp_path):
    study = planted(made(tmp_path))
    before = export(study, tmp_path / "before")
    assert not any(re.search(r"k16|k40|repeat_of|\"arm\"", path.read_text()) for path in before)
    study.unblind()
    paths = export(study, tmp_path / "after")
    with paths[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["arm"] for row in rows if row["phase"] == "rating"} == {"ssae", "direct"}
    assert any(row["repeat_of"] for row in rows)
    assert len(rows) == len(json.loads(paths[1].read_text())["rows"]) == len(study.store.items(1)) * 2
    with pytest.raises(StudyError, match="exists"):
        export(study, tmp_path / "after")


def test_exports_are_safe_from_formulas_and_exact_in_json(tmp_path):
    study = made(tmp_path, n_practice=0)
    session = study.rater(study.tokens()["ann"])
    item = session.next_item()
    evil = '=HYPERLINK("http://x","y")'
    session.record(RaterEvent(kind="explain", key="e", item=item.id, text=evil))
    session.record(RaterEvent(kind="rate", key="r", item=item.id, specificity=1, note="-1+cmd"))
    paths = export(study, tmp_path / "out")
    with paths[0].open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["item"] == item.id)
    assert row["explanation"] == "'" + evil
    assert row["note"] == "'-1+cmd"
    assert any(row["explanation"] == evil for row in json.loads(paths[1].read_text())["rows"])
    assert any(event["body"].get("text") == evil for event in json.loads(paths[2].read_text())["events"])


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "\u200b=1", "\uff1d1", "%0A", "|x"])
def test_cells_that_would_run_are_quoted(text):
    assert safe_cell(text) == "'" + text


def test_harmless_cells_stay_as_they_are():
    assert [safe_cell(v) for v in ("plain - text", 3, -1.5, None, True, "a\0b")] == [
        "plain - text", 3, -1.5, None, True, "a\u2400b",
    ]  # fmt: skip


def test_names_are_safe_and_studies_are_never_overwritten(tmp_path):
    source = MadeSource()
    made(tmp_path)
    with pytest.raises(StudyError, match="exists"):
        made(tmp_path)
    for name in ("../x", "A", "", "x" * 41, "a b", ".x"):
        with pytest.raises(StudyError, match="cannot name a study"):
            create(tmp_path, name, config(source), source=source)
    assert study_names(tmp_path) == ["one"]


def test_status_tells_how_far_all_are_and_the_power(tmp_path):
    study = made(tmp_path)
    work(study.rater(study.tokens()["ann"]), n_steps=9)
    status = study.status()
    assert [rater.progress.phase for rater in status.raters] == ["rating", "practice"]
    assert "20 features per arm and 2 raters" in status.power
    assert not status.is_ready
