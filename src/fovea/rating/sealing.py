"""From a sample to what raters get and what is sealed: two sides that share nothing but random ids.

    Sample --+--> Content   opaque items in each rater's order, blind evidence      study.sqlite, read while rating
             +--> Sealed    which item is which feature, repeats, salt              sealed.json, opened at unblinding

The commitment, sha256 of sealed.json, is published in protocol.md before the first rating. The salt inside keeps the
mapping from being guessed from it; equal bytes at unblinding prove that the mapping is the one of the beginning.
"""

import hashlib
import hmac
import json
import secrets
from typing import Any, NamedTuple

import numpy as np

from fovea.rating.blind import to_json
from fovea.rating.config import Panel, StudyConfig
from fovea.rating.orders import balanced, new_id, with_repeats
from fovea.rating.sampling import Feature, Sample
from fovea.rating.store import Content, Item, Rater


class Sealed(NamedTuple):
    """What the raters must not know."""

    salt: str
    order_seed: int
    features: list[dict[str, Any]]
    "arm, job, latent, domain, facts."
    evidence: dict[str, dict[str, Any]]
    "Evidence id -> feature (an index, None for practice and controls), panel, control (an index or None)."
    repeats: dict[str, str]
    "Item id of a hidden repeat -> item id of the first time."
    controls: list[dict[str, Any]]
    "known, job, latent, domain."

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return (json.dumps(self._asdict(), indent=1, ensure_ascii=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Sealed":
        """What `to_bytes` wrote."""
        told: dict[str, Any] = json.loads(data)
        told.setdefault("controls", [])  # studies that were sealed before there were any
        return cls(**told)


class Dealt(NamedTuple):
    """Both sides, and the raters' tokens."""

    content: Content
    sealed: Sealed
    tokens: dict[str, str]


def commitment(data: bytes) -> str:
    """The published hash of sealed.json."""
    return hashlib.sha256(data).hexdigest()


def token_digest(token: str) -> str:
    """What the database keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_token(token: str, digest: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(token_digest(token), digest)


def deal(sample: Sample, config: StudyConfig, facts: dict[str, Any]) -> Dealt:
    """Ids, orders, repeats and guesses of every rater."""
    order_seed = secrets.randbits(128)
    rng = np.random.default_rng(order_seed)
    shown: dict[tuple[str, int, Panel], str] = {}
    evidence: dict[str, str] = {}
    meaning: dict[str, dict[str, Any]] = {}
    for kind, features in (("sample", sample.features), ("practice", sample.practice), ("control", sample.controls)):
        for index, feature in enumerate(features):
            for panel in config.panels[:1] if kind == "control" else config.panels:
                if panel in feature.panels:
                    identity = shown[kind, index, panel] = new_id()
                    evidence[identity] = _body(feature, panel, is_practice=kind == "practice")
                    which = {name: index if kind == name else None for name in ("sample", "control")}
                    meaning[identity] = {"feature": which["sample"], "panel": panel, "control": which["control"]}
    raters, tokens, items, repeats = list[Rater](), dict[str, str](), list[Item](), dict[str, str]()
    for number, rater in enumerate(config.rater, start=1):
        tokens[rater.name] = secrets.token_urlsafe(24)
        raters.append(Rater(number, rater.name, rater.kind, token_digest(tokens[rater.name])))
        own, again = _rating_items(number, sample, config, shown=shown, rng=rng)
        items += own + _practice_items(number, shown, rng) + _guess_items(number, sample, config, shown=shown, rng=rng)
        repeats |= again
    told = [
        {"arm": each.arm, "job": each.job, "latent": each.latent, "domain": each.domain, "facts": each.facts}
        for each in sample.features
    ]
    controls = [
        named.model_dump() | {"domain": feature.domain}
        for named, feature in zip(config.control, sample.controls, strict=True)
    ]
    sealed = Sealed(secrets.token_hex(32), order_seed, told, meaning, repeats, controls)
    return Dealt(Content(facts, raters, evidence, items), sealed, tokens)


def _body(feature: Feature, panel: Panel, *, is_practice: bool) -> str:
    fact = {"fact": practice_fact(feature)} if is_practice else {}
    return to_json(
        feature.panels[panel], panel=panel, subject=feature.domain, explanation=feature.texts.get(panel), **fact
    )


def practice_fact(feature: Feature) -> str:
    """How concentrated on its domain a practice feature is, in coarse words."""
    density = {role: max(each["n_fired"], 1) / each["n_tokens"] for role, each in feature.facts.items()}
    if len(density) < 2:
        return ""
    ratio, subject = density["domain"] / density["general"], feature.domain
    if ratio < 1.5:
        return f"As measured, it fires on general text at least about as often as on {subject} text."
    if ratio < 5:
        return f"As measured, it fires a few times as often on {subject} text as on general text."
    if ratio < 50:
        return f"As measured, it fires many times as often on {subject} text as on general text."
    return f"As measured, it hardly ever fires outside {subject} text."


def _rating_items(
    rater: int,
    sample: Sample,
    config: StudyConfig,
    *,
    shown: dict[tuple[str, int, Panel], str],
    rng: np.random.Generator,
) -> tuple[list[Item], dict[str, str]]:
    things = [thing for thing in shown if thing[0] in ("sample", "control")]
    cells = [_cell(sample, config, thing) for thing in things]
    n_repeats = round(config.repeat_share * len(things))
    items: list[Item] = []
    repeats: dict[str, str] = {}
    first: dict[int, str] = {}
    for position, placed in enumerate(with_repeats(balanced(cells, rng), n_repeats, rng)):
        identity = new_id()
        items.append(Item(identity, rater, "rating", position, shown[things[placed.thing]]))
        if placed.is_repeat:
            repeats[identity] = first[placed.thing]
        else:
            first[placed.thing] = identity
    return items, repeats


def _cell(sample: Sample, config: StudyConfig, thing: tuple[str, int, Panel]) -> tuple[str, ...]:
    """What the order spreads evenly: arms, domains and panels, and the two kinds of controls."""
    kind, index, panel = thing
    if kind == "control":
        return "control", config.control[index].known
    return sample.features[index].arm, sample.features[index].domain, panel


def _practice_items(rater: int, shown: dict[tuple[str, int, Panel], str], rng: np.random.Generator) -> list[Item]:
    """One item per practice feature: of the panels it has, the one whose turn it is."""
    by_feature: dict[int, list[str]] = {}
    for (kind, index, _), identity in shown.items():
        if kind == "practice":
            by_feature.setdefault(index, []).append(identity)
    chosen = [panels[i % len(panels)] for i, panels in enumerate(by_feature.values())]
    order = rng.permutation(len(chosen))
    return [Item(new_id(), rater, "practice", position, chosen[i]) for position, i in enumerate(order)]


def _guess_items(
    rater: int,
    sample: Sample,
    config: StudyConfig,
    *,
    shown: dict[tuple[str, int, Panel], str],
    rng: np.random.Generator,
) -> list[Item]:
    """Features whose method is guessed: balanced over arms, on the first panel."""
    panel = config.panels[0]
    features = [index for kind, index, of in shown if kind == "sample" and of == panel]
    order = balanced([(sample.features[i].arm, sample.features[i].domain) for i in features], rng)
    chosen = [features[i] for i in order[: config.n_guesses]]
    return [
        Item(new_id(), rater, "guess", position, shown["sample", index, panel]) for position, index in enumerate(chosen)
    ]
