"""scripts/set_up.sh, as far as it goes without a network: what it says when it cannot begin, and when it need not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import ROOT

pytestmark = pytest.mark.slow

NOTHING_TO_FIND = "--no-index --isolated no-such-package-of-fovea"
SCRIPT = ROOT / "scripts" / "set_up.sh"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("")
    return tmp_path


def set_up(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(
        ["sh", str(SCRIPT), "report"], check=False, cwd=folder, env=environment, capture_output=True, text=True
    )


def test_a_python_that_is_not_there_is_named(project: Path) -> None:
    done = set_up(project, PYTHON="python9.9")
    assert done.returncode == 1
    assert "PYTHON=python9.9 is not a program" in done.stderr
    assert not (project / ".venv").exists()


def test_an_old_python_is_refused(project: Path) -> None:
    old = project / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = set_up(project, PYTHON=str(old))
    assert done.returncode == 1
    assert "fovea needs 3.11 or newer" in done.stderr


def test_a_folder_without_the_project_is_refused(tmp_path: Path) -> None:
    done = set_up(tmp_path)
    assert done.returncode == 1
    assert "run it from the folder that holds pyproject.toml" in done.stderr


def test_what_cannot_be_installed_is_said_and_nothing_is_called_ready(project: Path) -> None:
    put_environment(project)
    done = set_up(project, TORCH=NOTHING_TO_FIND)
    assert done.returncode == 1
    assert "run the same command again" in done.stderr
    assert not (project / ".venv" / ".ready").exists()
    assert not (project / ".venv" / ".installing").exists()


def test_a_ready_environment_is_left_alone_until_the_pins_change(project: Path) -> None:
    put_environment(project)
    command = "cat pyproject.toml constraints.txt | cksum"
    checksum = subprocess.run(command, check=True, shell=True, cwd=project, capture_output=True, text=True).stdout
    (project / ".venv" / ".ready").write_text(f"{project.resolve()}\nany\ntorch==2.13.0\n{checksum}report,dev\n")
    done = set_up(project)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (project / "constraints.txt").write_text("numpy==0\n")
    assert "fovea sets itself up" in set_up(project, TORCH=NOTHING_TO_FIND).stdout


def put_environment(project: Path) -> None:
    """A .venv whose python is the one that runs the tests, pip included."""
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
