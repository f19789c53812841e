"""The evidence of one SAE in the files of two other tools, 128 latents a file; latents that never fired are left out.

    saedashboard   batch-N.json: what SAEDashboard makes and Neuronpedia's own import takes; skipped_indexes.json
    neuronpedia    upload-N.json: bodies for Neuronpedia's upload-batch, by anybody with an account

Both hold text of the corpus. Activations are in raw units; groups are ranges of ranks, so bin_contains and
quantileFraction are exact shares of the firings, and the bounds those of the examples shown.

Source: sae-dashboard 0.8.0, neuronpedia/neuronpedia_dashboard.py and neuronpedia_converter.py; neuronpedia 1.2.1,
requests/feature_request.py; limits of the webapp's upload-batch route.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fovea.atomic import new_folder, write_json, write_text
from fovea.errors import ConfigError, RunError
from fovea.features.read import Card, Evidence, Example, Features, Group, Token

LATENTS_PER_FILE = 128
"Most that upload-batch takes at once, and what SAEDashboard writes in one file."

MAX_LOGITS = 20
MAX_TOKENS = 1024
"Most of an activation that upload-batch takes."

DIGITS = 3
"Decimals of activations and logits, as SAEDashboard rounds them."


class Source(NamedTuple):
    """How a dashboard names the SAE."""

    model_id: str
    "Neuronpedia's name of the lm, like gemma-2-2b."
    layer: int
    sae_set: str
    "The part of a source's name after the layer."
    dataset: str
    "What was read."
    context_size: int

    @property
    def name(self) -> str:
        """Neuronpedia's name of the source."""
        return f"{self.layer}-{self.sae_set}"


class Written(NamedTuple):
    """What was written."""

    n_latents: int
    n_skipped: int
    "Latents without a firing on the corpus."
    n_files: int


