"""A Card as the browser gets it: json of moderate size, contexts cut around their peaks, long tokens cut with a word.

An example: {texts, ids, activations, peak, start, size, document, position, n_duplicates}; `start` is where the shown
pieces begin in the context of `size` pieces, `peak` counts from `start`.
"""

from typing import Any

from fovea.app.calls import number
from fovea.features.read import Card, Evidence, Example, Link, Token

AROUND = 14
"Pieces shown on each side of a peak until the reader asks for more."
MAX_PIECE = 400
"Characters of one token that are shown."


def card_payload(card: Card, *, around: int | None = AROUND) -> dict[str, Any]:
    """`card` as json; `around` None keeps whole contexts."""
    return {
        "job": card.job,
        "latent": card.latent,
        "method": card.method,
        "domain": card.domain,
        "novelty_decoder": number(card.novelty_decoder),
        "novelty_encoder": number(card.novelty_encoder),
        "evidence": [_evidence(evidence, around) for evidence in card.evidence],
        "promoted": [_token(token) for token in card.promoted],
        "suppressed": [_token(token) for token in card.suppressed],
        "nearest": [_link(link) for link in card.nearest],
        "cofiring": [_link(link) for link in card.cofiring],
        "nearest_general": None if card.nearest_general is None else _link(card.nearest_general),
    }


def example_payload(example: Example, *, around: int | None) -> dict[str, Any]:
    """One example, cut to `around` pieces on each side of its peak."""
    start = 0 if around is None else max(0, example.peak - around)
    stop = len(example.pieces) if around is None else example.peak + around + 1
    pieces = example.pieces[start:stop]
    return {
        "texts": [cut(piece.text) for piece in pieces],
        "ids": [piece.token_id for piece in pieces],
        "activations": [float(f"{piece.activation:.4g}") for piece in pieces],
        "peak": example.peak - start,
        "start": start,
        "size": len(example.pieces),
        "document": cut(example.document),
        "position": example.position,
        "n_duplicates": example.n_duplicates,
    }


def cut(text: str, most: int = MAX_PIECE) -> str:
    """`text`, or its beginning and how much is left out."""
    if len(text) <= most:
        return text
    return f"{text[:most]}\u2026[{len(text) - most:,} more characters]"


def _evidence(evidence: Evidence, around: int | None) -> dict[str, Any]:
    return {
        "corpus": evidence.corpus,
        "role": evidence.role,
        "split": evidence.split,
        "n_fired": evidence.n_fired,
        "n_tokens": evidence.n_tokens,
        "n_documents": evidence.n_documents,
        "max_activation": number(evidence.max_activation),
        "histogram": list(evidence.histogram),
        "groups": [
            {
                "name": group.name,
                "low": group.low,
                "high": group.high,
                "examples": [example_payload(example, around=around) for example in group.examples],
            }
            for group in evidence.groups
        ],
    }


def _token(token: Token) -> dict[str, Any]:
    return {"text": cut(token.text), "id": token.token_id, "logit": number(token.logit)}


def _link(link: Link) -> dict[str, Any]:
    return {"job": link.job, "latent": link.latent, "value": number(link.value)}
