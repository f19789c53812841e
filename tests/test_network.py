"""Nothing leaves the machine: not at import, not for --help, not in a whole run on local files; no telemetry."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiment import tiny
from tests.house import ROOT, trees
from tests.network import NetworkError

ONLINE = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"}
"Switches that would hide a call to the hub: children run without them."


def guarded(code: str, *arguments: str, folder: Path | None = None) -> str:
    """What a fresh process prints that runs `code` under the guard, with the hub's offline switches off."""
    environment = {name: value for name, value in os.environ.items() if name not in ONLINE}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    code = f"from tests.network import refuse; refuse()\n{code}"
    command = [sys.executable, "-c", code, *arguments]
    run = subprocess.run(command, check=False, env=environment, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_tests_cannot_reach_the_network() -> None:
    with pytest.raises(NetworkError, match="getaddrinfo"):
        socket.getaddrinfo("huggingface.co", 443)
    with socket.socket() as stream, pytest.raises(NetworkError, match="connect"):
        stream.connect(("192.0.2.1", 80))
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, pytest.raises(NetworkError, match="sendto"):
        datagrams.sendto(b"x", ("192.0.2.1", 9))


def test_tests_can_reach_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


@pytest.mark.slow
def test_importing_every_module_reaches_for_nothing() -> None:
    needing_extras = {"fovea.triton_source", "fovea.saelens"}
    modules = sorted(trees().keys() - {"fovea.__main__"} - needing_extras)
    told = guarded(f"import importlib\nfor name in {modules!r}: importlib.import_module(name)\nprint('imported')")
    assert told.split() == ["imported"]


RUN_AND_USE = """
import sys
import fovea
from fovea.cli import main
for arguments in (
    ["run", "tiny.toml", "--out", "run"],
    ["features", "run", "--force"],
    ["report", "run"],
    ["show", "run/saes/direct-batch_topk-k4-s0"],
    ["export", "run", "direct-batch_topk-k4-s0", "--out", "exported"],
):
    sys.argv = ["fovea", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, (arguments, stop.code)
lm = fovea.load_lm("lm")
print(fovea.encode_text(lm, fovea.load_sae("exported"), "w3 w4 w5").latents.shape)
"""


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on local files, made and used under the guard."""
    from fovea.experiment.config import resolve

    folder = tmp_path_factory.mktemp("offline")
    tables = tiny.experiment(folder, controls=False)
    tables["domain"][0]["corpus"] = f"hf:{_as_dataset(folder)}#train"
    tables["train"]["n_tokens"] = 1280
    (folder / "tiny.toml").write_text(resolve(tables, where="test").to_toml())
    assert "torch.Size" in guarded(RUN_AND_USE, folder=folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_local_files_reaches_for_nothing(used: Path) -> None:
    assert (used / "exported" / "sae_weights.safetensors").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_folder_holds_what_its_page_says(used: Path) -> None:
    page = (ROOT / "docs" / "reference" / "run-folder.md").read_text()
    named = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    assert len(named) > 10
    assert not [name for name in named if not list((used / "run").glob(name))]
    first = {name.partition("/")[0] for name in named} | {".lock", "checkpoints", "activations", "figures"}
    unknown = {path.name for path in (used / "run").iterdir()} - first
    assert not unknown, f"docs/reference/run-folder.md does not tell what they are: {unknown}"


def _as_dataset(folder: Path) -> Path:
    """A local folder that `datasets` reads, so that the run passes through it."""
    data = folder / "dataset"
    data.mkdir()
    (data / "train.jsonl").write_text((folder / "domain.jsonl").read_text())
    return data


TELEMETRY = """
import os, sys
from fovea.cli import main
sys.argv = ["fovea", "--help"]
try:
    main()
except SystemExit:
    pass
from huggingface_hub import constants
print(constants.HF_HUB_DISABLE_TELEMETRY)
"""


@pytest.mark.slow
def test_the_program_asks_the_hub_client_to_send_no_telemetry() -> None:
    assert guarded(TELEMETRY).split()[-1] == "True"
