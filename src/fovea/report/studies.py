"""The report's section on blind studies: what was found, by whom, how sure, and the nice features with their texts.

    RUN/studies/*/result.json --studies--> StudyView: sentences, figure, tables, features --template study.html--> page

Only unblinded studies have a result. Everything that a rater or a corpus wrote is text, with hidden characters shown.
"""

from collections.abc import Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from fovea.errors import RunError
from fovea.foreign import Refusal, damage, read_object
from fovea.rating.power import Power
from fovea.rating.visible import visible
from fovea.report.drawing import Figure
from fovea.report.specificity import draw, rows_of
from fovea.report.tables import Cell, Column, Sheet, gap, sheet, words
from fovea.report.words import count, interval, listing, number, percent, plural, signed

PANELS = {"domain": "domain text", "general": "general text"}


class Shown(NamedTuple):
    """A stretch of an example with one shade."""

    text: str
    shade: int


class NicePanel(NamedTuple):
    """One panel of a nice feature."""

    title: str
    state: str
    "Why there are no examples; empty if there are."
    said: list[tuple[str, str]]
    "Who and what."
    examples: list[list[Shown]]


class NiceFeature(NamedTuple):
    """A feature that a rater called nice."""

    title: str
    panels: list[NicePanel]


_AGAIN = Refusal(RunError, "write it again with `fovea study unblind`")


class StudyView(NamedTuple):
    """One study as the page shows it."""

    name: str
    sentences: list[str]
    warnings: list[str]
    figure: Figure
    sheets: list[Sheet]
    nice: list[NiceFeature]


def studies(run: Path) -> list[StudyView]:
    """Every unblinded study of a run.

    Raises:
        RunError: a result is damaged.
    """
    found: list[StudyView] = []
    for path in sorted((run / "studies").glob("*/result.json")):
        with damage(path, _AGAIN):
            found.append(_view(read_object(path, run, _AGAIN), f"study-{len(found) + 1}"))
    return found


def _view(result: dict[str, Any], slug: str) -> StudyView:
    panels = {panel: _panel_name(result, panel) for panel in result["panels"]}
    sheets = [_contrasts(result, panels, slug), _agreement(result, panels, slug), _nice(result, slug)]
    sheets += [_raters(result, slug), *_controls(result, slug), _blinding(result, slug), _excluded(result, slug)]
    label = " ".join(
        f"{row.panel}, {row.arm}: {', '.join(f'{n} x {name}' for name, n in row.counts.items())}."
        for row in rows_of(result, panels)
    )
    figure = Figure(
        name=slug,
        title=f"How specific features were rated, study {visible(result['study'])}",
        caption=(
            "Shares of all ratings of each method (repeats left out; numbers are ratings), from 0, not specific, to "
            f"{len(result['points']) - 1}, fully specific to the subject; grey: uninterpretable. "
            "Means are over features; skipped items are in the table of raters."
        ),
        label=label,
        draw=partial(draw, result, panels),
    )
    nice = [_feature(each) for each in result["best"]]
    return StudyView(visible(result["study"]), _sentences(result, panels), _warnings(result), figure, sheets, nice)


def _panel_name(result: Mapping[str, Any], panel: str) -> str:
    domains = result["domains"]
    return f"{domains[0]} text" if panel == "domain" and len(domains) == 1 else PANELS[panel]


