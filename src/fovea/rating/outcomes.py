"""The parts of a result: agreement, distributions, contrasts, counts, repeats, blinding; plain values, for json."""

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from fovea.rating.agreement import Counts, Draws, alpha, confusion, counts_of, gwet, percent_agreement, with_interval
from fovea.rating.clusters import clusters
from fovea.rating.collect import Row, specificities
from fovea.rating.config import Panel
from fovea.rating.differences import contrast, omnibus_p, paired_mean
from fovea.rating.intervals import N_RESAMPLES, Estimate, percentiles, wilson
from fovea.rating.rates import Table, blinding_index, compare_rates, mantel_haenszel

Means = Float64[np.ndarray, " features"]


class Sampled(NamedTuple):
    """The features and ratings that all parts look at."""

    rows: list[Row]
    arms: tuple[str, ...]
    "In the order of the config: differences are first minus later."
    arm_of: list[str]
    domain_of: list[str]
    job_of: list[str]
    raters: tuple[str, ...]
    n_points: int

    def ratings(self, panel: Panel) -> Float64[np.ndarray, "raters features"]:
        """First ratings of a panel."""
        return specificities(self.rows, panel, n_features=len(self.arm_of), n_raters=len(self.raters))

    def means(self, panel: Panel) -> Means:
        """Mean over raters of each feature; NaN where nobody gave a point."""
        ratings = self.ratings(panel)
        n = np.isfinite(ratings).sum(axis=0)
        return np.divide(np.nansum(ratings, axis=0), n, out=np.full(len(n), np.nan), where=n > 0)

    def asked(self, panel: Panel) -> list[Row]:
        """First presentations of a panel."""
        return [r for r in self.rows if r.phase == "rating" and r.panel == panel and r.repeat_of is None]


def agreement(sampled: Sampled, panel: Panel, rng: np.random.Generator) -> dict[str, Any]:
    """How far raters agree on a panel, over features that at least two gave a point."""
    ratings = sampled.ratings(panel)
    counts = counts_of(ratings, sampled.n_points)

    def ordinal_alpha(counts: Counts, draws: Draws) -> Float64[np.ndarray, " draws"]:
        return alpha(counts, draws, "ordinal")

    def ordinal_ac2(counts: Counts, draws: Draws) -> Float64[np.ndarray, " draws"]:
        return gwet(counts, draws, "ordinal")

    tables = [
        {
            "raters": [sampled.raters[i], sampled.raters[j]],
            "table": confusion(ratings[i], ratings[j], sampled.n_points),
        }
        for i, j in combinations(range(len(ratings)), 2)
    ]
    return {
        "n_features_by_two": int((counts.sum(axis=1) > 1).sum()),
        "alpha_ordinal": with_interval(counts, ordinal_alpha, rng)._asdict(),
        "ac2_ordinal": with_interval(counts, ordinal_ac2, rng)._asdict(),
        "percent": with_interval(counts, percent_agreement, rng)._asdict(),
        "confusion": tables,
    }


