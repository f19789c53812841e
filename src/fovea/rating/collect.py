"""The ratings of a study as rows, one per rater and item, with the mapping where it may be known."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from fovea.rating.config import Panel
from fovea.rating.sealing import Sealed
from fovea.rating.state import Answer, RaterState
from fovea.rating.store import Rater, Store


class Row(NamedTuple):
    """One item of one rater."""

    rater: Rater
    item: str
    phase: str
    position: int
    panel: str
    subject: str
    answer: Answer
    feature: int | None
    "Index into the sealed features; None for practice and controls, and before the unblinding."
    repeat_of: str | None
    "The item that this one repeats; None before the unblinding."
    control: int | None
    "Index into the sealed controls; None for all else, and before the unblinding."


def rows_of(store: Store, sealed: Sealed | None) -> list[Row]:
    """Every item of every rater, in each rater's order; with the mapping if `sealed` is given."""
    found: list[Row] = []
    about: dict[str, tuple[str, str]] = {}
    for rater in store.raters:
        items = store.items(rater.number)
        state = RaterState(items)
        state.apply(store.events(rater.number))
        for item in sorted(items, key=lambda i: (("practice", "rating", "guess").index(i.phase), i.position)):
            if item.evidence not in about:
                body = store.evidence(item.evidence)
                about[item.evidence] = body["panel"], body["subject"]
            found.append(
                Row(
                    rater,
                    item.id,
                    item.phase,
                    item.position,
                    *about[item.evidence],
                    state.answer(item.id),
                    None if sealed is None else sealed.evidence[item.evidence]["feature"],
                    None if sealed is None else sealed.repeats.get(item.id),
                    None if sealed is None else sealed.evidence[item.evidence].get("control"),
                )
            )
    return found


def specificities(
    rows: list[Row], panel: Panel, *, n_features: int, n_raters: int
) -> Float64[np.ndarray, "raters features"]:
    """Specificity at the first time of asking; NaN where there is none."""
    found = np.full((n_raters, n_features), np.nan)
    for row in rows:
        is_first = row.phase == "rating" and row.repeat_of is None and row.panel == panel
        if is_first and row.answer.specificity is not None and row.feature is not None:
            found[row.rater.number - 1, row.feature] = row.answer.specificity
    return found
