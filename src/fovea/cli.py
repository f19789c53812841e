"""The command line: thin verbs over the library. No logic and no defaults of its own.

Exit codes: 0 done, 2 the user's mistake (one message), 3 another rank was lost, 130 interrupted; both resumable.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from fovea.guarded import guarded
from fovea.handover import verbs

app = typer.Typer(
    name="fovea",
    help="Train, compare and hand over domain-specific sparse autoencoders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

studies = typer.Typer(no_args_is_help=True, help="Rate features blind: how specific to the subject are they?")
app.add_typer(studies, name="study")

Out = Annotated[Path, typer.Option("--out", help="Run folder to make.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run that the folder holds.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; repeatable, dotted keys.")
]
Profiled = Annotated[bool, typer.Option("--profile", help="Say at the end where the time went.")]
Experiment = Annotated[Path, typer.Argument(help="Experiment file (toml).")]
Run = Annotated[Path, typer.Argument(help="Run folder.")]


_signals: list[int] = []
"SIGINTs and SIGTERMs that came."


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    _signals.append(number)
    raise KeyboardInterrupt


@app.command()
@guarded
def demo(
    out: Out = Path("runs/demo"),
    resume: Resume = False,
    settings: Settings = None,
    profile: Profiled = False,
) -> None:
    """Run the shipped experiment: bundled lm and general SAE, one domain, three methods.

    Example: `fovea demo --out runs/demo`
    """
    from fovea.experiment.run import demo_experiment, run_experiment

    run_experiment(demo_experiment(tuple(settings or ())), out, resume=resume, profile=profile)


@app.command()
@guarded
def run(
    experiment: Experiment,
    out: Out,
    settings: Settings = None,
    device: Annotated[str | None, typer.Option(help="Device of the lm, like cuda; SAEs follow it.")] = None,
    resume: Resume = False,
    profile: Profiled = False,
) -> None:
    """Train, measure and report one experiment.

    Example: `fovea run experiments/demo.toml --out runs/a --set train.n_tokens=100000`
    """
    from fovea.experiment.config import load_experiment
    from fovea.experiment.run import run_experiment

    chosen = [*(settings or ()), *([f'lm.device="{device}"'] if device else [])]
    run_experiment(load_experiment(experiment, tuple(chosen)), out, resume=resume, profile=profile)


@app.command()
@guarded
def general(
    experiment: Experiment,
    out: Out,
    settings: Settings = None,
    resume: Resume = False,
) -> None:
    """Train a general SAE on general text and measure it on held-out documents.

    Example: `fovea general experiments/general-smollm2.toml --out runs/general`
    """
    from fovea.experiment.config import load_experiment
    from fovea.experiment.general import train_general

    train_general(load_experiment(experiment, tuple(settings or ())), out, resume=resume)


@app.command()
@guarded
def report(folder: Run) -> None:
    """Write report.html and the figures of a finished run again.

    Example: `fovea report runs/demo`
    """
    from fovea.report.page import write_report

    typer.echo(str(write_report(folder)))


@app.command()
@guarded
def features(
    folder: Run,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of each corpus, in place of the run's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace evidence of other settings or SAEs.")] = False,
) -> None:
    """Collect what each latent of a finished run fires on, on D and on general text.

    Example: `fovea features runs/demo --tokens 100000 --force`
    """
    from fovea.experiment.features import features_of_run

    typer.echo(features_of_run(folder, tokens=tokens, force=force))


@app.command()
@guarded
def show(
    sae: Annotated[str, typer.Argument(help="Folder or file, saelens:RELEASE/ID, hf:REPO/PATH or bundled:NAME.")],
    lm: Annotated[str | None, typer.Option("--lm", help="Try it on this model; needs --text.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="General text to try it on: a corpus reference.")] = None,
    hook_point: Annotated[str | None, typer.Option(help="Where it reads, if its file does not say.")] = None,
) -> None:
    """Say what an SAE is: architecture, shapes, hook point, conventions; with an lm and text, whether it rebuilds x.

    Example: `fovea show bundled:smollm2-135m-l14 --lm bundled:smollm2-135m-instruct --text bundled:general`
    """
    from fovea.experiment.trial import trial_text
    from fovea.sae.show import describe

    typer.echo(describe(sae))
    if lm or text or hook_point:
        typer.echo(trial_text(sae, lm=lm, text=text, hook_point=hook_point))


app.add_typer(verbs)


@app.command()
@guarded
def serve(
    folder: Run,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8642,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Permit a host that others can reach.")] = False,
    names: Annotated[
        list[str] | None, typer.Option("--name", help="Host name that a proxy in front is reached by; repeatable.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the link in a browser.")] = False,
) -> None:
    """Look at the features of a run in the browser.

    Example: `fovea serve runs/demo`
    """
    from fovea.app.start import serve_run

    serve_run(
        folder,
        address=(host, port),
        names=tuple(names or ()),
        is_remote_allowed=allow_remote,
        say=typer.echo,
        launch=typer.launch if open_browser else None,
    )


@app.command()
@guarded
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to run: step, archs, auxk, many, harvest, line, roofline, e2e, eval, quality, memory, import."
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Alternations, whose medians count.", min=1)] = None,
    peers: Annotated[
        Path | None,
        typer.Option("--peers", help="Folder of other tools, from benchmarks/peers/set_up.py."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Results file (json) to write.")] = None,
    settings: Settings = None,
) -> None:
    """Measure the speed of this machine: training steps, harvest, evaluation; beside other tools if they are there.

    Example: `fovea bench step --rounds 5 --out step.json`
    """
    from fovea.bench.run import run_benchmarks

    changed = [*(settings or ()), *([f"rounds={rounds}"] if rounds else [])]
    run_benchmarks(names or (), settings=changed, peers=peers, out=out)


Name = Annotated[str, typer.Argument(help="Name of the study, a folder under RUN/studies.")]


@studies.command("new")
@guarded
def new_study(
    folder: Run,
    name: Name,
    arms: Annotated[
        list[str] | None, typer.Option("--arm", metavar="[NAME=]JOB,...", help="A method to compare; repeatable.")
    ] = None,
    raters: Annotated[
        list[str] | None, typer.Option("--rater", metavar="NAME[:scripted]", help="Who rates; repeatable.")
    ] = None,
    features_per_arm: Annotated[int | None, typer.Option("--per-arm", help="Features of each arm.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="All settings (toml).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the sample and its power.")] = False,
) -> None:
    """Sample features, seal which is whose, and write the protocol.

    Example: `fovea study new runs/demo first --arm ssae=ssae-batch_topk-k16-s0 --arm direct=direct-batch_topk-k40-s0
    --rater ann --rater bob`
    """
    from fovea.rating.study import create, plan
    from fovea.rating.words import config_of, made_text, plan_text

    settings = config_of(config, arms=arms, raters=raters, features_per_arm=features_per_arm)
    typer.echo(plan_text(plan(folder, settings)) if dry_run else made_text(create(folder, name, settings)))


@studies.command("status")
@guarded
def study_status(folder: Run, name: Name) -> None:
    """Say how far the raters are.

    Example: `fovea study status runs/demo first`
    """
    from fovea.rating.study import Study
    from fovea.rating.words import status_text

    typer.echo(status_text(Study.open(folder, name).status()))


@studies.command("unblind")
@guarded
def unblind_study(
    folder: Run,
    name: Name,
    force_reason: Annotated[
        str | None, typer.Option("--force", metavar="REASON", help="Before all have locked; the report says why.")
    ] = None,
) -> None:
    """Open the mapping, verify it, and write the result.

    Example: `fovea study unblind runs/demo first`
    """
    from fovea.rating.study import Study
    from fovea.rating.words import result_text

    typer.echo(result_text(Study.open(folder, name).unblind(force_reason=force_reason)))


@studies.command("export")
@guarded
def export_study(
    folder: Run, name: Name, out: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist.")]
) -> None:
    """Write all ratings as csv and json; which feature is whose, only after the unblinding.

    Example: `fovea study export runs/demo first --out ratings`
    """
    from fovea.rating.exports import export
    from fovea.rating.study import Study

    typer.echo("\n".join(str(path) for path in export(Study.open(folder, name), out)))


@studies.command("packet")
@guarded
def make_study_packet(
    folder: Run,
    name: Name,
    rater: Annotated[str, typer.Argument(help="Name of the rater.")],
    out: Annotated[Path, typer.Option("--out", help="File to write; must not exist.")],
) -> None:
    """Write one file with all that a rater may see, to rate on another machine.

    Example: `fovea study packet runs/demo first ann --out ann.packet`
    """
    from fovea.rating.packet import make_packet
    from fovea.rating.study import Study
    from fovea.rating.words import packet_text

    make_packet(Study.open(folder, name), rater, out)
    typer.echo(packet_text(name, rater, out))


@studies.command("rate")
@guarded
def rate_study_packet(
    file: Annotated[Path, typer.Argument(help="A packet that was given to you.")],
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8643,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the link in a browser.")] = False,
) -> None:
    """Rate a packet in the browser, on this machine alone.

    Example: `fovea study rate ann.packet`
    """
    from fovea.app.start import rate_packet

    rate_packet(file, port, say=typer.echo, launch=typer.launch if open_browser else None)


@studies.command("import")
@guarded
def import_study_packet(
    folder: Run, name: Name, file: Annotated[Path, typer.Argument(help="A packet that came back.")]
) -> None:
    """Append a packet's steps to the study's log; what is there already is left as it is.

    Example: `fovea study import runs/demo first ann.packet`
    """
    from fovea.rating.packet import import_packet
    from fovea.rating.study import Study
    from fovea.rating.words import imported_text

    typer.echo(imported_text(import_packet(Study.open(folder, name), file)))


def main() -> None:
    """Entry point of the command `fovea`."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the hub's client is imported, later than this
    heard = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, _as_interrupt)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as stop:
        if _signals and stop.code == 1:  # one that came between commands, for which click says "Aborted!"
            sys.exit(130)
        raise
    finally:
        for number in heard:  # another one shall not spoil the exit code
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
