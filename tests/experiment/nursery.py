"""fovea commands in forked children of one process that has imported fovea: many kills do not cost many imports."""

import hashlib
import os
import select
import subprocess
import sys
from pathlib import Path

_NURSERY = """
import os, signal, sys
import fovea.cli, fovea.experiment.run, fovea.experiment.general, fovea.report.page, fovea.report.summary
import transformers.models.llama.modeling_llama, transformers.models.auto, datasets
while line := sys.stdin.readline():
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts behind itself
        log, draws, *words = line.rstrip("\\n").split("\\t")
        if not draws:
            sys.modules["vl_convert"] = None  # as without the report extra
        if log:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(output, 2)
        os.dup2(2, 1)
        sys.argv = ["fovea", *words]
        try:
            fovea.cli.main()
        except SystemExit as stop:
            os._exit(stop.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    print("started", child, flush=True)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    print("ended", flush=True)
    sys.stdin.readline()  # only now may the process id be given to another process
    _, status = os.waitpid(child, 0)
    print("code", os.waitstatus_to_exitcode(status), flush=True)
"""


class Nursery:
    """Runs fovea commands in forked children, one at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, *arguments: str, log: Path | None = None, draws: bool = False) -> int:
        """Start a command; its process id.

        Args:
            log: What it prints is appended here; without, it comes out.
            draws: Whether it can draw figures, which takes longer than all else of a tiny run.
        """
        self._say("\t".join([str(log or ""), "draws" if draws else "", *arguments]))
        return int(self._hear("started"))

    def ends_within(self, seconds: float) -> bool:
        """Whether the command that runs ends in so many seconds."""
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def wait(self) -> int:
        """Exit code of the command that runs; minus the signal if one killed it."""
        self._hear("ended")
        self._say("")
        return int(self._hear("code"))

    def run(self, *arguments: str, log: Path | None = None, draws: bool = False) -> int:
        """Exit code of a command, once it has ended."""
        self.start(*arguments, log=log, draws=draws)
        return self.wait()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _say(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _hear(self, word: str) -> str:
        said, _, rest = self.process.stdout.readline().rstrip("\n").partition(" ")
        assert said == word, f"the nursery said {said!r} and not {word!r}"
        return rest


def result_hash(run: Path) -> str:
    """One hash over all weights and the metrics file."""
    digest = hashlib.sha256((run / "metrics.jsonl").read_bytes())
    for path in sorted((run / "saes").glob("*/*.safetensors")):
        digest.update(path.relative_to(run).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
