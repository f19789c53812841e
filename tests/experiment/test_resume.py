"""kill -9 at random moments, then --resume: the same bytes of weights and metrics as a run that was never stopped.

The commands run in children of one process that has imported fovea, so that 20 kills do not cost 20 imports.
"""

import hashlib
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fovea.experiment.config import resolve
from tests.experiment.tiny import experiment

N_KILLS = 20

_NURSERY = """
import os, sys
sys.modules["vl_convert"] = None  # as without the report extra: the kills shall fall into training and measuring
import fovea.cli, fovea.experiment.run, fovea.report.page, fovea.report.summary
import transformers.models.llama.modeling_llama, transformers.models.auto, datasets
while line := sys.stdin.readline():
    child = os.fork()
    if child == 0:
        sys.argv = ["fovea", *line.split("\\t")]
        sys.argv[-1] = sys.argv[-1].rstrip("\\n")
        os.dup2(2, 1)
        try:
            fovea.cli.main()
        except SystemExit as stop:
            os._exit(stop.code or 0)
        os._exit(0)
    print("started", child, flush=True)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    print("ended", flush=True)
    sys.stdin.readline()  # only now may the process id be given to another process
    _, status = os.waitpid(child, 0)
    print("code", os.waitstatus_to_exitcode(status), flush=True)
"""


class Nursery:
    """Runs fovea commands in forked children."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, *arguments: str) -> int:
        """Start a command; its process id."""
        self._say("\t".join(arguments))
        return int(self._hear("started"))

    def ends_within(self, seconds: float) -> bool:
        """Whether the command that runs ends in so many seconds."""
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def wait(self) -> int:
        """Exit code of the command that runs; minus the signal if one killed it."""
        self._hear("ended")
        self._say("")
        return int(self._hear("code"))

    def _say(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _hear(self, word: str) -> str:
        said, _, rest = self.process.stdout.readline().rstrip("\n").partition(" ")
        assert said == word, f"the nursery said {said!r} and not {word!r}"
        return rest


@pytest.fixture(scope="module")
def nursery():
    found = Nursery()
    yield found
    found.process.stdin.close()
    found.process.wait()
    found.process.stdout.close()


def result_hash(run: Path) -> str:
    """One hash over all weights and the metrics file."""
    digest = hashlib.sha256((run / "metrics.jsonl").read_bytes())
    for path in sorted((run / "saes").glob("*/*.safetensors")):
        digest.update(path.relative_to(run).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def straight(nursery, tmp_path_factory) -> tuple[Path, str, float]:
    """The experiment file, the hash of an uninterrupted run and the seconds it took."""
    folder = tmp_path_factory.mktemp("resume")
    path = folder / "experiment.toml"
    tables = experiment(folder)
    tables["job"] = [
        {"method": {"kind": "direct"}, "sae": {"kind": "batch_topk", "expansion": 2, "k": 4}},
        {"method": {"kind": "ssae", "silence": 0.25}, "sae": {"kind": "batch_topk", "expansion": 2, "k": 2}},
    ]
    tables["train"].update(n_tokens=3200, checkpoint_seconds=0.05)
    path.write_text(resolve(tables, where="test").to_toml())
    for name in ("first", "straight"):  # the first one also waits for the imports
        began = time.monotonic()
        nursery.start("run", str(path), "--out", str(folder / name))
        assert nursery.wait() == 0
    return path, result_hash(folder / "straight"), time.monotonic() - began


@pytest.mark.slow
def test_twenty_kills_at_random_moments_lead_to_one_final_hash(nursery, straight, tmp_path):
    path, wanted, seconds = straight
    draw = random.Random(0)
    kills = 0
    attempt = 0
    while kills < N_KILLS:
        out = tmp_path / f"run-{attempt}"
        attempt += 1
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            child = nursery.start("run", str(path), "--out", str(out), "--resume")
            if not nursery.ends_within(draw.uniform(0.02, 1.1) * seconds):
                os.kill(child, signal.SIGKILL)
            code = nursery.wait()
            kills += code == -signal.SIGKILL
        assert code == 0
        assert result_hash(out) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_exits_130_and_resumes_to_the_same_bytes(nursery, straight, tmp_path, number):
    path, wanted, _ = straight
    out = tmp_path / "run"
    child = nursery.start("run", str(path), "--out", str(out))
    while not list(out.glob("checkpoints/*/step-*")) and not (out / "metrics.jsonl").exists():
        time.sleep(0.01)
    os.kill(child, number)
    assert nursery.wait() == 130
    nursery.start("run", str(path), "--out", str(out), "--resume")
    assert nursery.wait() == 0
    assert result_hash(out) == wanted
