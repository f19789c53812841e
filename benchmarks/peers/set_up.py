"""One environment a peer, pinned, torch first: benchmarks never share an interpreter with the tools they time.

python benchmarks/peers/set_up.py [FOLDER] [--only NAME] [--use NAME=PYTHON]

FOLDER defaults to the cache folder. `--use` takes an environment that is there already. What comes out is
FOLDER/peers.json: each peer's interpreter, worker script and versions, for `fovea bench --peers FOLDER`.
"""

import argparse
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH = "torch==2.13.0"
PEERS = {
    "sae-lens": ("sae_lens", ["sae-lens==6.54.12"]),
    "dictionary-learning": ("dictionary_learning", ["dictionary-learning==0.1.0"]),
    "sparsify": ("sparsify", ["eai-sparsify==1.3.3"]),
    "overcomplete": ("overcomplete", ["overcomplete==0.3.0"]),
}
_VERSIONS = (
    "import importlib.metadata as m, json; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
)
_TOLD = ("torch", "transformers", "numpy", "sae-lens", "dictionary-learning", "eai-sparsify", "overcomplete", "nnsight")


def default_folder() -> Path:
    """A folder beside fovea's cache."""
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "fovea" / "peers"


def main() -> None:
    """Make what is missing, then write peers.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=default_folder())
    parser.add_argument("--only", action="append", choices=sorted(PEERS), help="set up only this one; repeatable")
    parser.add_argument("--use", action="append", default=[], metavar="NAME=PYTHON", help="take this interpreter")
    options = parser.parse_args()
    given = dict(entry.split("=", 1) for entry in options.use)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "peers.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in options.only or PEERS:
        python = Path(given[name]) if name in given else install(options.folder / name, name)
        worker = HERE / f"{PEERS[name][0]}_worker.py"
        versions = json.loads(subprocess.check_output([python, "-c", _VERSIONS], text=True))
        told = {package: versions[package] for package in _TOLD if package in versions}
        found[name] = {"python": str(python.absolute()), "worker": str(worker), "versions": told}
        print(f"{name}: {told}")
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(f"wrote {path}")


def install(folder: Path, name: str) -> Path:
    """The interpreter of a peer's environment, installed unless it is there."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = folder / "complete"
    if done.exists():
        return python
    print(f"{name}: installing into {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # torch first and by itself: a CPU build that pip was told of is then kept, whatever the peer asks for.
    subprocess.run([*pip, TORCH], check=True)
    constraints = HERE / f"constraints-{name}.txt"
    subprocess.run([*pip, "--constraint", constraints, *PEERS[name][1]], check=True)
    if subprocess.run([python, "-c", "import torchvision"], capture_output=True, check=False).returncode:
        # A torchvision built for another torch breaks the import of transformers; no peer trains with it.
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True)
    done.touch()
    return python


if __name__ == "__main__":
    main()
