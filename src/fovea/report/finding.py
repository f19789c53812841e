"""What the run found, in words computed from its numbers; the report and the terminal say the same.

comparisons at matched L0 on held-out D -> who is ahead, only where an interval excludes 0
ce - ce_g on held-out general text -----> what that costs elsewhere
latents.parquet of the middle job ------> whose latents are rarer, whose are newer
seeds, documents ------------------------> what the reader must not conclude
"""

from collections import Counter
from typing import NamedTuple

from fovea.report.points import Point, Text, points, series_of
from fovea.report.rundata import NOT_TRAINED, Comparison, RunData
from fovea.report.traits import describe, tally_traits, traits_of
from fovea.report.words import count, listing, number, plural, to

HEADLINE_METRIC, FALLBACK_METRIC = "loss_recovered_gap", "loss_recovered_zero"
GAPS = {
    HEADLINE_METRIC: "of the loss gap between g and the unpatched model",
    FALLBACK_METRIC: "of the loss gap between zero ablation and the unpatched model",
}
FEW_DOCUMENTS = 30
MANY_REASONS = 2


class Verdict(NamedTuple):
    """Who is ahead on one domain."""

    domain: str
    l0: float | None
    winner: str | None
    "The method that beats every other with an interval that excludes 0."
    sentence: str


def finding(run: RunData) -> list[str]:
    """The finding, one sentence an entry: result, cost on general text, rarity, novelty, hedges."""
    if not run.domains:
        return ["No domain was measured in this run, so there is no finding."]
    verdicts = [verdict(run, domain) for domain in run.domains]
    traits = [traits_of(run, v.domain, l0=v.l0) for v in verdicts]
    if len(verdicts) > 2:
        return [tally(verdicts), *tally_traits(traits), *hedges(run)]
    sentences: list[str] = []
    for v, trait in zip(verdicts, traits, strict=True):
        sentences += [v.sentence, *describe(trait, named=len(verdicts) > 1)]
    return [*sentences, *hedges(run)]


def verdict(run: RunData, domain: str) -> Verdict:
    """Who is ahead on held-out `domain` at the L0 that most pairs of methods can be read at."""
    rows = compared(run, domain, HEADLINE_METRIC)
    metric, l0 = HEADLINE_METRIC, matched_l0(rows)
    lead = ""
    if l0 is None and matched_l0(compared(run, domain, FALLBACK_METRIC)) is not None:
        lead = f"Loss recovered cannot be read against g's gap ({_why(rows)}), so it is read against zero ablation. "
        metric, rows = FALLBACK_METRIC, compared(run, domain, FALLBACK_METRIC)
        l0 = matched_l0(rows)
    if l0 is None:
        return Verdict(domain, None, None, _no_comparison(run, domain, rows))
    here = [c for c in rows if c.l0 == l0 and c.difference is not None]
    values = {c.method_a: c.value_a for c in here if c.value_a is not None}
    values |= {c.method_b: c.value_b for c in here if c.value_b is not None}
    best = max(values, key=lambda method: values[method])
    standing = _sort_out(best, values, here)
    winner = best if standing.behind and not standing.level and not standing.uncalled else None
    where = f"On held-out {domain}{_size(run, domain)}, at a matched L0 of {number(l0, 1).removesuffix('.0')}, "
    sentence = lead + where + _result(best, values[best], standing, gap=GAPS[metric])
    unread = sorted({m for c in rows for m in (c.method_a, c.method_b)} - set(values))
    if unread:
        gone = [c for c in rows if {c.method_a, c.method_b} & set(unread) and c.l0 in (l0, None)]
        elsewhere = not gone
        why = "its range of L0 does not reach it" if elsewhere else _why(gone)
        sentence += f" Not read at that L0: {listing(unread)} ({why})."
    return Verdict(domain, l0, winner, sentence)


def compared(run: RunData, domain: str, metric: str) -> list[Comparison]:
    """Comparisons of trained methods by `metric` on the held-out text of `domain`."""
    corpus = run.corpus_of(domain)
    rows = [c for c in run.comparisons if c.metric == metric and c.split == "heldout" and c.corpus == corpus]
    return [c for c in rows if c.domain in (domain, None) and not {c.method_a, c.method_b} & NOT_TRAINED]


def _why(rows: list[Comparison]) -> str:
    reasons = dict.fromkeys(c.reason for c in rows if c.difference is None and c.reason)
    told = [str(reason) for reason in reasons]
    if len(told) > MANY_REASONS:
        told = [told[0], f"and {len(told) - 1} more reasons, in the table of comparisons"]
    return "; ".join(told) or "comparisons.jsonl says nothing of it"


