"""From rounds to numbers: medians, spreads, ratios of paired rounds, a fitted line."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fovea.bench.driver import OURS, Measured, Round

SEPARATE, MULTI = "sae-lens, one run each", "sae-lens, multi-SAE trainer"
RUN_EVALS = "sae-lens run_evals"
SAME_TOOL = {SEPARATE: RUN_EVALS, MULTI: RUN_EVALS}
"Way of training -> way of evaluating of the same tool."


class Summary(NamedTuple):
    """One row of a table."""

    us_per_token: float
    tokens_per_second: float
    spread: float
    "(largest - smallest) / median of the rounds' times a token."
    cpu_us_per_token: float


class Line(NamedTuple):
    """y = intercept + slope x, by least squares."""

    intercept: float
    slope: float
    r_squared: float


def summarise(rounds: Sequence[Round]) -> Summary:
    """Medians over at least one round."""
    times = [1e6 * each.seconds / each.tokens for each in rounds]
    middle = statistics.median(times)
    cpu = statistics.median(1e6 * each.cpu_seconds / each.tokens for each in rounds)
    return Summary(middle, 1e6 / middle, (max(times) - min(times)) / middle, cpu)


def ratio(theirs: Sequence[Round], ours: Sequence[Round]) -> float:
    """How many times as long they take a token: the median over rounds, each of ours against theirs beside it."""
    return statistics.median(
        (their.seconds / their.tokens) / (own.seconds / own.tokens) for their, own in zip(theirs, ours, strict=False)
    )


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """The least-squares line through at least two points."""
    slope, intercept = statistics.linear_regression(x, y)
    mean = statistics.fmean(y)
    rest = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    total = sum((b - mean) ** 2 for b in y)
    return Line(intercept, slope, 1.0 - rest / total if total else 1.0)


class Against(NamedTuple):
    """What the rows of a comparison are set against."""

    own: Sequence[Round]
    peak: float | None
    "FLOP/s."
    limit: Sequence[Round]


def rows(
    measured: Sequence[Measured], *, base: str, peak: str | None, limit: str | None = None
) -> list[dict[str, Any]]:
    """The rows of a comparison as json holds them.

    Args:
        base: Variant that ratios are against.
        peak: Variant that measures the matmul peak, if any.
        limit: Variant whose speed is the most that a step could reach, if any.
    """
    by_name = {each.variant.name: each for each in measured}
    flops = None
    if peak is not None and by_name[peak].rounds:
        flops = _flops_per_second(by_name[peak])
    against = Against(by_name[base].rounds, flops, by_name[limit].rounds if limit is not None else ())
    return [_row(each, against) for each in measured]


def together(train: Mapping[str, Any], evaluate: Mapping[str, Any]) -> dict[str, Any]:
    """Training and evaluation one after the other, from the results of both: times as long as fovea."""
    trained, evaluated = (
        {row["variant"]: row.get("rounds") for row in found["groups"][0]["rows"]} for found in (train, evaluate)
    )
    totals = {
        name: [one["seconds"] + other["seconds"] for one, other in zip(first, second, strict=False)]
        for name, partner in ((OURS, OURS), *SAME_TOOL.items())
        if (first := trained.get(name)) and (second := evaluated.get(partner))
    }
    own = totals.pop(OURS, [])
    return {
        f"training and evaluation, {name}: times as long": statistics.median(
            their / ours for their, ours in zip(seconds, own, strict=False)
        )
        for name, seconds in totals.items()
        if own
    }


def _row(each: Measured, against: Against) -> dict[str, Any]:
    variant = each.variant
    row: dict[str, Any] = {"variant": variant.name, "tool": variant.tool}
    if each.error is not None:
        row["error"] = each.error.strip().splitlines()[-1]
    if not each.rounds:
        return row
    is_product = variant.task.get("kind") in ("matmul", "copy")
    peak, limit = against.peak, against.limit
    row |= summarise(each.rounds)._asdict()
    row |= {
        # A matrix product and a copy have no tokens, so their time is not one to compare.
        "times_ours": ratio(each.rounds, against.own) if against.own and not is_product else None,
        "peak_rss_mib": each.peak_rss / 2**20,
        "fraction_of_peak": _flops_per_second(each) / peak if peak and variant.flops_per_token else None,
        "fraction_of_limit": 1 / ratio(each.rounds, limit) if limit and not is_product else None,
        "gflops": _flops_per_second(each) / 1e9 if variant.flops_per_token else None,
        "rounds": [taken._asdict() for taken in each.rounds],
    }
    return row | ({"results": each.results} if each.results else {})


def _flops_per_second(each: Measured) -> float:
    return (each.variant.flops_per_token or 0.0) * summarise(each.rounds).tokens_per_second
