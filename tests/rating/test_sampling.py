"""The sample is uniform over eligible latents and counts what it leaves out; a panel shows text and shades alone."""

import json
from collections import Counter

import numpy as np
import pytest

from fovea.errors import ConfigError, StudyError
from fovea.rating.blind import blind_groups, to_json
from fovea.rating.config import ShownConfig, study_config
from fovea.rating.orders import balanced, with_repeats
from fovea.rating.sampling import draw
from tests.rating.made_study import MadeSource, config

SHOWN = ShownConfig(n_strongest=4, n_spread=2, tokens_around=5)


def test_the_sample_is_eligible_distinct_and_repeatable():
    source = MadeSource()
    sample = draw(source, config(source))
    picked = [(feature.job, feature.latent) for feature in sample.features]
    assert len(set(picked)) == len(picked) == 40
    assert all(source.fired(job, latent)[0] >= 10 for job, latent in picked)
    again = draw(source, config(source))
    assert [(f.job, f.latent) for f in again.features] == picked
    other = draw(source, config(source, seed=1))
    assert [(f.job, f.latent) for f in other.features] != picked


def test_every_latent_is_counted_once():
    source = MadeSource()
    for each in draw(source, config(source)).excluded:
        size = sum(source.sizes[job] for job in source.jobs if f"{each.arm}-" in job)
        assert each.n_latents == size == each.n_dead + each.n_too_few_firings + each.n_eligible_by_firings
        assert each.n_examined == each.n_too_few_examples + each.n_sampled
        assert each.n_dead == size // 10
        assert each.n_sampled == 20
        assert 0 < each.n_without_general < 20


def test_sampling_is_uniform_over_eligible_latents():
    source = MadeSource(n=20)
    drawn = Counter(
        feature.latent
        for seed in range(60)
        for feature in draw(source, config(source, seed=seed, features_per_arm=4, n_practice=0)).features
        if feature.arm == "ssae"
    )
    eligible = [i for i in range(20) if source.fired("ssae-k16-s0", i)[0] >= 10]
    assert set(drawn) == set(eligible)
    expected = 60 * 4 / len(eligible)
    chi_squared = sum((drawn[i] - expected) ** 2 / expected for i in eligible)
    assert chi_squared < 35  # 15 degrees of freedom, p 0.0025


def test_firing_on_general_text_does_not_decide():
    source = MadeSource()
    features = draw(source, config(source)).features
    silent = [f for f in features if source.fired(f.job, f.latent)[1] == 0]
    assert silent
    assert all("general" not in f.panels and "domain" in f.panels for f in silent)
    assert len([f for f in features if "general" in f.panels]) == 40 - len(silent)


def test_practice_is_outside_the_sample():
    source = MadeSource()
    sample = draw(source, config(source, n_practice=6))
    picked = {(f.job, f.latent) for f in sample.features}
    assert len(sample.practice) == 6
    assert not picked & {(f.job, f.latent) for f in sample.practice}


def test_too_few_eligible_latents_say_how_many_there_are_and_what_to_do():
    source = MadeSource()
    with pytest.raises(StudyError, match=r"'ssae' has 48 eligible .*of 60 latents, 54 alive.*lower features_per_arm"):
        draw(source, config(source, features_per_arm=49))


def test_arms_need_known_jobs_and_the_same_domains():
    source = MadeSource(domains=("bio", "law"))
    assert {f.domain for f in draw(source, config(source, features_per_arm=5)).features} == {"bio", "law"}
    lacking = [
        {"name": "a", "jobs": ["bio-ssae-k16-s0", "law-ssae-k16-s0"]},
        {"name": "b", "jobs": ["bio-direct-k40-s0"]},
    ]
    with pytest.raises(StudyError, match="arm 'b' has no job on 'law'"):
        draw(source, config(source, arm=lacking))
    with pytest.raises(StudyError, match="the run has no job 'nothing'; it has: bio-ssae"):
        draw(source, config(source, arm=[{"name": "a", "jobs": ["nothing"]}, lacking[1]]))