def matched_l0(rows: list[Comparison]) -> float | None:
    """The L0 at which most pairs have a difference; of several such, the middle one."""
    known = [c.l0 for c in rows if c.l0 is not None and c.difference is not None]
    if not known:
        return None
    most = max(known.count(l0) for l0 in known)
    best = sorted(l0 for l0 in set(known) if known.count(l0) == most)
    return best[(len(best) - 1) // 2]


class Standing(NamedTuple):
    """The other methods, each told with its numbers."""

    behind: list[str]
    "The interval of the difference excludes 0."
    level: list[str]
    "It does not."
    uncalled: list[str]
    "There is no interval."


def _sort_out(best: str, values: dict[str, float], rows: list[Comparison]) -> Standing:
    standing = Standing([], [], [])
    for other in sorted((m for m in values if m != best), key=lambda m: -values[m]):
        row = next((c for c in rows if {c.method_a, c.method_b} == {best, other}), None)
        if row is None or row.difference is None:
            standing.uncalled.append(f"{other} ({number(values[other])}; no difference was recorded)")
            continue
        sign = 1.0 if row.method_a == best else -1.0
        told = f"{other} ({number(values[other])}; difference {number(sign * row.difference)}"
        if row.ci_low is None or row.ci_high is None:
            reason = (row.reason or "no interval").removeprefix("no interval: ")
            standing.uncalled.append(f"{told}, no interval: {reason})")
            continue
        low, high = sorted((sign * row.ci_low, sign * row.ci_high))
        (standing.behind if low > 0 else standing.level).append(f"{told}, 95% interval {to(low, high)})")
    return standing


def _result(best: str, value: float, standing: Standing, *, gap: str) -> str:
    parts: list[str] = []
    if standing.behind and not standing.level and not standing.uncalled:
        parts.append(f"{best} is ahead: it recovers {number(value)} {gap}, against {listing(standing.behind)}")
    else:
        parts.append(f"{best} recovers the most, {number(value)} {gap}")
        if standing.level:
            parts.append(f"there is no clear difference from {listing(standing.level)}: the interval includes 0")
        if standing.behind:
            parts.append(f"it is ahead of {listing(standing.behind)}")
        if standing.uncalled:
            parts.append(f"whether it is ahead of {listing(standing.uncalled)} cannot be said")
    if value < 0:
        parts.append("a negative share means that patching it in is worse than g alone")
    return "; ".join(parts) + "."


def _no_comparison(run: RunData, domain: str, rows: list[Comparison]) -> str:
    text = Text(run.corpus_of(domain), "heldout")
    drawn = [p for p in points(run, domain, text, metric=HEADLINE_METRIC) if p.value is not None]
    names = list(dict.fromkeys(series.name for series in series_of(run, domain)))
    where = f"On held-out {domain}{_size(run, domain)}, "
    if not names:
        return f"{where}no domain SAE was measured, so there is nothing to compare with g."
    told = listing([f"{p.told} ({p.series.name} {p.sparsity}, L0 {number(p.l0, 1)})" for p in _best_points(drawn)])
    if len(names) == 1:
        best = f"; its best point recovers {told}, where g is 0" if drawn else ", and no loss recovered is known for it"
        return f"{where}only one method, {names[0]}, was trained, so no method is called the winner{best}."
    best = f"; the best points recover {told}, each at its own L0" if drawn else ""
    none = f"no two methods can be compared at a matched L0 ({_why(rows)})"
    return f"{where}{none}, so no method is called the winner{best}."


def _best_points(drawn: list[Point]) -> list[Point]:
    """The highest point of each line."""
    best: dict[str, Point] = {}
    for point in drawn:
        held = best.get(point.series.name)
        if held is None or (point.value or 0.0) > (held.value or 0.0):
            best[point.series.name] = point
    return list(best.values())


def _size(run: RunData, domain: str) -> str:
    """ " (214 documents, 102,400 tokens)" of the held-out part, as the metrics counted them."""
    corpus = run.corpus_of(domain)
    measured = [r for r in run.records if r.corpus == corpus and r.split == "heldout" and r.metric == HEADLINE_METRIC]
    record = next((r for r in measured if r.n_documents and r.n_tokens), None)
    return "" if record is None else f" ({count(record.n_documents)} documents, {count(record.n_tokens)} tokens)"


def tally(verdicts: list[Verdict]) -> str:
    """Who is ahead on how many domains."""
    wins = Counter(v.winner for v in verdicts if v.winner is not None)
    told = [
        f"{name} is ahead of every other method on {n} of {len(verdicts)} domains" for name, n in wins.most_common()
    ]
    undecided = [v.domain for v in verdicts if v.winner is None and v.l0 is not None]
    unread = [v.domain for v in verdicts if v.l0 is None]
    if undecided:
        told.append(f"on {len(undecided)} ({listing(undecided)}) no method is clearly ahead of all others")
    if unread:
        told.append(f"on {len(unread)} ({listing(unread)}) no two methods can be compared")
    return f"By loss recovered on held-out text, read at matched L0, {'; '.join(told)}."


def seeds_by_method(run: RunData) -> dict[str, int]:
    """The fewest seeds behind any point of each method."""
    found: dict[str, int] = {}
    for domain in run.domains:
        for point in points(run, domain, Text(run.corpus_of(domain), "heldout"), metric=HEADLINE_METRIC):
            found[point.series.name] = min(found.get(point.series.name, point.n_seeds), point.n_seeds)
    return found


def hedges(run: RunData) -> list[str]:
    """What the reader must not conclude."""
    sentences: list[str] = []
    seeds = seeds_by_method(run)
    if max(seeds.values(), default=1) <= 1:
        sentences.append("One seed per job: how much these numbers move from seed to seed was not measured.")
    elif min(seeds.values()) == max(seeds.values()):
        sentences.append(f"Numbers are means over {plural(max(seeds.values()), 'seed')}.")
    else:
        told = listing([f"{plural(n, 'seed')} ({name})" for name, n in seeds.items()])
        sentences.append(f"Numbers are means over unequally many seeds: {told}.")
    corpora = {run.corpus_of(domain) for domain in run.domains}
    sizes = [r.n_documents for r in run.records if r.split == "heldout" and r.corpus in corpora and r.n_documents]
    if sizes and min(sizes) < FEW_DOCUMENTS:
        few = plural(min(sizes), "document")
        sentences.append(f"Only {few} held out: these numbers are rough.")
    return sentences