def distributions(sampled: Sampled, panel: Panel, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Per arm: how often each point was given (each rating counts once), and the mean over features."""
    means = sampled.means(panel)
    found: list[dict[str, Any]] = []
    for arm in sampled.arms:
        answers = [r.answer for r in sampled.asked(panel) if r.feature is not None and sampled.arm_of[r.feature] == arm]
        own = means[[a == arm for a in sampled.arm_of]]
        own = own[np.isfinite(own)]
        points = [sum(a.specificity == p for a in answers) for p in range(sampled.n_points)]
        found.append(
            {
                "arm": arm,
                "points": points,
                "n_cannot_tell": sum(a.cannot_tell for a in answers),
                "n_skipped": sum(a.skip_reason is not None for a in answers),
                "n_open": sum(not a.is_done for a in answers),
                "n_features": len(_features_of(sampled, sampled.asked(panel), arm)),
                "n_features_rated": len(own),
                "mean": _mean(own, rng)._asdict(),
            }
        )
    return found


def _features_of(sampled: Sampled, rows: list[Row], arm: str) -> set[int]:
    """Features of an arm that the rows are about."""
    return {row.feature for row in rows if row.feature is not None and sampled.arm_of[row.feature] == arm}


def _mean(values: Means, rng: np.random.Generator) -> Estimate:
    if len(values) == 0:
        return Estimate(None, reason="no feature has a point")
    drawn = rng.choice(values, (N_RESAMPLES, len(values))).mean(axis=1)
    return percentiles(float(values.mean()), drawn, n_items=len(values))


def contrasts(sampled: Sampled, panel: Panel, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Every pair of arms on a panel."""
    means = sampled.means(panel)
    strata = numbers_of(sampled.domain_of)
    arms = np.array(sampled.arm_of)
    found: list[dict[str, Any]] = []
    for a, b in combinations(sampled.arms, 2):
        used = np.isin(arms, [a, b]) & np.isfinite(means)
        told = contrast(means[used], arms[used] == a, strata[used], rng=rng)
        superiority = None if told.delta.value is None else (told.delta.value + 1) / 2
        found.append({"panel": panel, "a": a, "b": b, **_plain(told._asdict()), "superiority": superiority})
    return found


def over_jobs(sampled: Sampled, pair: dict[str, Any], rng: np.random.Generator) -> dict[str, Any] | None:
    """The same pair with the training job as unit; None where no arm has two jobs of a domain."""
    means = sampled.means(pair["panel"])
    arms = np.array(sampled.arm_of)
    used = np.isin(arms, [pair["a"], pair["b"]]) & np.isfinite(means)
    strata, jobs = numbers_of(sampled.domain_of)[used], numbers_of(sampled.job_of)[used]
    told = clusters(means[used], arms[used] == pair["a"], strata, jobs=jobs, rng=rng)
    return None if told is None else _plain(told._asdict())


def by_rater(sampled: Sampled, pair: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """The same pair as each rater alone saw it: how far the result hangs on who rated."""
    arms, strata = np.array(sampled.arm_of), numbers_of(sampled.domain_of)
    found: list[dict[str, Any]] = []
    for name, own in zip(sampled.raters, sampled.ratings(pair["panel"]), strict=True):
        used = np.isin(arms, [pair["a"], pair["b"]]) & np.isfinite(own)
        told = contrast(own[used], arms[used] == pair["a"], strata[used], rng=rng)
        found.append({"rater": name, "n_a": told.n_a, "n_b": told.n_b, "difference": told.difference._asdict()})
    return found


def numbers_of(names: list[str]) -> Int64[np.ndarray, " features"]:
    """Equal names as equal numbers, in order of appearance."""
    known = list(dict.fromkeys(names))
    return np.array([known.index(name) for name in names], dtype=np.int64)


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value._asdict() if isinstance(value, Estimate) else value for name, value in told.items()}


def omnibus(sampled: Sampled, panel: Panel, rng: np.random.Generator) -> float | None:
    """p of "no arm differs", for three and more arms."""
    means = sampled.means(panel)
    used = np.isfinite(means)
    names = [arm for arm, is_used in zip(sampled.arm_of, used, strict=True) if is_used]
    if len(sampled.arms) < 3 or len(set(names)) < 2:
        return None
    domains = [domain for domain, is_used in zip(sampled.domain_of, used, strict=True) if is_used]
    numbers = np.array([sampled.arms.index(name) for name in names], dtype=np.int64)
    strata = np.array([sorted(set(domains)).index(domain) for domain in domains], dtype=np.int64)
    return omnibus_p(means[used], numbers, strata, rng=rng)


def panel_difference(sampled: Sampled, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Per arm, domain panel minus general panel within features that have both."""
    between = sampled.means("domain") - sampled.means("general")
    found: list[dict[str, Any]] = []
    for arm in sampled.arms:
        own = between[[a == arm for a in sampled.arm_of]]
        own = own[np.isfinite(own)]
        found.append({"arm": arm, "n_features": len(own), "difference": paired_mean(own, rng)._asdict()})
    return found


def counted(sampled: Sampled, name: str, panel: Panel | None = None) -> dict[str, Any]:
    """A yes or no of features by any rater: per arm, and every pair with Fisher's test.

    Args:
        name: nice or cannot_tell.
        panel: Of answers on this panel alone; None takes all panels. Features that have fewer panels then have fewer
            chances to be called so, and methods differ in that.

    Features that no rater answered (skipped, or left open when a study was stopped) are not counted.
    """
    rows = [r for r in sampled.rows if r.phase == "rating" and r.feature is not None and panel in (None, r.panel)]
    answered = {r.feature for r in rows if r.answer.is_done and r.answer.skip_reason is None}
    is_so = {r.feature for r in rows if getattr(r.answer, name)}

    def cell(arm: str, domain: str | None) -> tuple[int, int]:
        own = [
            i
            for i, (a, d) in enumerate(zip(sampled.arm_of, sampled.domain_of, strict=True))
            if a == arm and domain in (None, d) and i in answered
        ]
        return sum(i in is_so for i in own), len(own)

    pairs: list[dict[str, Any]] = []
    domains = list(dict.fromkeys(sampled.domain_of))
    for a, b in combinations(sampled.arms, 2):
        rates = compare_rates(Table(*cell(a, None), *cell(b, None)))
        told = _plain(rates._asdict())
        strata = [Table(*cell(a, domain), *cell(b, domain)) for domain in domains]
        common = mantel_haenszel(strata) if len(domains) > 1 else None
        pairs.append({"a": a, "b": b, **told, "odds_ratio_within_domains": common})
    by_arm = [{"arm": arm, "n_yes": cell(arm, None)[0], "n_features": cell(arm, None)[1]} for arm in sampled.arms]
    return {"by_arm": by_arm, "pairs": pairs}


def repeats(sampled: Sampled, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Per rater: the same item twice, without being told."""
    answers = {row.item: row.answer for row in sampled.rows}
    found: list[dict[str, Any]] = []
    for name in sampled.raters:
        again = [row for row in sampled.rows if row.rater.name == name and row.repeat_of is not None]
        both = [(answers[str(row.repeat_of)].specificity, row.answer.specificity) for row in again]
        pairs = np.array([pair for pair in both if None not in pair], dtype=np.float64).reshape(-1, 2)
        counts = counts_of(pairs.T, sampled.n_points)
        told: dict[str, Any] = {"rater": name, "n_repeats": len(again), "n_pairs": len(pairs)}
        apart = np.abs(pairs[:, 0] - pairs[:, 1])
        told["n_equal"] = int((apart == 0).sum())
        told["mean_apart"] = float(apart.mean()) if len(pairs) else None
        told["alpha_ordinal"] = with_interval(counts, lambda c, d: alpha(c, d, "ordinal"), rng)._asdict()
        found.append(told)
    return found


def controls(sampled: Sampled, known: list[str]) -> list[dict[str, Any]]:
    """Per rater: how many controls of each kind were put into their half of the scale, at the first time of asking.

    Args:
        known: general or specific, of each control.

    The middle point of an odd scale is no hit; what could not be told is counted beside, not as a miss.
    """
    middle = (sampled.n_points - 1) / 2
    found: list[dict[str, Any]] = []
    for name in sampled.raters:
        own = [r for r in sampled.rows if r.rater.name == name and r.control is not None and r.repeat_of is None]
        for kind in dict.fromkeys(known):
            answers = [row.answer for row in own if known[row.control or 0] == kind]
            points = [answer.specificity for answer in answers if answer.specificity is not None]
            n_hits = sum(point > middle if kind == "specific" else point < middle for point in points)
            found.append(
                {
                    "rater": name,
                    "known": kind,
                    "n_controls": len(answers),
                    "n_rated": len(points),
                    "n_hits": n_hits,
                    "n_cannot_tell": sum(answer.cannot_tell for answer in answers),
                    "hit_rate": wilson(n_hits, len(points))._asdict(),
                }
            )
    return found


def blinding(sampled: Sampled) -> dict[str, Any]:
    """Could raters tell the method? Intervals take guesses as independent."""
    guesses = [row for row in sampled.rows if row.phase == "guess" and row.answer.is_done and row.feature is not None]

    def tally(rows: list[Row]) -> dict[str, int]:
        made = [row for row in rows if row.answer.guess is not None]
        n_correct = sum(row.answer.guess == sampled.arm_of[row.feature or 0] for row in made)
        return {"n_correct": n_correct, "n_wrong": len(made) - n_correct, "n_unsure": len(rows) - len(made)}

    def accuracy(counts: dict[str, int]) -> dict[str, Any]:
        return wilson(counts["n_correct"], counts["n_correct"] + counts["n_wrong"])._asdict()

    by_arm: list[dict[str, Any]] = []
    for arm in sampled.arms:
        counts = tally([row for row in guesses if sampled.arm_of[row.feature or 0] == arm])
        index = blinding_index(
            counts["n_correct"], counts["n_wrong"], n_unsure=counts["n_unsure"], n_arms=len(sampled.arms)
        )
        by_arm.append({"arm": arm, **counts, "index": index._asdict()})
    by_rater: list[dict[str, Any]] = []
    for name in sampled.raters:
        counts = tally([row for row in guesses if row.rater.name == name])
        by_rater.append({"rater": name, **counts, "accuracy": accuracy(counts)})
    return {
        "chance": 1 / len(sampled.arms),
        "accuracy": accuracy(tally(guesses)),
        "by_arm": by_arm,
        "by_rater": by_rater,
    }
