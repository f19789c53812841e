"""A package index in a folder: real wheels, the real pip client, no network."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fovea.bundled.fetch import Package

_METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: nowhere-to-be-found\n"
"With a dependency that no index has: fetching it would fail every test."

PublishWheel = Callable[[str, str, Mapping[str, bytes]], Package]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, not yet made."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FOVEA_CACHE", str(folder))
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip looks for packages in, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def publish(index: Path) -> PublishWheel:
    """Put a wheel with the given files into the index; returns its pin."""

    def publish_wheel(name: str, version: str, members: Mapping[str, bytes]) -> Package:
        stem = name.replace("-", "_")
        path = index / f"{stem}-{version}-py3-none-any.whl"
        about = f"{stem}-{version}.dist-info"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
            archive.writestr(f"{about}/METADATA", _METADATA.format(name=name, version=version))
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{about}/RECORD", "")
        return Package(name, version, hashlib.sha256(path.read_bytes()).hexdigest())

    return publish_wheel
