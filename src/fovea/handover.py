"""The verbs of the command line that hand a run's SAEs and features to others: export, push, pull."""

from pathlib import Path
from typing import Annotated

import typer

from fovea.guarded import guarded

verbs = typer.Typer()

Run = Annotated[Path, typer.Argument(help="Run folder.")]
Job = Annotated[str, typer.Argument(help="Job name, a folder under RUN/saes.")]
Stack = Annotated[bool, typer.Option("--stack", help="Write g and the job as one exact SAE.")]


@verbs.command()
@guarded
def export(
    folder: Run,
    job: Job,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist.")],
    layout: Annotated[
        str,
        typer.Option(
            "--format",
            help="SAE: saelens, sparsify or dictionary_learning. Features: neuronpedia or saedashboard.",
        ),
    ] = "saelens",
    stack: Stack = False,
) -> None:
    """Hand one SAE of a run, or its features, to other tools, verified as it is written.

    Example: `fovea export runs/demo ssae-batch_topk-k16-s0 --stack --out exported`
    """
    from fovea.experiment.export import export_any

    typer.echo(export_any(folder, job, out, layout=layout, stack=stack))


@verbs.command()
@guarded
def push(
    folder: Run,
    job: Job,
    target: Annotated[str, typer.Argument(help="hf:OWNER/REPO or hf:OWNER/REPO/PATH.")],
    stack: Stack = False,
    license_: Annotated[
        str | None, typer.Option("--license", help="Licence of the weights, as the Hub spells it: apache-2.0, ...")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private, if it is new.")] = False,
    to: Annotated[
        Path | None, typer.Option("--to", help="Only write what would be uploaded to this new folder.")
    ] = None,
) -> None:
    """Upload one SAE of a run to the Hugging Face Hub, with a card that says how good it is; never data of a corpus.

    Example: `fovea push runs/demo ssae-batch_topk-k16-s0 hf:me/saes/biology --stack --license apache-2.0 --to out`
    """
    from fovea.experiment import publish

    what = publish.Publication(job, publish.Place.parse(target), stack, license_, private)
    typer.echo(publish.push(folder, what) if to is None else publish.dry_run(folder, what, to))


@verbs.command()
@guarded
def pull(
    reference: Annotated[str, typer.Argument(help="hf:OWNER/REPO or hf:OWNER/REPO/PATH.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist.")],
) -> None:
    """Download one SAE from the Hugging Face Hub, in any layout that fovea reads.

    Example: `fovea pull hf:me/saes/biology --out biology`
    """
    from fovea.experiment import publish

    typer.echo(publish.pull(reference, out))
