"""The command line under torchrun itself: a rank is killed, a job is told to stop, and either goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fovea.experiment.config import resolve
from tests.experiment.test_ranks import assert_same_results, codes, tables
from tests.experiment.test_resume import result_hash

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Torchrun:
    """`torchrun -m fovea run ...` in the background."""

    def __init__(self, n_ranks: int, said: Path, *arguments: str) -> None:
        self.said = said
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(n_ranks), "-m", "fovea"]
        with said.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *launcher, *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )

    def ranks(self) -> list[int]:
        """Process ids of the ranks, in their order."""
        parent = self.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return sorted(int(child) for child in children if "fovea" in Path(f"/proc/{child}/cmdline").read_text())

    def when_saved(self, out: Path) -> None:
        """Return when there is a checkpoint."""
        deadline = time.monotonic() + 300
        while not list(out.glob("checkpoints/*/step-*")):
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.01)

    def wait(self) -> int:
        """Exit code of torchrun."""
        return self.process.wait(timeout=300)

    def messages(self) -> list[str]:
        """What fovea told the user."""
        return re.findall(r"fovea: .*", self.said.read_text())


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[Path, Path]:
    """The experiment file and a run of it on two ranks that nothing disturbed."""
    folder = tmp_path_factory.mktemp("torchrun")
    path = folder / "experiment.toml"
    path.write_text(resolve(tables(folder), where="test").to_toml())
    assert codes(2, "run", str(path), "--out", str(folder / "two")) == [0, 0]
    return path, folder / "two"


def test_a_rank_killed_under_torchrun_stops_the_job_with_one_message_and_resume_goes_on(straight, tmp_path):
    path, two = straight
    arguments = ("run", str(path), "--out", str(tmp_path / "run"))
    job = Torchrun(2, tmp_path / "said", *arguments)
    job.when_saved(tmp_path / "run")
    os.kill(job.ranks()[1], signal.SIGKILL)
    assert job.wait() != 0
    (message,) = job.messages() or [job.said.read_text()]
    assert "lost another rank during" in message
    assert "--resume" in message
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    again = Torchrun(2, tmp_path / "again", *arguments, "--resume")
    assert again.wait() == 0, again.said.read_text()
    assert result_hash(tmp_path / "run") == result_hash(two)


def test_a_job_told_to_stop_under_torchrun_saves_and_goes_on_with_one_rank(straight, tmp_path):
    path, two = straight
    arguments = ("run", str(path), "--out", str(tmp_path / "run"))
    job = Torchrun(2, tmp_path / "said", *arguments)
    job.when_saved(tmp_path / "run")
    job.process.send_signal(signal.SIGTERM)
    assert job.wait() != 0
    assert job.messages()
    assert all("interrupted; nothing finished is lost" in message for message in job.messages())
    assert list((tmp_path / "run").glob("checkpoints/*/step-*"))
    assert codes(1, *arguments, "--resume") == [0]
    assert_same_results(tmp_path / "run", two)
