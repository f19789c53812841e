"""In which order a rater sees the items: permuted blocks over arms, domains and panels, with hidden repeats.

Each cell (arm, domain, panel) is shuffled and spread evenly, with random places inside blocks, so that wherever a rater
stops the cells are balanced to within one block. Repeats come at least `gap` items after the first time.
"""

import secrets
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

_GAP = 20
_GAP_SHARE = 3


class Placed(NamedTuple):
    """One item of a rater's order."""

    thing: int
    "Which of the things to rate."
    is_repeat: bool


def new_id() -> str:
    """An id that says nothing."""
    return secrets.token_hex(8)


def balanced(cells: Sequence[Hashable], rng: np.random.Generator) -> list[int]:
    """Indices of `cells` in permuted blocks: each block holds each cell in proportion to its size."""
    keys = np.empty(len(cells))
    for cell in dict.fromkeys(cells):
        members = np.array([i for i, each in enumerate(cells) if each == cell])
        rng.shuffle(members)
        keys[members] = (np.arange(len(members)) + rng.random(len(members))) / len(members)
    return [int(i) for i in np.argsort(keys, kind="stable")]


def with_repeats(order: Sequence[int], n_repeats: int, rng: np.random.Generator) -> list[Placed]:
    """The order with `n_repeats` of its items put in again, later."""
    n = len(order)
    gap = min(_GAP, n // _GAP_SHARE)
    early = max(n - gap, 1)
    chosen = rng.choice(early, size=min(n_repeats, early), replace=False)
    placed = [(float(place), Placed(index, False)) for place, index in enumerate(order)]
    placed += [(float(rng.uniform(place + gap, n)), Placed(order[place], True)) for place in chosen.tolist()]
    return [item for _, item in sorted(placed, key=lambda each: each[0])]
