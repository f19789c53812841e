"""Rare yes-or-no outcomes of two groups: Fisher's test, odds ratio, difference of rates; the blinding index."""

import math
from typing import NamedTuple

from fovea.rating.intervals import Estimate, Z, wilson


class Table(NamedTuple):
    """Counts of two groups."""

    yes_a: int
    n_a: int
    yes_b: int
    n_b: int


class Rates(NamedTuple):
    """Two rates compared."""

    rate_a: Estimate
    rate_b: Estimate
    difference: Estimate
    odds_ratio: Estimate
    p: float


def compare_rates(table: Table) -> Rates:
    """Everything that is said about two rates."""
    return Rates(
        wilson(table.yes_a, table.n_a),
        wilson(table.yes_b, table.n_b),
        rate_difference(table),
        odds_ratio(table),
        fisher_exact(table),
    )


def fisher_exact(table: Table) -> float:
    """Two-sided p: total probability of the tables with the same margins that are no likelier than this one."""
    n_yes, n = table.yes_a + table.yes_b, table.n_a + table.n_b
    low, high = max(0, n_yes - table.n_b), min(n_yes, table.n_a)
    logs = [_log_choose(table.n_a, k) + _log_choose(table.n_b, n_yes - k) for k in range(low, high + 1)]
    total = _log_choose(n, n_yes)
    observed = logs[table.yes_a - low]
    return min(1.0, math.fsum(math.exp(log - total) for log in logs if log <= observed + 1e-7))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def odds_ratio(table: Table) -> Estimate:
    """Sample odds ratio with Woolf's interval; one half is added to each count for the interval where one is 0."""
    if table.n_a == 0 or table.n_b == 0:
        return Estimate(None, reason="a group is empty")
    cells = [table.yes_a, table.n_a - table.yes_a, table.yes_b, table.n_b - table.yes_b]
    a, b, c, d = cells
    added = 0.5 if 0 in cells else 0.0
    a, b, c, d = a + added, b + added, c + added, d + added
    log, half = math.log(a * d / (b * c)), Z * math.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    low, high = math.exp(log - half), math.exp(log + half)
    if added:
        return Estimate(None, low, high, reason="a count is 0: only the interval, with one half added to each count")
    return Estimate(math.exp(log), low, high)


def rate_difference(table: Table) -> Estimate:
    """Rate of a minus rate of b, with Newcombe's interval from the two Wilson intervals.

    Source: Newcombe 1998 (Statistics in Medicine 17:873), method 10.
    """
    a, b = wilson(table.yes_a, table.n_a), wilson(table.yes_b, table.n_b)
    if a.value is None or b.value is None:
        return Estimate(None, reason="a group is empty")
    below = math.hypot(a.value - (a.ci_low or 0.0), (b.ci_high or 0.0) - b.value)
    above = math.hypot((a.ci_high or 0.0) - a.value, b.value - (b.ci_low or 0.0))
    difference = a.value - b.value
    return Estimate(difference, difference - below, difference + above)


def mantel_haenszel(tables: list[Table]) -> float | None:
    """Odds ratio common to all strata; None where it is not defined.

    Source: Mantel and Haenszel 1959 (J. Natl. Cancer Inst. 22:719).
    """
    used = [table for table in tables if table.n_a and table.n_b]
    above = math.fsum(t.yes_a * (t.n_b - t.yes_b) / (t.n_a + t.n_b) for t in used)
    below = math.fsum((t.n_a - t.yes_a) * t.yes_b / (t.n_a + t.n_b) for t in used)
    return above / below if below else None


def blinding_index(n_correct: int, n_wrong: int, *, n_unsure: int, n_arms: int) -> Estimate:
    """Correct guesses beyond chance as a share of all answers of one arm: 1 unblinded, 0 blind, below 0 misled.

    (correct - wrong / (n_arms - 1)) / n; with two arms this is Bang's index.

    Source: Bang, Ni and Davis 2004 (Controlled Clinical Trials 25:143), section 3.2, with its variance.
    """
    n = n_correct + n_wrong + n_unsure
    if n == 0:
        return Estimate(None, reason="nobody guessed")
    share, wrong, penalty = n_correct / n, n_wrong / n, 1 / (n_arms - 1)
    index = share - wrong * penalty
    half = Z * math.sqrt(max(share + wrong * penalty**2 - index**2, 0.0) / n)
    return Estimate(index, max(index - half, -1.0), min(index + half, 1.0))


def holm(ps: list[float]) -> list[float]:
    """Adjusted p values, in the same order.

    Source: Holm 1979 (Scand. J. Statistics 6:65).
    """
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted
