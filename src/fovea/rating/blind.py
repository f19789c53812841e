"""What a rater sees of a feature: examples in equal number and length, shades in place of activations, nothing else.

    Evidence --distinct examples by activation--> n_strongest + n_spread of them --windows of equal length--> Panel

No ids, counts, densities, scales or numbers of duplicates. A panel that cannot be filled does not exist: whether a
feature has one is decided before anyone looks, and reported per method.
"""

import json
import math
from typing import Any, NamedTuple

from fovea.features.read import Evidence, Example
from fovea.rating.config import ShownConfig

N_SHADES = 10
"A piece's shade: 0 where the feature does not fire, 1 to 10 as tenths of the item's largest activation, rounded up."


class BlindPiece(NamedTuple):
    """One token."""

    text: str
    shade: int


class BlindExample(NamedTuple):
    """A stretch of text around one firing."""

    pieces: tuple[BlindPiece, ...]
    peak: int
    "Index of the piece in the middle of attention."


class BlindGroup(NamedTuple):
    """Examples under one heading."""

    name: str
    examples: tuple[BlindExample, ...]


def blind_groups(evidence: Evidence, shown: ShownConfig) -> tuple[BlindGroup, ...] | None:
    """The groups of one panel; None where there are too few distinct examples to fill it."""
    examples = _distinct(evidence, shown.tokens_around)
    if len(examples) < shown.n_examples:
        return None
    strongest, rest = examples[: shown.n_strongest], examples[shown.n_strongest :]
    step = len(rest) / max(shown.n_spread, 1)
    spread = [rest[int(step * (i + 0.5))] for i in range(shown.n_spread)]
    windows = [_window(example, shown.tokens_around) for example in (*strongest, *spread)]
    largest = max(example.pieces[i].activation for example, cut in _cuts([*strongest, *spread], windows) for i in cut)
    blind = [_blind(example, cut, largest) for example, cut in _cuts([*strongest, *spread], windows)]
    groups = [BlindGroup("Strongest", tuple(blind[: shown.n_strongest]))]
    if shown.n_spread:
        groups.append(BlindGroup("Weaker, spread over the range", tuple(blind[shown.n_strongest :])))
    return tuple(groups)


def _cuts(examples: list[Example], windows: list[range]) -> list[tuple[Example, range]]:
    return list(zip(examples, windows, strict=True))


def _distinct(evidence: Evidence, around: int) -> list[Example]:
    """Examples by falling activation of their peak, one of each shown text and of each place."""
    everything = [example for group in evidence.groups for example in group.examples]
    everything.sort(key=lambda example: -example.pieces[example.peak].activation)
    found: dict[str, Example] = {}
    places: set[tuple[str, int, int]] = set()
    for example in everything:
        cut = _window(example, around)
        text = "".join(example.pieces[i].text for i in cut)
        place = (example.document, example.position, example.peak)
        if text not in found and place not in places:
            found[text] = example
            places.add(place)
    return list(found.values())


def _window(example: Example, around: int) -> range:
    """Places of 2 x around + 1 pieces with the peak in the middle, or as near as the ends allow."""
    n = len(example.pieces)
    length = min(2 * around + 1, n)
    start = min(max(example.peak - around, 0), n - length)
    return range(start, start + length)


def _blind(example: Example, cut: range, largest: float) -> BlindExample:
    pieces = tuple(BlindPiece(example.pieces[i].text, _shade(example.pieces[i].activation, largest)) for i in cut)
    return BlindExample(pieces, example.peak - cut.start)


def _shade(activation: float, largest: float) -> int:
    return 0 if activation <= 0 else max(1, math.ceil(N_SHADES * min(activation / largest, 1.0) - 1e-9))


def to_json(groups: tuple[BlindGroup, ...], **more: Any) -> str:
    """Groups, and what else belongs to a panel, as one line."""
    written = [
        {"name": group.name, "examples": [{"peak": e.peak, "pieces": e.pieces} for e in group.examples]}
        for group in groups
    ]
    return json.dumps({**more, "groups": written}, ensure_ascii=True, allow_nan=False)


def groups_from(written: list[dict[str, Any]]) -> tuple[BlindGroup, ...]:
    """What `to_json` wrote under `groups`."""
    return tuple(
        BlindGroup(
            group["name"],
            tuple(
                BlindExample(tuple(BlindPiece(text, shade) for text, shade in e["pieces"]), e["peak"])
                for e in group["examples"]
            ),
        )
        for group in written
    )
