"""What the command line says of a study."""

import time
from pathlib import Path
from typing import Any

from fovea.config import load_toml
from fovea.errors import ConfigError, StudyError
from fovea.foreign import Refusal, damage, read_object
from fovea.rating.config import StudyConfig, study_config
from fovea.rating.packet import Imported
from fovea.rating.sampling import Excluded
from fovea.rating.study import Plan, Status, Study, study_names
from fovea.rating.visible import visible

_AGAIN = Refusal(StudyError, "write it again with `fovea study unblind`")


def config_of(
    file: Path | None, *, arms: list[str] | None, raters: list[str] | None, features_per_arm: int | None
) -> StudyConfig:
    """The settings in a toml file with what the command line names in place of them.

    Args:
        arms: JOB, JOB,JOB or NAME=JOB,JOB each.
        raters: NAME or NAME:scripted each.

    Raises:
        ConfigError: a setting is unknown or wrong, or arms or raters are missing.
    """
    table: dict[str, Any] = {} if file is None else load_toml(file)
    if arms:
        table["arm"] = [_arm(arm) for arm in arms]
    if raters:
        table["rater"] = [_rater(rater) for rater in raters]
    if features_per_arm is not None:
        table["features_per_arm"] = features_per_arm
    for key, flag in (("arm", "--arm JOB --arm JOB"), ("rater", "--rater NAME")):
        if key not in table:
            raise ConfigError(f"no {key} is named; add {flag}, or a [[{key}]] table in the file of --config")
    return study_config(table, where="the study" if file is None else str(file))


def _arm(text: str) -> dict[str, Any]:
    name, equals, jobs = text.partition("=")
    listed = (jobs if equals else text).split(",")
    return {"name": name if equals else listed[0], "jobs": listed}


def _rater(text: str) -> dict[str, str]:
    name, _, kind = text.partition(":")
    return {"name": name, **({"kind": kind} if kind else {})}


def plan_text(plan: Plan) -> str:
    """What a study would be, before it is made."""
    n_items = sum(len(feature.panels) for feature in plan.sample.features)
    lines = [_excluded(each) for each in plan.sample.excluded]
    lines.append(f"{len(plan.sample.features)} features, {n_items} items per rater before hidden repeats")
    return "\n".join([*lines, plan.power.sentence])


def _excluded(each: Excluded) -> str:
    return (
        f"{each.arm} on {each.domain}: {each.n_sampled} sampled of {each.n_latents} latents ({each.n_dead} dead, "
        f"{each.n_too_few_firings} with too few firings, {each.n_too_few_examples} of {each.n_examined} examined with "
        f"too few examples; {each.n_without_general} sampled ones not shown on general text"
        f"{f'; {each.n_controls} named as controls' if each.n_controls else ''})"
    )


def made_text(study: Study) -> str:
    """What to do with a new study."""
    tokens = "\n".join(f"  {name}: /rate/{study.name}/#t={token}" for name, token in study.tokens().items())
    protocol = study.folder / "protocol.md"
    return (
        f"{study.status().power}\n"
        f"protocol, with the commitment to the sealed mapping: {protocol}\n"
        f"SHA-256 of the protocol: {study.store.facts['protocol_sha256']}\n"
        f"raters get in by links, each by their own only; http://HOST:PORT of `fovea serve` comes before:\n{tokens}\n"
        f"Publish or send the protocol before the first rating; then `fovea serve {study.folder.parent.parent}` prints "
        "the whole links: hand them out."
    )


def links_texts(run: Path, address: str) -> list[str]:
    """For the owner's terminal: the raters' links of each study of a run that is not unblinded.

    Args:
        address: Scheme, host and port at which the run is served.
    """
    texts: list[str] = []
    for name in study_names(run):
        try:
            study = Study.open(run, name)
        except StudyError as error:
            texts.append(f"study {name} is not served: {error}")
            continue
        if not study.is_unblinded:
            texts.append(_links(study, address))
        study.close()
    return texts


def _links(study: Study, address: str) -> str:
    try:
        tokens = study.tokens()
    except FileNotFoundError:
        return f"study {study.name}: links.json is missing; raters still get in by the links that they were given"
    head = f"study {study.name}, links of the raters (give each their own only; who has it rates in their name):"
    return "\n".join([head, *(f"  {rater}: {address}/rate/{study.name}/#t={token}" for rater, token in tokens.items())])


def packet_text(study: str, rater: str, file: Path) -> str:
    """What to do with a new packet."""
    return (
        f"{file}: give it to {rater} alone, who rates with `fovea study rate {file.name}` and sends the file back\n"
        f"then `fovea study import RUN {study} {file.name}`; meanwhile {rater} must not rate by the link as well"
    )


def imported_text(done: Imported) -> str:
    """What an import did."""
    if not done.n_new:
        return f"nothing new: the log has all {done.n_known} events of {done.rater}'s packet"
    return f"{done.n_new} events of {done.rater} are in the log now ({done.n_known} were before); phase: {done.phase}"


def status_text(status: Status) -> str:
    """How far everybody is."""
    lines = [f"study {status.name}, commitment {status.commitment}"]
    for rater in status.raters:
        at = rater.last_event_at
        last = "never" if at is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
        done = f"{rater.progress.n_done} of {rater.progress.n_items} in {rater.progress.phase}"
        skipped = f", {rater.progress.n_skipped} skipped" if rater.progress.n_skipped else ""
        lines.append(f"  {rater.name} ({rater.kind}): {done}{skipped}; last step {last}")
    lines += [f"  {_excluded(each)}" for each in status.excluded]
    if status.unblinded is not None:
        how = "by force" if status.unblinded["is_forced"] else "after all had locked"
        return "\n".join([*lines, f"unblinded {how}"])
    going = "blind; raters get in by the links that `fovea serve RUN` prints (http://HOST:PORT/rate/NAME/#t=TOKEN)"
    return "\n".join([*lines, status.power, "all have locked: unblind it" if status.is_ready else going])


def result_text(path: Path) -> str:
    """The primary outcome, and where the rest is."""
    with damage(path, _AGAIN):
        return _result_text(path, read_object(path, path.parent, _AGAIN))


def _result_text(path: Path, result: dict[str, Any]) -> str:
    first = result["contrasts"][0]
    told, p = first["difference"], first["p"]
    if told["value"] is None:
        return f"nothing to compare: {told['reason']}\n{path}"
    ends = "no interval" if told["ci_low"] is None else f"95% {told['ci_low']:.2f} to {told['ci_high']:.2f}"
    scripted = (
        f"\n{result['n_scripted']} of {len(result['raters'])} raters are scripted" if result["n_scripted"] else ""
    )
    alpha = result["panels"][first["panel"]]["agreement"]["alpha_ordinal"]["value"]
    agreed = "not defined" if alpha is None else f"{alpha:.2f}"
    return (
        f"{visible(first['a'])} minus {visible(first['b'])}, {first['panel']} panel: {told['value']:+.2f} points "
        f"({ends}; permutation p {p:.2g}; {first['n_a']} and {first['n_b']} features)\n"
        f"{_over_jobs(first['over_jobs'])}ordinal alpha {agreed}{scripted}\n{path}\n"
        "write the report again to see it there"
    )


def _over_jobs(told: dict[str, Any] | None) -> str:
    if told is None:
        return ""
    return f"with the training job as unit {told['difference']['value']:+.2f}, p {told['p']:.2g}: {told['caution']}\n"
