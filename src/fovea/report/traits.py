"""What the methods' SAEs are like besides loss recovered on D: what they cost on general text, how rare, how new.

The cost is read at the jobs nearest the matched L0; rarity and novelty at each method's middle sparsity, as drawn.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fovea.report.latents import read_latents
from fovea.report.points import middle_jobs, nearest_job, series_of
from fovea.report.rundata import GENERAL_CORPUS, RunData
from fovea.report.words import listing, number, one_in, percent, signed

RARER = math.log10(1.5)
"Least difference of median log10 densities that is called rarer."
NEWER = 0.05
"Least difference of median cosines that is called newer."


class Traits(NamedTuple):
    """Numbers by method, for one domain."""

    domain: str
    at_l0: bool
    "The costs are those of the jobs nearest the matched L0; else of the middle jobs."
    cost: dict[str, float]
    "ce - ce_g on held-out general text, in nats; above 0 is worse."
    cost_job: dict[str, str]
    density: dict[str, float]
    "Median density on general text of the latents that fire there."
    silent: dict[str, float]
    "Share of latents that never fire there."
    cosine: dict[str, float]
    "Median largest cosine of a decoder row with g's, over the latents that fired on held-out D."
    mostly_dead: dict[str, tuple[int, int]]
    "Methods of which fewer than half of the latents fired on held-out D: how many did, of how many. Not ranked."
    random_cosine: float | None


def traits_of(run: RunData, domain: str, *, l0: float | None) -> Traits:
    """The traits of one domain's SAEs, as far as the run has measured them."""
    traits = Traits(domain, l0 is not None, {}, {}, {}, {}, {}, {}, _random_cosine(run))
    ce_g = run.reference("ce_g", corpus=GENERAL_CORPUS, split="heldout", domain=domain)
    for series in series_of(run, domain):
        job = nearest_job(run, domain, series.name, l0=l0)
        ce = job and run.find(job.name, "ce", corpus=GENERAL_CORPUS, split="heldout", domain=domain)
        if job and ce and ce.value is not None and ce_g and ce_g.value is not None:
            traits.cost[series.name] = ce.value - ce_g.value
            traits.cost_job[series.name] = job.sparsity
    for series, job in middle_jobs(run, domain).items():
        table = read_latents(run.folder, job.name)
        if table is None:
            continue
        fired = table.n_fired_domain
        if fired is not None and 2 * int((fired > 0).sum()) < table.n_latents:
            traits.mostly_dead[series.name] = (int((fired > 0).sum()), table.n_latents)
            continue
        if table.median_density is not None:
            traits.density[series.name] = table.median_density
        if table.n_silent is not None and table.n_latents:
            traits.silent[series.name] = table.n_silent / table.n_latents
        if table.novelty_decoder is not None and table.novelty_decoder.size:
            alive = np.ones(table.n_latents, bool) if fired is None else fired > 0
            traits.cosine[series.name] = float(np.median(table.novelty_decoder[alive]))
    return traits


def describe(traits: Traits, *, named: bool) -> list[str]:
    """Sentences on cost, rarity and novelty; `named` puts the domain in front."""
    sentences = [_say_cost(traits)]
    if traits.density:
        sentences.append(_say_rarity(traits))
    if traits.cosine:
        sentences.append(_say_novelty(traits))
    if traits.mostly_dead:
        told = [f"{name} ({n:,} of {of:,} latents)" for name, (n, of) in traits.mostly_dead.items()]
        sentences.append(f"Mostly dead on held-out text, so neither rare nor new: {listing(told)}.")
    if named:
        return [f"For {traits.domain}, {sentence[0].lower()}{sentence[1:]}" for sentence in sentences]
    return sentences


def tally_traits(all_traits: Sequence[Traits]) -> list[str]:
    """The same over many domains: ranges and counts."""
    sentences: list[str] = []
    costs = _by_method([t.cost for t in all_traits])
    if costs:
        told = [f"{signed(min(v))} to {signed(max(v))} ({name})" for name, v in costs.items()]
        what = (
            "the jobs nearest those L0s"
            if all(t.at_l0 for t in all_traits)
            else "the jobs nearest those L0s, or the middle ones,"
        )
        sentences.append(
            f"On held-out general text {what} change the loss against g by {listing(told)} nats; above 0 is worse."
        )
    for word, values in (
        ("rarest", [t.density for t in all_traits]),
        ("newest", [t.cosine for t in all_traits]),
    ):
        first = Counter(min(v, key=lambda name: v[name]) for v in values if len(v) > 1)
        if first:
            told = [f"{name} on {n}" for name, n in first.most_common()]
            sentences.append(
                f"The {word} latents (by the median) are those of {listing(told)} of {sum(first.values())} domains."
            )
    return sentences


def _say_cost(traits: Traits) -> str:
    if not traits.cost:
        return "What these SAEs cost on general text is not known, because no loss was measured there."
    told = listing([f"{signed(value)} ({name} {traits.cost_job[name]})" for name, value in traits.cost.items()])
    which = "the job nearest that L0" if traits.at_l0 else "the middle job"
    return f"On held-out general text, {which} changes the loss against g by {told} nats; above 0 is worse."


def _say_rarity(traits: Traits) -> str:
    values = {name: math.log10(density) for name, density in traits.density.items()}
    order = sorted(values, key=lambda name: values[name])
    told = [f"{one_in(traits.density[name])} tokens for {name}{_silent(traits, name)}" for name in order]
    what = "the median latent that fires on general text at all fires on"
    if len(order) == 1:
        return f"Of {order[0]}, {what} {told[0]}."
    return f"{_lead(values, margin=RARER, words=('rarest', 'rare'))}: {what} {_against(told)}."


def _say_novelty(traits: Traits) -> str:
    order = sorted(traits.cosine, key=lambda name: traits.cosine[name])
    told = [f"{number(traits.cosine[name], 2)} for {name}" for name in order]
    base = "" if traits.random_cosine is None else f" (a random dictionary: {number(traits.random_cosine, 2)})"
    what = "the median largest cosine of a decoder row with g's is"
    if len(order) == 1:
        return f"Of {order[0]}, {what} {told[0]}{base}."
    return f"{_lead(traits.cosine, margin=NEWER, words=('newest', 'new'))}: {what} {_against(told)}{base}."


def _silent(traits: Traits, name: str) -> str:
    share = traits.silent.get(name, 0.0)
    return f" ({percent(share)} never fire there)" if share else ""


def _lead(values: Mapping[str, float], *, margin: float, words: tuple[str, str]) -> str:
    order = sorted(values, key=lambda name: values[name])
    most, plain = words
    near = [name for name in order if values[name] - values[order[0]] < margin]
    if len(near) > 1:
        return f"The latents of {listing(near)} are about equally {plain}"
    return f"The {most} latents are those of {order[0]}"


def _against(told: Sequence[str]) -> str:
    return told[0] if len(told) == 1 else f"{told[0]}, against {listing(told[1:])}"


def _by_method(tables: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: [table[name] for table in tables if name in table] for name in names}


def _random_cosine(run: RunData) -> float | None:
    values = run.baselines.get("random", {}).get("decoder")
    return float(np.median(values)) if values else None
