"""result.json: all that a study found, from the log and the opened mapping; the report reads this alone.

The same log and mapping give the same numbers.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from fovea.rating.collect import Row, rows_of
from fovea.rating.config import Panel
from fovea.rating.outcomes import (
    Sampled,
    agreement,
    blinding,
    by_rater,
    contrasts,
    controls,
    counted,
    distributions,
    omnibus,
    over_jobs,
    panel_difference,
    repeats,
)
from fovea.rating.rates import holm
from fovea.rating.sealing import Sealed
from fovea.rating.store import OWNER

if TYPE_CHECKING:
    from fovea.rating.study import Study

FORMAT = 1
N_BEST = 12
"Features with examples in the result, as the post's appendix has them."
N_EXAMPLES = 3
"Of each panel of these."


def result_of(study: "Study", sealed: Sealed) -> dict[str, Any]:
    """The result of an unblinded study."""
    config, store = study.config, study.store
    rows = rows_of(store, sealed)
    sampled = Sampled(
        rows,
        tuple(arm.name for arm in config.arm),
        [feature["arm"] for feature in sealed.features],
        [feature["domain"] for feature in sealed.features],
        [feature["job"] for feature in sealed.features],
        tuple(rater.name for rater in store.raters),
        len(config.rubric.points),
    )
    rng = np.random.default_rng([config.seed, 1])
    unblinding = store.events(OWNER)[0]
    facts = store.facts
    return {
        "format": FORMAT,
        "study": study.name,
        "made": facts["made"],
        "unblinding": {"at": unblinding.at, **unblinding.body},
        "commitment": facts["commitment"],
        "protocol_sha256": facts["protocol_sha256"],
        "arms": [arm.model_dump(mode="json") for arm in config.arm],
        "domains": list(dict.fromkeys(sampled.domain_of)),
        "question": config.rubric.question,
        "points": list(config.rubric.points),
        "explanation": config.explanation if config.explanations_file is None else "read",
        "raters": [_rater(rows, rater.name, rater.kind) for rater in store.raters],
        "n_scripted": sum(rater.kind == "scripted" for rater in store.raters),
        "excluded": facts["excluded"],
        "power": facts["power"],
        **_sensitive(sampled, _outcomes(sampled, tuple(config.panels), rng), config.seed),
        **{name: _flagged(sampled, name, tuple(config.panels)) for name in ("nice", "cannot_tell")},
        "repeats": repeats(sampled, rng),
        "controls": controls(sampled, [control["known"] for control in sealed.controls]),
        "blinding": blinding(sampled),
        "best": _best(study, sealed, rows),
    }


def _outcomes(sampled: Sampled, panels: tuple[Panel, ...], rng: np.random.Generator) -> dict[str, Any]:
    found = {
        panel: {
            "agreement": agreement(sampled, panel, rng),
            "distributions": distributions(sampled, panel, rng),
            "omnibus_p": omnibus(sampled, panel, rng),
        }
        for panel in panels
    }
    pairs = [pair for panel in panels for pair in contrasts(sampled, panel, rng)]
    primary, secondary = pairs[0], [pair for pair in pairs[1:] if pair["p"] is not None]
    for pair in pairs:
        pair["is_primary"] = pair is primary
        pair["p_holm"] = None
    for pair, p in zip(secondary, holm([pair["p"] for pair in secondary]), strict=True):
        pair["p_holm"] = p
    both = panel_difference(sampled, rng) if set(panels) == {"domain", "general"} else []
    return {"panels": found, "contrasts": pairs, "panel_difference": both}


def _sensitive(sampled: Sampled, found: dict[str, Any], seed: int) -> dict[str, Any]:
    """The outcomes with what they hang on: training jobs beside every pair, raters beside the primary one."""
    rng = np.random.default_rng([seed, 2])
    for pair in found["contrasts"]:
        pair["over_jobs"] = over_jobs(sampled, pair, rng)
        pair["by_rater"] = by_rater(sampled, pair, rng) if pair["is_primary"] else None
    return found


def _flagged(sampled: Sampled, name: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """On any panel, and on each alone, where all features have equally many chances."""
    return {**counted(sampled, name), "by_panel": {panel: counted(sampled, name, panel) for panel in panels}}


def _rater(rows: list[Row], name: str, kind: str) -> dict[str, Any]:
    answers = [row.answer for row in rows if row.rater.name == name and row.phase == "rating"]
    seconds = [answer.seconds for answer in answers if answer.is_done]
    return {
        "name": name,
        "kind": kind,
        "n_items": len(answers),
        "n_rated": sum(answer.specificity is not None for answer in answers),
        "n_cannot_tell": sum(answer.cannot_tell for answer in answers),
        "n_skipped": sum(answer.skip_reason is not None for answer in answers),
        "n_open": sum(not answer.is_done for answer in answers),
        "median_seconds": float(np.median(seconds)) if seconds else None,
    }


def _best(study: "Study", sealed: Sealed, rows: list[Row]) -> list[dict[str, Any]]:
    """Nice features, those that most raters called nice first, then the most specific; with a few examples of each."""
    told: dict[int, list[Row]] = {}
    for row in rows:
        if row.phase == "rating" and row.feature is not None and row.repeat_of is None:
            told.setdefault(row.feature, []).append(row)
    ranked: list[tuple[int, float, int]] = []
    for feature, own in told.items():
        n_nice = len({row.rater.name for row in own if row.answer.nice})
        points = [r.answer.specificity for r in own if r.panel == "domain" and r.answer.specificity is not None]
        if n_nice:
            ranked.append((-n_nice, -float(np.mean(points)) if points else 0.0, feature))
    shown = {(meaning["feature"], meaning["panel"]): e for e, meaning in sealed.evidence.items()}
    found: list[dict[str, Any]] = []
    for _, _, feature in sorted(ranked)[:N_BEST]:
        panels = {
            panel: _panel(study, shown.get((feature, panel)), told[feature], panel) for panel in study.config.panels
        }
        nice_by = sorted({row.rater.name for row in told[feature] if row.answer.nice})
        found.append({**sealed.features[feature], "nice_by": nice_by, "panels": panels})
    return found


def _panel(study: "Study", evidence: str | None, rows: list[Row], panel: str) -> dict[str, Any]:
    said = [
        {
            "rater": row.rater.name,
            "explanation": row.answer.explanation,
            "specificity": row.answer.specificity,
            "cannot_tell": row.answer.cannot_tell,
            "note": row.answer.note,
        }
        for row in rows
        if row.panel == panel and row.answer.is_done
    ]
    if evidence is None:
        return {"is_shown": False, "read": None, "said": said, "examples": []}
    body = study.store.evidence(evidence)
    return {
        "is_shown": True,
        "read": body["explanation"],
        "said": said,
        "examples": body["groups"][0]["examples"][:N_EXAMPLES],
    }
