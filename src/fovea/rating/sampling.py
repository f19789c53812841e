"""Which features are rated: uniform over the eligible latents of each arm and domain, with everything left out counted.

    latents of an arm's jobs in a domain --fired at least min_firings times on D--> in random order, the first
    features_per_arm whose domain panel can be filled = a uniform sample of the eligible ones

Eligible is a condition on D alone. Whether a latent can be shown on general text does not decide: that would change
what is compared. Dead rates differ between methods, so the comparison is between eligible features, and says so.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from fovea.errors import StudyError
from fovea.features.read import Card, Evidence
from fovea.rating.blind import BlindGroup, blind_groups
from fovea.rating.config import ArmConfig, Panel, StudyConfig

_TRIED_FOR_PRACTICE = 6
"Candidates per practice item, from which the items are spread over how concentrated they are on D."


@runtime_checkable
class Source(Protocol):
    """Where evidence comes from; fovea.features.read.Features is one."""

    jobs: tuple[str, ...]

    def table(self, job: str) -> dict[str, Any]: ...
    def alive(self, job: str, *, min_firings: int = 1) -> Any: ...
    def card(self, job: str, latent: int) -> Card: ...


class Feature(NamedTuple):
    """A sampled latent with its panels; those that cannot be filled are absent."""

    arm: str
    job: str
    latent: int
    domain: str
    panels: dict[Panel, tuple[BlindGroup, ...]]
    texts: dict[Panel, str]
    "Explanations to read, where the study has them."
    facts: dict[str, Any]
    "Firings and tokens on each corpus, for the result."


class Excluded(NamedTuple):
    """What one arm left out in one domain."""

    arm: str
    domain: str
    n_latents: int
    n_dead: int
    "Never fired on the domain's text that was read."
    n_too_few_firings: int
    "Fired, but less than min_firings times."
    n_eligible_by_firings: int
    n_examined: int
    "Of those, looked at until the sample was full."
    n_too_few_examples: int
    "Of the examined, without enough distinct examples (or without an explanation to read)."
    n_sampled: int
    n_without_general: int
    "Sampled, but with too few firings on general text to be shown: no item for that panel."
    n_controls: int = 0
    "Fired often enough, but named as controls: not examined."


class Sample(NamedTuple):
    """All that is to be rated."""

    features: tuple[Feature, ...]
    practice: tuple[Feature, ...]
    excluded: tuple[Excluded, ...]
    controls: tuple[Feature, ...] = ()
    "In the order of the config; their arm is empty."


def draw(source: Source, config: StudyConfig) -> Sample:
    """The sample that `config` asks for; the same for the same config and evidence.

    Raises:
        StudyError: a job is unknown, domains do not match, or there are too few eligible latents.
    """
    rng = np.random.default_rng(config.seed)
    texts = _read_texts(config)
    pools = _pools(source, config)
    features: list[Feature] = []
    excluded: list[Excluded] = []
    rest: list[tuple[ArmConfig, str, int]] = []
    for (arm, domain), jobs in pools.items():
        drawn, counts, unused = _draw_arm(source, (arm, domain, jobs), config, texts=texts, rng=rng)
        features += drawn
        excluded.append(counts)
        rest += [(arm, job, latent) for job, latent in unused]
    practice = _draw_practice(source, config, rest, rng)
    controls = _controls(source, config, {domain for _, domain in pools}, texts)
    return Sample(tuple(features), tuple(practice), tuple(excluded), tuple(controls))


def _controls(
    source: Source, config: StudyConfig, domains: set[str], texts: dict[tuple[str, int], dict[Panel, str]]
) -> list[Feature]:
    """The features that are named as controls."""
    found: list[Feature] = []
    for control in config.control:
        name = f"control latent {control.latent} of {control.job!r}"
        if control.job not in source.jobs:
            raise StudyError(f"{name}: the run has no such job; it has: {', '.join(source.jobs)}")
        n_latents = len(next(iter(source.table(control.job).values())))
        if control.latent >= n_latents:
            raise StudyError(f"{name}: the job has latents 0 to {n_latents - 1}; name one of them")
        card = source.card(control.job, control.latent)
        if card.domain not in domains:
            raise StudyError(
                f"{name} is of domain {card.domain!r}, but the study is on {', '.join(sorted(domains))}; "
                "raters are asked about one of these, so name a control of it"
            )
        feature = _feature("", card, config, texts)
        if feature is None or config.panels[0] not in feature.panels:
            raise StudyError(
                f"{name} cannot be shown: it has too few distinct examples on {config.panels[0]} text, or no "
                "explanation to read; name another, or lower shown.n_strongest and n_spread"
            )
        found.append(feature)
    return found


def _pools(source: Source, config: StudyConfig) -> dict[tuple[ArmConfig, str], list[str]]:
    """Jobs by arm and domain; every arm must have every domain."""
    pools: dict[tuple[ArmConfig, str], list[str]] = {}
    for arm in config.arm:
        for job in arm.jobs:
            if job not in source.jobs:
                raise StudyError(f"arm {arm.name!r}: the run has no job {job!r}; it has: {', '.join(source.jobs)}")
            pools.setdefault((arm, source.card(job, 0).domain), []).append(job)
    domains = list(dict.fromkeys(domain for _, domain in pools))
    for arm in config.arm:
        missing = [domain for domain in domains if (arm, domain) not in pools]
        if missing:
            raise StudyError(
                f"arm {arm.name!r} has no job on {missing[0]!r}, which another arm has; arms are compared within "
                "domains, so name a job of each domain in each arm"
            )
    return pools


def _draw_arm(
    source: Source,
    pool: tuple[ArmConfig, str, list[str]],
    config: StudyConfig,
    *,
    texts: dict[tuple[str, int], dict[Panel, str]],
    rng: np.random.Generator,
) -> tuple[list[Feature], Excluded, list[tuple[str, int]]]:
    arm, domain, jobs = pool
    n_latents = sum(len(next(iter(source.table(job).values()))) for job in jobs)
    n_alive = sum(len(source.alive(job)) for job in jobs)
    fired = [(job, int(latent)) for job in jobs for latent in source.alive(job, min_firings=config.min_firings)]
    named = {(control.job, control.latent) for control in config.control}
    eligible = [each for each in fired if each not in named]
    order = [eligible[i] for i in rng.permutation(len(eligible))]
    found: list[Feature] = []
    n_examined = 0
    for job, latent in order:
        if len(found) == config.features_per_arm:
            break
        n_examined += 1
        feature = _feature(arm.name, source.card(job, latent), config, texts)
        if feature is not None:
            found.append(feature)
    if len(found) < config.features_per_arm:
        raise StudyError(
            f"arm {arm.name!r} has {len(found)} eligible features on {domain!r} (of {n_latents} latents, {n_alive} "
            f"alive, {len(eligible)} with {config.min_firings} firings), but {config.features_per_arm} are asked for; "
            "lower features_per_arm, min_firings or shown.n_strongest and n_spread, or make evidence on more text"
        )
    counts = Excluded(
        arm=arm.name,
        domain=domain,
        n_latents=n_latents,
        n_dead=n_latents - n_alive,
        n_too_few_firings=n_alive - len(fired),
        n_eligible_by_firings=len(eligible),
        n_examined=n_examined,
        n_too_few_examples=n_examined - len(found),
        n_sampled=len(found),
        n_without_general=sum("general" not in feature.panels for feature in found),
        n_controls=len(fired) - len(eligible),
    )
    return found, counts, order[n_examined:]


def _feature(
    arm: str, card: Card, config: StudyConfig, texts: dict[tuple[str, int], dict[Panel, str]] | None
) -> Feature | None:
    """The card as a feature; None where the domain panel cannot be filled or lacks its explanation."""
    panels: dict[Panel, tuple[BlindGroup, ...]] = {}
    own = (texts or {}).get((card.job, card.latent), {})
    needs_text = texts is not None and config.explanations_file is not None
    for evidence in card.evidence:
        groups = blind_groups(evidence, config.shown)
        if groups is not None and (evidence.role in own or not needs_text):
            panels[evidence.role] = groups
    if "domain" not in panels:
        return None
    facts = {evidence.role: {"n_fired": evidence.n_fired, "n_tokens": evidence.n_tokens} for evidence in card.evidence}
    return Feature(arm, card.job, card.latent, card.domain, panels, own, facts)


def _draw_practice(
    source: Source, config: StudyConfig, rest: list[tuple[ArmConfig, str, int]], rng: np.random.Generator
) -> list[Feature]:
    """Features outside the sample, from little to much concentrated on D; fewer where few are left."""
    found: list[tuple[float, Feature]] = []
    for i in rng.permutation(len(rest)):
        if len(found) >= config.n_practice * _TRIED_FOR_PRACTICE or not config.n_practice:
            break
        arm, job, latent = rest[i]
        card = source.card(job, latent)
        feature = _feature(arm.name, card, config, None)
        if feature is not None:
            found.append((concentration(card.evidence), feature))
    found.sort(key=lambda each: each[0])
    n = min(config.n_practice, len(found))
    chosen = [found[int((i + 0.5) * len(found) / n)][1] for i in range(n)]
    return [chosen[i] for i in rng.permutation(n)]


def concentration(evidence: tuple[Evidence, ...]) -> float:
    """Density on D over density on general text, one firing assumed if there is none; 0 without the latter."""
    density = {e.role: max(e.n_fired, 1) / e.n_tokens for e in evidence if e.n_tokens}
    return density["domain"] / density["general"] if len(density) == 2 else 0.0


def _read_texts(config: StudyConfig) -> dict[tuple[str, int], dict[Panel, str]]:
    """Explanations by job and latent."""
    if config.explanations_file is None:
        return {}
    path = Path(config.explanations_file)
    found: dict[tuple[str, int], dict[Panel, str]] = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"explanation = {config.explanation!r} cannot be read ({error}); say 'write', 'none' or the path of a jsonl"
        ) from None
    for n, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            panel: Panel = {"domain": "domain", "general": "general"}[entry["panel"]]  # type: ignore[assignment]
            found.setdefault((str(entry["job"]), int(entry["latent"])), {})[panel] = str(entry["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(
                f"{path}, line {n}: not an explanation ({error!r}); each line is a json object with job, latent, "
                "panel (domain or general) and text"
            ) from None
    return found
