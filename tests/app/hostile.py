"""Text that would do harm if any place took it for more than text, and a run that is full of it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from fovea.features.files import Paths
from tests.features.made import make

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "\"' onmouseover=alert(1) x='",
    "javascript:alert(1)",
    "<!-- ]]> <style>*{display:none}</style>",
    "{{7*7}}${7*7}",
    "&lt;b&gt; &amp; &#x3c;",
    "\u202egnp.exe\u2066\u2069",
    "\0\u0007\u001b[31m",
    "\u2028\u2029\ufeff\u200b\u00ad",
    "=SUM(A1)",
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "__proto__",
    "A" * 1_000_000,
)
HOSTILE_JOB = "<img src=x onerror=alert(1)>"
METHOD_JOBS = ("ssae-batch_topk-k16-s0", "direct-batch_topk-k16-s0")
TITLE = "</title><script>alert(1)</script>"


def _keep_the_longest_in_one_context(run: Path) -> None:
    """A megabyte at each of a thousand places would test patience."""
    longest = 3 + 2 + len(HOSTILE) - 1
    for corpus in ("words", "general"):
        path = Paths.of(run).contexts(corpus)
        tensors = load_file(path)
        rest = tensors["tokens"][1:]
        rest[rest == longest] = 3
        tensors["tokens"][0, :2] = longest
        save_file(tensors, path)


def make_hostile(folder: Path) -> Path:
    """A run whose tokens, name, a job and documents are hostile."""
    jobs = {"g": 40, **dict.fromkeys(METHOD_JOBS, 32), HOSTILE_JOB: 8}
    run = make(folder, jobs=jobs, words=("cell", "river", *HOSTILE))
    (run / "experiment.toml").write_text(f"name = {json.dumps(TITLE)}\n")
    _keep_the_longest_in_one_context(run)
    for path in (run / "features").glob("contexts-*.json"):
        ids = json.loads(path.read_text())["document_ids"]
        ids[::2] = [HOSTILE[i % (len(HOSTILE) - 1)] for i in range(len(ids[::2]))]
        path.write_text(json.dumps({"document_ids": ids}))
    assert pq.read_metadata(run / "features" / "g" / "links.parquet").num_rows == 40
    return run