def test_explanations_to_read_come_with_their_panels(tmp_path):
    source = MadeSource()
    path = tmp_path / "said.jsonl"
    lines = [
        {"job": job, "latent": latent, "panel": "domain", "text": f"about {latent}"}
        for job in source.jobs
        for latent in range(0, source.sizes[job], 2)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    features = draw(source, config(source, features_per_arm=10, explanation=str(path))).features
    assert all(f.texts == {"domain": f"about {f.latent}"} and set(f.panels) == {"domain"} for f in features)
    path.write_text('{"job": "x"}')
    with pytest.raises(StudyError, match="line 1: not an explanation"):
        draw(source, config(source, explanation=str(path)))
    with pytest.raises(StudyError, match="cannot be read"):
        draw(source, config(source, explanation=str(tmp_path / "none.jsonl")))


def test_contradictory_settings_are_refused():
    source = MadeSource()
    for changes, message in (
        ({"rater": [{"name": "ann"}, {"name": "Ann"}]}, "two raters"),
        ({"arm": [{"name": "a", "jobs": ["x"]}, {"name": "a", "jobs": ["y"]}]}, "two arms"),
        ({"arm": [{"name": "a", "jobs": ["x"]}, {"name": "b", "jobs": ["x"]}]}, "named twice"),
        ({"panels": ["domain", "domain"]}, "two panels"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(source, **changes)
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        study_config({"sed": 1}, where="test")


def panel(source, job="ssae-k16-s0", latent=5):
    return blind_groups(source.card(job, latent).evidence[0], SHOWN)


def test_panels_are_equal_in_number_and_length():
    source = MadeSource()
    shapes = set()
    for job in source.jobs:
        for latent in (2, 5, 17, 59):
            groups = panel(source, job, latent)
            shapes.add(tuple((g.name, tuple(len(e.pieces) for e in g.examples)) for g in groups))
    assert len(shapes) == 1


def test_scale_ids_and_duplicates_do_not_show():
    """The same firing at another scale, of other documents and duplicates, is the same panel to the byte."""
    small, large = MadeSource(scales=(0.001, 1.0)), MadeSource(scales=(77.7, 1.0))
    assert to_json(panel(small)) == to_json(panel(large))
    evidence = small.card("ssae-k16-s0", 5).evidence[0]
    groups = tuple(
        g._replace(examples=tuple(e._replace(document="other" + e.document, n_duplicates=99) for e in g.examples))
        for g in evidence.groups
    )
    changed = evidence._replace(groups=groups, n_fired=3, n_tokens=9, histogram=(1,), max_activation=1e9)
    assert to_json(blind_groups(changed, SHOWN)) == to_json(panel(small))


def test_shades_are_tenths_of_the_items_maximum_and_the_peak_is_marked():
    shades = []
    for group in panel(MadeSource()):
        for example in group.examples:
            assert example.pieces[example.peak].shade == max(piece.shade for piece in example.pieces)
            shades += [piece.shade for piece in example.pieces]
    assert max(shades) == 10
    assert 0 in shades
    assert set(shades) <= set(range(11))


def test_equal_texts_are_shown_once_and_a_panel_that_cannot_be_filled_is_none():
    evidence = MadeSource().card("ssae-k16-s0", 5).evidence[0]
    same = tuple(g._replace(examples=(g.examples[0],) * 6) for g in evidence.groups)
    assert blind_groups(evidence._replace(groups=same), SHOWN) is None
    assert blind_groups(MadeSource().card("ssae-k16-s0", 2).evidence[1], SHOWN) is None


def test_orders_are_balanced_wherever_a_rater_stops():
    cells = [("a", "domain")] * 50 + [("b", "domain")] * 50 + [("a", "general")] * 20 + [("b", "general")] * 40
    rng = np.random.default_rng(0)
    order = balanced(cells, rng)
    assert sorted(order) == list(range(160))
    for stop in range(10, 160, 10):
        counts = Counter(cells[i] for i in order[:stop])
        for cell, n in Counter(cells).items():
            assert abs(counts[cell] - n * stop / 160) <= 2.5
    assert balanced(cells, rng) != order


def test_repeats_come_later_and_at_a_distance():
    placed = with_repeats(list(range(100)), 10, np.random.default_rng(0))
    first = {p.thing: i for i, p in enumerate(placed) if not p.is_repeat}
    again = {p.thing: i for i, p in enumerate(placed) if p.is_repeat}
    assert len(first) == 100
    assert len(again) == 10
    assert all(again[thing] - first[thing] >= 20 for thing in again)
    assert with_repeats([0], 1, np.random.default_rng(0))[-1].is_repeat