def _sentences(result: Mapping[str, Any], panels: Mapping[str, str]) -> list[str]:
    first = result["contrasts"][0]
    where, a, b = panels[first["panel"]], visible(first["a"]), visible(first["b"])
    told = first["difference"]
    if told["value"] is None:
        return [f"Nothing can be said of {a} against {b} on {where}: {told['reason']}."]
    is_clear = told["ci_low"] is not None and not told["ci_low"] <= 0 <= told["ci_high"]
    found = f"scored {number(abs(told['value']), 2)} points {'higher' if told['value'] > 0 else 'lower'} than"
    lead = (
        f"Rated blind on {where} by {plural(len(result['raters']), 'rater')}, features of {a} {found} those of {b} "
        f"(means {number(first['mean_a'], 2)} and {number(first['mean_b'], 2)} of {len(result['points']) - 1}; "
        f"{interval(told['ci_low'], told['ci_high'], 2) or 'no interval'}; permutation p {_p(first['p'])}; "
        f"{count(first['n_a'])} and {count(first['n_b'])} features)"
    )
    lead += "." if is_clear else ": the interval includes 0, so no difference was shown."
    parts = [lead]
    for pair in result["nice"]["pairs"][:1]:
        yes = {each["arm"]: each for each in result["nice"]["by_arm"]}
        mine, theirs = yes[pair["a"]], yes[pair["b"]]
        parts.append(
            f"Called nice: {mine['n_yes']} of {mine['n_features']} against {theirs['n_yes']} of "
            f"{theirs['n_features']} (Fisher's exact p {_p(pair['p'])})."
        )
    parts.append(Power(**result["power"]).sentence)
    return [*parts, *_limits(first)]


def _limits(first: Mapping[str, Any]) -> list[str]:
    """What the primary outcome hangs on: training jobs and raters."""
    jobs, raters = first.get("over_jobs"), first.get("by_rater") or []
    found: list[str] = []
    if len(raters) > 1 and all(each["difference"]["value"] is not None for each in raters):
        each = listing([f"{visible(r['rater'])} {signed(r['difference']['value'], 2)}" for r in raters])
        found.append(f"By rater alone: {each}; so few cannot stand for raters at large.")
    if jobs is None:
        return [*found, "The features are of these trained SAEs: seeds of training and raters were not resampled."]
    told = jobs["difference"]
    found.append(
        f"With the training job as the unit: {signed(told['value'], 2)} points "
        f"({interval(told['ci_low'], told['ci_high'], 2) or 'no interval'}; permutation p {_p(jobs['p'])}); "
        f"{jobs['caution']}."
    )
    return found


