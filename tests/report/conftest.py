"""One report of a run of one domain, written once for the tests that read it."""

from pathlib import Path

import pytest

from fovea.report.page import write_report
from tests.report.make_run import make_run


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of report.html of a complete run; tests must not change its folder."""
    return write_report(make_run(tmp_path_factory.mktemp("report") / "run"))