def write_dashboards(features: Features, job: str, out: Path, *, layout: str, source: Source) -> Written:
    """Write the latents of `job` that fire on D to `out`, which must not exist.

    Raises:
        ConfigError: the layout is unknown.
        RunError: the evidence has no such job, or no latent of it fires.
    """
    if layout not in DASHBOARDS:
        raise ConfigError(f"layout {layout!r} is unknown; allowed: {', '.join(DASHBOARDS)}")
    alive = features.alive(job).tolist()
    if not alive:
        raise RunError(f"no latent of {job!r} fired on the domain's text, so there is nothing to show")
    n_all = features.manifest["jobs"][job]["d_sae"]
    form, n_files = DASHBOARDS[layout], 0
    with new_folder(out) as temporary:
        for start in range(0, len(alive), LATENTS_PER_FILE):
            cards = [features.card(job, latent) for latent in alive[start : start + LATENTS_PER_FILE]]
            text = json.dumps(form.body(source, cards), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            write_text(temporary / form.file_name(n_files), text)
            n_files += 1
        for name, content in form.beside(source, sorted(set(range(n_all)) - set(alive))).items():
            write_json(temporary / name, content)
    return Written(len(alive), n_all - len(alive), n_files)


class _Form(NamedTuple):
    """A tool's files."""

    file_name: Callable[[int], str]
    body: Callable[[Source, list[Card]], dict[str, Any]]
    beside: Callable[[Source, list[int]], dict[str, Any]]
    "Other files, given the latents that were left out."


def _batch(source: Source, cards: list[Card]) -> dict[str, Any]:
    """A batch-N.json of SAEDashboard."""
    return {
        "model_id": source.model_id,
        "layer": source.layer,
        "sae_set": source.sae_set,
        "sae_id_suffix": None,
        "features": [_dashboard_feature(card, source) for card in cards],
    }


def _dashboard_feature(card: Card, source: Source) -> dict[str, Any]:
    """One feature; tables that fovea does not compute (neuron alignment, correlations, logit histogram) are empty."""
    evidence = card.evidence[0]
    width = (evidence.max_activation or 0.0) / max(1, len(evidence.histogram))
    absent = ("neuron_alignment_", "correlated_neurons_", "correlated_features_")
    empty = {
        f"{table}{column}": []
        for table in absent
        for column in (("indices", "values", "l1") if table == absent[0] else ("indices", "l1", "pearson"))
    }
    return {
        "feature_index": card.latent,
        **empty,
        "neg_str": [token.text for token in card.suppressed],
        "neg_values": [round(token.logit, DIGITS) for token in card.suppressed],
        "pos_str": [token.text for token in card.promoted],
        "pos_values": [round(token.logit, DIGITS) for token in card.promoted],
        "frac_nonzero": evidence.n_fired / evidence.n_tokens,
        "freq_hist_data_bar_values": [round((i + 0.5) * width, DIGITS) for i in range(len(evidence.histogram))],
        "freq_hist_data_bar_heights": list(evidence.histogram),
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
        "n_prompts_total": -(-evidence.n_tokens // source.context_size),
        "n_tokens_in_prompt": source.context_size,
        "dataset": source.dataset,
        "activations": [
            {
                "bin_min": low,
                "bin_max": high,
                "bin_contains": share,
                "tokens": [piece.text for piece in example.pieces],
                "values": _values(example),
                "qualifying_token_index": example.peak,
            }
            for low, high, share, example in _examples(evidence)
        ],
        "decoder_weights_dist": [],
        "vector": [],
    }


def _upload(source: Source, cards: list[Card]) -> dict[str, Any]:
    """The body of one request to upload-batch."""
    return {"modelId": source.model_id, "source": source.name, "features": [_uploaded(card) for card in cards]}


def _uploaded(card: Card) -> dict[str, Any]:
    evidence = card.evidence[0]
    return {
        "index": card.latent,
        "density": evidence.n_fired / evidence.n_tokens,
        "activations": [
            {
                "tokens": [piece.text for piece in example.pieces][_around(example)],
                "values": _values(example)[_around(example)],
                "quantileMax": None if share < 0 else high,
                "quantileMin": None if share < 0 else low,
                "quantileFraction": None if share < 0 else share,
            }
            for low, high, share, example in _examples(evidence)
        ],
        "explanations": [],
        "topLogits": _logits(card.promoted),
        "bottomLogits": _logits(card.suppressed),
    }


def _logits(tokens: tuple[Token, ...]) -> list[dict[str, Any]]:
    return [{"token": token.text, "value": round(token.logit, DIGITS)} for token in tokens[:MAX_LOGITS]]


def _around(example: Example) -> slice:
    """The MAX_TOKENS tokens around the peak of a longer context."""
    start = max(0, min(example.peak - MAX_TOKENS // 2, len(example.pieces) - MAX_TOKENS))
    return slice(start, start + MAX_TOKENS)


def _values(example: Example) -> list[float]:
    return [round(piece.activation, DIGITS) for piece in example.pieces]


def _examples(evidence: Evidence) -> Iterator[tuple[float, float, float, Example]]:
    """Lowest and highest activation of the group, its share of the firings (-1: the largest of all), and an example."""
    for group in evidence.groups:
        low, high = _bounds(group)
        is_top = group.low == group.high
        for example in group.examples:
            yield -1.0 if is_top else low, high, -1.0 if is_top else group.high - group.low, example


def _bounds(group: Group) -> tuple[float, float]:
    peaks = [round(example.pieces[example.peak].activation, DIGITS) for example in group.examples] or [0.0]
    return min(peaks), max(peaks)


def _skipped(source: Source, latents: list[int]) -> dict[str, Any]:
    about = {"model_id": source.model_id, "layer": str(source.layer), "sae_set": source.sae_set}
    return {"skipped_indexes.json": {**about, "skipped_indexes": latents}}


def _nothing(source: Source, latents: list[int]) -> dict[str, Any]:
    del source, latents
    return {}


DASHBOARDS: Mapping[str, _Form] = {
    "neuronpedia": _Form("upload-{}.json".format, _upload, _nothing),
    "saedashboard": _Form("batch-{}.json".format, _batch, _skipped),
}
"""By the name that `fovea export --format` takes."""