def _warnings(result: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    n = result["n_scripted"]
    if n:
        who = "All raters are" if n == len(result["raters"]) else f"{n} of {len(result['raters'])} raters are"
        found.append(
            f"{who} scripted: programs, not people. Their ratings prove that the procedure works, nothing else."
        )
    how = result["unblinding"]
    if how["is_forced"]:
        waiting = visible(listing(how["not_locked"]))
        found.append(f"Unblinded by force before {waiting} had locked; the reason given: {visible(how['reason'])}.")
    if not how["protocol_is_intact"]:
        found.append("protocol.md was changed after the study was made.")
    accuracy = result["blinding"]["accuracy"]
    if accuracy["ci_low"] is not None and accuracy["ci_low"] > result["blinding"]["chance"]:
        found.append(
            f"Raters guessed the method better than chance ({percent(accuracy['value'])} right, chance "
            f"{percent(result['blinding']['chance'])}): the blinding did not hold fully."
        )
    return found


def _p(value: float | None) -> str:
    return "none" if value is None else f"{value:.2g}" if value >= 0.0001 else "<0.0001"


def _estimate(told: Mapping[str, Any], digits: int = 2) -> Cell:
    if told["value"] is None:
        return gap(told["reason"])
    return Cell(number(told["value"], digits), told["value"], interval(told["ci_low"], told["ci_high"], digits))


def _contrasts(result: Mapping[str, Any], panels: Mapping[str, str], slug: str) -> Sheet:
    names = ["text", "A", "B", "features", "mean A", "mean B", "A \u2212 B", "p", "Holm", "Cliff's delta", "role"]
    columns = [Column(name, is_number=name not in ("text", "A", "B", "role")) for name in names]
    rows: list[list[Cell]] = []
    for pair in result["contrasts"]:
        told = pair["difference"]
        cells = [words(panels[pair["panel"]]), words(visible(pair["a"])), words(visible(pair["b"]))]
        cells.append(Cell(f"{pair['n_a']}, {pair['n_b']}", pair["n_a"]))
        cells += [
            Cell(number(pair[name], 2), pair[name]) if pair[name] is not None else gap("no rated feature")
            for name in ("mean_a", "mean_b")
        ]
        has = told["value"] is not None
        cells.append(_estimate(told)._replace(text=signed(told["value"], 2)) if has else gap(told["reason"]))
        cells.append(Cell(_p(pair["p"]), pair["p"]) if pair["p"] is not None else gap(told["reason"]))
        is_primary = pair["is_primary"]
        why = "the primary outcome needs no correction" if is_primary else told["reason"]
        cells.append(gap(why) if pair["p_holm"] is None else Cell(_p(pair["p_holm"]), pair["p_holm"]))
        rows.append([*cells, _estimate(pair["delta"]), words("primary" if is_primary else "secondary")])
    return sheet(f"{slug}-contrasts", "Differences between methods", columns, rows=rows)


def _agreement(result: Mapping[str, Any], panels: Mapping[str, str], slug: str) -> Sheet:
    names = ["text", "features", "ordinal alpha", "AC2", "equal"]
    rows: list[list[Cell]] = []
    for panel, found in result["panels"].items():
        told = found["agreement"]
        n = told["n_features_by_two"]
        cells = [_estimate(told[name]) for name in ("alpha_ordinal", "ac2_ordinal", "percent")]
        rows.append([words(panels[panel]), Cell(count(n), n), *cells])
    for told in result["repeats"]:
        share = told["n_equal"] / told["n_pairs"] if told["n_pairs"] else None
        equal = gap("no repeated item has two points") if share is None else Cell(number(share, 2), share)
        name = f"{visible(told['rater'])}, the same item twice"
        own = [_estimate(told["alpha_ordinal"]), gap("only between raters"), equal]
        rows.append([words(name), Cell(count(told["n_pairs"]), told["n_pairs"]), *own])
    columns = [Column(name, is_number=name != "text") for name in names]
    return sheet(f"{slug}-agreement", "Agreement of raters with each other and with themselves", columns, rows=rows)


def _nice(result: Mapping[str, Any], slug: str) -> Sheet:
    names = ["what", "A", "B", "of A", "of B", "A \u2212 B", "odds ratio", "Fisher's p"]
    rows: list[list[Cell]] = []
    for what, title in (("nice", "nice"), ("cannot_tell", "can't tell")):
        yes = {each["arm"]: each for each in result[what]["by_arm"]}
        for pair in result[what]["pairs"]:
            cells = [words(title), words(visible(pair["a"])), words(visible(pair["b"]))]
            for name in (pair["a"], pair["b"]):
                cells.append(Cell(f"{yes[name]['n_yes']} of {yes[name]['n_features']}", yes[name]["n_yes"]))
            cells += [_estimate(pair["difference"]), _estimate(pair["odds_ratio"]), Cell(_p(pair["p"]), pair["p"])]
            rows.append(cells)
    columns = [Column(name, is_number=name not in ("what", "A", "B")) for name in names]
    return sheet(f"{slug}-nice", "Features that any rater called nice or could not interpret", columns, rows=rows)


def _raters(result: Mapping[str, Any], slug: str) -> Sheet:
    keys = {
        "n_items": "items", "n_rated": "rated", "n_cannot_tell": "can't tell", "n_skipped": "skipped", "n_open": "open"
    }  # fmt: skip
    columns = [Column("rater", is_number=False), Column("kind", is_number=False)]
    columns += [Column(name) for name in (*keys.values(), "median seconds")]
    rows: list[list[Cell]] = []
    for rater in result["raters"]:
        seconds = rater["median_seconds"]
        last = gap("nothing rated") if seconds is None else Cell(number(seconds, 1), seconds)
        cells = [Cell(count(rater[key]), rater[key]) for key in keys]
        rows.append([words(visible(rater["name"])), words(rater["kind"]), *cells, last])
    return sheet(f"{slug}-raters", "Raters", columns, rows=rows)


def _controls(result: Mapping[str, Any], slug: str) -> list[Sheet]:
    """Features of known specificity, if the study had some."""
    rows = [
        [
            words(visible(each["rater"])),
            words(f"known {each['known']}"),
            *(Cell(count(each[key]), each[key]) for key in ("n_controls", "n_hits", "n_cannot_tell")),
            _estimate(each["hit_rate"]),
        ]
        for each in result.get("controls", [])
    ]
    names = ["rater", "controls", "shown", "in their half of the scale", "can't tell", "share of those rated"]
    columns = [Column(name, is_number=name not in ("rater", "controls")) for name in names]
    return [sheet(f"{slug}-controls", "Features of known specificity", columns, rows=rows)] if rows else []


def _blinding(result: Mapping[str, Any], slug: str) -> Sheet:
    columns = [
        Column("features of", is_number=False),
        Column("guessed right"),
        Column("wrong"),
        Column("could not say"),
    ]
    columns.append(Column("blinding index", hint="1: unblinded, 0: blind, below 0: misled"))
    rows = [
        [
            words(visible(each["arm"])),
            *(Cell(count(each[key]), each[key]) for key in ("n_correct", "n_wrong", "n_unsure")),
            _estimate(each["index"]),
        ]
        for each in result["blinding"]["by_arm"]
    ]
    return sheet(f"{slug}-blinding", "Guesses of the method at the end", columns, rows=rows)


def _excluded(result: Mapping[str, Any], slug: str) -> Sheet:
    keys = {
        "n_latents": "latents", "n_dead": "dead on D", "n_too_few_firings": "too few firings",
        "n_examined": "examined", "n_too_few_examples": "too few examples", "n_sampled": "sampled",
        "n_without_general": "not shown on general text",
    }  # fmt: skip
    columns = [Column("method", is_number=False), Column("domain", is_number=False)]
    columns += [Column(name) for name in keys.values()]
    rows = [
        [
            words(visible(each["arm"])),
            words(visible(each["domain"])),
            *(Cell(count(each[key]), each[key]) for key in keys),
        ]
        for each in result["excluded"]
    ]
    return sheet(f"{slug}-excluded", "From all latents to the sample", columns, rows=rows)


def _feature(each: Mapping[str, Any]) -> NiceFeature:
    title = f"{each['domain']}: {each['job']}, latent {each['latent']} ({each['arm']})"
    panels: list[NicePanel] = []
    for panel, told in each["panels"].items():
        facts = each["facts"].get(panel)
        name = f"On {each['domain']} text" if panel == "domain" else "On general text"
        said = [(visible(one["rater"]), _said(one)) for one in told["said"]]
        if told["read"] is not None:
            said.insert(0, ("read", visible(told["read"])))
        panels.append(NicePanel(visible(name), _state(told, facts), said, [_example(e) for e in told["examples"]]))
    return NiceFeature(visible(title), panels)


def _said(one: Mapping[str, Any]) -> str:
    point = "can't tell" if one["cannot_tell"] else one["specificity"]
    text = one["explanation"] or "(no explanation)"
    note = f" (note: {one['note']})" if one["note"] else ""
    return visible(f"{text} [{'skipped' if point is None else point}]{note}")


def _state(told: Mapping[str, Any], facts: Mapping[str, int] | None) -> str:
    if told["is_shown"]:
        return ""
    if facts is None:
        return "no such text was read"
    if not facts["n_fired"]:
        return f"did not activate in {count(facts['n_tokens'])} tokens"
    return f"too few firings to show: {count(facts['n_fired'])} in {count(facts['n_tokens'])} tokens"


def _example(example: Mapping[str, Any]) -> list[Shown]:
    """Neighbouring pieces of one shade as one stretch."""
    runs = groupby(example["pieces"], key=lambda piece: int(piece[1]))
    return [Shown(visible("".join(piece[0] for piece in run)), shade) for shade, run in runs]
