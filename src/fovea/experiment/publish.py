"""An SAE of a run as a repository of the Hugging Face Hub, and back.

RUN, JOB --export, checked--> FOLDER: the SAE, its card, its metrics --upload in one commit--> hf:OWNER/REPO[/PATH]
hf:OWNER/REPO[/PATH] --download, read--> FOLDER

What is uploaded holds weights, settings and numbers: no text, no activations and no folder names of this machine.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (  # HTTPError is that of whichever httpx the hub uses
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id

from fovea.atomic import new_folder, write_json, write_text
from fovea.errors import ConfigError, RunError, UnknownReferenceError
from fovea.eval.records import read_metrics, write_metrics
from fovea.experiment.card import LOCAL, Subject, card, public_name
from fovea.experiment.export import export_job, find_job
from fovea.experiment.folder import RunFolder
from fovea.sae.files import CFG, LoadedSAE, load_sae
from fovea.sae.formats.writers import PROBE
from fovea.sae.references import fetched
from fovea.sae.show import describe


class Place(NamedTuple):
    """A folder of a repository."""

    repository: str
    path: str
    "Empty for its root."

    @classmethod
    def parse(cls, target: str) -> "Place":
        """hf:OWNER/REPO[/PATH].

        Raises:
            ConfigError: it is something else.
        """
        scheme, _, rest = target.partition(":")
        parts = rest.split("/")
        if scheme != "hf" or len(parts) < 2 or not all(parts) or any(part in (".", "..") for part in parts):
            raise ConfigError(
                f"target {target!r} does not name a repository; write hf:OWNER/REPO or hf:OWNER/REPO/PATH"
            )
        repository = "/".join(parts[:2])
        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            raise ConfigError(f"target {target!r}: {error}") from None
        return cls(repository, "/".join(parts[2:]))

    def __str__(self) -> str:
        return f"hf:{self.repository}" + (f"/{self.path}" if self.path else "")


class Publication(NamedTuple):
    """What to upload and how."""

    job: str
    place: Place
    stack: bool = False
    license: str | None = None
    "Of the weights, as the Hub spells it (apache-2.0, cc-by-4.0)."
    private: bool = False


def write_repository(run: Path, what: Publication, out: Path) -> str:
    """Write to `out`, which must not exist, what would be uploaded; returns what was checked.

    Raises:
        RunError, ConfigError: as `export_job`.
        SAEError: what was written does not compute what the run's SAE does; then there is no folder.
    """
    if out.exists():
        raise RunError(f"--to {str(out)!r} exists; give a new folder")
    with new_folder(out) as temporary:
        place = temporary / "sae"
        told = export_job(run, what.job, place, stack=what.stack).replace(str(place), str(what.place))
        (place / PROBE).unlink()  # activations of the corpus stay here
        for file in place.iterdir():
            file.rename(temporary / file.name)
        place.rmdir()
        _write_words(RunFolder(run), what, temporary)
    return told


def push(run: Path, what: Publication) -> str:
    """Upload one SAE in one commit, making the repository if it is not there; returns what was done.

    Raises:
        RunError: no token, no network, or the Hub refuses.
        The rest as `write_repository`.
    """
    if get_token() is None:
        raise RunError(
            "pushing needs a token of the Hugging Face Hub with the right to write, and there is none; run `hf auth "
            "login` or set HF_TOKEN, or write the same files with --to FOLDER"
        )
    with tempfile.TemporaryDirectory() as folder:
        told = write_repository(run, what, Path(folder) / "repository")
        try:
            api = HfApi()
            api.create_repo(what.place.repository, private=what.private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=what.place.repository,
                folder_path=Path(folder) / "repository",
                path_in_repo=what.place.path or None,
                commit_message=f"Add {what.job}" + (" stacked on g" if what.stack else ""),
            )
        except OfflineModeIsEnabled:
            raise RunError("HF_HUB_OFFLINE is set, so nothing is pushed; unset it, or use --to FOLDER") from None
        except HfHubHTTPError as error:
            raise RunError(f"the Hub refuses {str(what.place)!r}: {_first_line(error)}; {_advice(error)}") from None
        except (HTTPError, OSError) as error:
            raise RunError(
                f"the Hub cannot be reached ({_first_line(error)}); nothing was pushed. Try again, or use --to FOLDER"
            ) from None
    return f"{told}\npushed to {what.place}, commit {commit.oid[:12]}{_without_license(what)}"


def dry_run(run: Path, what: Publication, out: Path) -> str:
    """`write_repository`, with a list of the files."""
    told = write_repository(run, what, out)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    listed = "\n".join(f"  {path.relative_to(out)}  {path.stat().st_size:,} bytes" for path in files)
    return f"{told}\nnothing was pushed; {out} holds what {what.place} would get:\n{listed}{_without_license(what)}"


def pull(reference: str, out: Path) -> str:
    """Copy an SAE of the Hub to `out`, which must not exist, once it is read without a fault; returns what it is.

    Raises:
        RunError: `out` exists.
        UnknownReferenceError: the reference does not resolve.
        SAEError: what it resolves to cannot be used.
    """
    place = Place.parse(reference)
    if out.exists():
        raise RunError(f"--out {str(out)!r} exists; give a new folder")
    source = fetched(str(place).removeprefix("hf:"))
    load_sae(reference)
    if not source.is_dir():
        raise UnknownReferenceError(f"{reference!r} is a file; give the folder that holds it")
    with new_folder(out) as temporary:
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            copy = temporary / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    return describe(str(out))


def _write_words(run: RunFolder, what: Publication, folder: Path) -> None:
    """The card, the metrics of the job and of what it is compared with, and cfg.json without folder names."""
    loaded = _without_folders(folder)
    subject = Subject(
        run, run.config(), what.job, find_job(run, what.job)[0], loaded, what.stack, what.license, str(what.place)
    )
    write_text(folder / "README.md", card(subject))
    if run.metrics.exists():
        compared = (what.job, "g", "lm")
        records = [record for record in read_metrics(run.metrics) if record.job in compared]
        write_metrics(folder / "metrics.jsonl", [r for r in records if r.domain in (None, subject.domain)])


def _without_folders(folder: Path) -> LoadedSAE:
    """The SAE in `folder`, whose cfg.json names its lm by nothing that only this machine knows."""
    cfg: dict[str, Any] = json.loads((folder / CFG).read_text())
    named = cfg["metadata"].get("model_name")
    if named is not None:
        cfg["metadata"]["model_name"] = public_name(named).removesuffix(LOCAL)
        write_json(folder / CFG, cfg)
    return load_sae(folder)


def _without_license(what: Publication) -> str:
    if what.license is not None:
        return ""
    return "\nno licence: the card says that you have not said one; give it with --license apache-2.0 or another"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _advice(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    return {
        401: "log in with `hf auth login` or set HF_TOKEN to a token with the right to write",
        403: "the token has no right to write there; choose another owner or token",
        404: "there is no such owner or repository for this token",
        429: "too many requests; wait and run the command again",
    }.get(status, "run the command again, or use --to FOLDER and upload it yourself")
