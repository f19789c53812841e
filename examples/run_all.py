"""Run every example against the released package, each in an environment with pinned versions.

    python examples/run_all.py [--run RUN] [--environments FOLDER] [--only EXAMPLE] [--lock]

    small.toml --fovea run--> RUN --each example, on the jobs it is for--> what it prints, OK or FAILED

Two environments, each made once: torch first, then the packages as constraints-NAME.txt pins them. In `older` are
those whose pins exclude fovea's own (numpy below 2, datasets below 4, transformers below 4.57); fovea is installed
beside them without its dependencies: what the examples need of it, SAEs and files, runs with older versions too.
"""

import argparse
import os
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TORCH = "torch==2.13.0"
TOPK, BATCH_TOPK, SSAE = "direct-topk-k32-s0", "direct-batch_topk-k32-s0", "ssae-batch_topk-k16-s0"
"The jobs of small.toml."


class Environment(NamedTuple):
    """Packages that fit together, and the examples that run with them."""

    packages: tuple[str, ...]
    alone: tuple[str, ...]
    "Packages installed without what they ask for, which does not fit or needs a GPU; what is used is in `packages`."
    examples: dict[str, tuple[str, ...]]
    "Example -> the jobs that it is run on."


_DELPHI_LOADER = ("faiss-cpu", "sentence-transformers", "asyncer", "blobfile", "orjson", "aiofiles")

ENVIRONMENTS = {
    "current": Environment(
        packages=("sae-lens==6.54.12", "nnsight==0.8.1", "eai-sparsify==1.3.3", "circuitsvis", *_DELPHI_LOADER),
        # delphi asks for vllm and bitsandbytes, dictionary-learning for nnsight below 0.4 and umap-learn.
        alone=("eai-delphi==0.1.3", "dictionary-learning==0.1.0"),
        examples={
            "plain_hooks": (BATCH_TOPK, SSAE),
            "nnsight_patch": (BATCH_TOPK, SSAE),
            "sae_lens_load": (TOPK, BATCH_TOPK, SSAE),
            "sparsify_load": (TOPK,),
            "dictionary_learning_load": (TOPK, BATCH_TOPK, SSAE),
            "delphi_cache": (BATCH_TOPK, SSAE),
        },
    ),
    "older": Environment(
        packages=("sae-lens==6.54.12", "sae-bench==0.6.0", "sae-probes==0.4.2", "sae-dashboard==0.8.0", "tomli-w"),
        alone=("fovea",),
        examples={
            "saebench_core": (BATCH_TOPK, SSAE),
            "sae_probes_task": (BATCH_TOPK, SSAE),
            "sae_dashboard_page": (BATCH_TOPK, SSAE),
        },
    ),
}
EXAMPLES = {name: environment for environment, made in ENVIRONMENTS.items() for name in made.examples}
"Example -> its environment."


def default_folder() -> Path:
    """A folder beside fovea's cache."""
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "fovea" / "examples"


def main() -> int:
    """Make what is missing, run the examples; 0 when all passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "examples", help="a run of small.toml")
    parser.add_argument("--environments", type=Path, default=default_folder(), help="where they are kept")
    parser.add_argument("--only", action="append", choices=sorted(EXAMPLES), help="run this one; repeatable")
    parser.add_argument("--lock", action="store_true", help="write what was installed to constraints-NAME.txt")
    options = parser.parse_args()
    out = options.run.with_name(f"{options.run.name}-handed-over-{time.strftime('%Y%m%d-%H%M%S')}")
    make_run(options.run)
    failed = []
    for name in options.only or EXAMPLES:
        python = install(options.environments / EXAMPLES[name], EXAMPLES[name], lock=options.lock)
        for job in ENVIRONMENTS[EXAMPLES[name]].examples[name]:
            print(f"\n== {name}.py {job}", flush=True)
            command = [python, HERE / f"{name}.py", options.run, job, out / name / job]
            status = subprocess.run(command, env=offline(), check=False).returncode
            print("OK" if status == 0 else f"FAILED with status {status}", flush=True)
            failed += [f"{name} {job}"] if status else []
    print(f"\n{len(failed)} failed{': ' if failed else ''}{', '.join(failed)}; written to {out}")
    return 1 if failed else 0


def make_run(folder: Path) -> None:
    """Train small.toml into `folder`, or go on where that was stopped; nothing where it is finished."""
    if not (folder / "metrics.jsonl").exists():
        resumed = ["--resume"] if folder.exists() else []
        subprocess.run(
            [sys.executable, "-m", "fovea", "run", HERE / "small.toml", "--out", folder, *resumed], check=True
        )


def install(folder: Path, name: str, *, lock: bool) -> Path:
    """The interpreter of an environment, made unless it is there."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wanted, done = ENVIRONMENTS[name], folder / "complete"
    if not done.exists():
        print(f"{name}: installing into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        constraints = HERE / f"constraints-{name}.txt"
        pinned = ["--constraint", constraints] if constraints.exists() else []
        # torch first and by itself: a CPU build that pip was told of is then kept, whatever a package asks for.
        subprocess.run([*pip, TORCH], check=True)
        ours = [] if "fovea" in wanted.alone else ["--editable", ROOT]
        subprocess.run([*pip, *pinned, *wanted.packages, *ours], check=True)
        for package in wanted.alone:
            which = ["--editable", ROOT] if package == "fovea" else [package]
            subprocess.run([*pip, "--no-deps", *which], check=True)
        if subprocess.run([python, "-c", "import torchvision"], capture_output=True, check=False).returncode:
            # A torchvision built for another torch breaks the import of transformers; no example needs it.
            subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True)
        done.touch()
    if lock:
        frozen = subprocess.check_output([python, "-m", "pip", "freeze", "--exclude-editable"], text=True)
        pins = [line.replace("+cpu", "") for line in frozen.splitlines() if "==" in line]
        (HERE / f"constraints-{name}.txt").write_text("\n".join(pins) + "\n")
    return python


def offline() -> dict[str, str]:
    """The environment variables of an example: nothing is fetched, and no progress bar is drawn."""
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    return {**os.environ, **quiet}


if __name__ == "__main__":
    sys.exit(main())
