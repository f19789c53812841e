"""Fuzz the parsers of bytes that fovea wrote itself, led by the lines that an input reaches (atheris).

    pip install atheris==2.3.0
    python scripts/fuzz_guided.py safetensors --n 200000 [--corpus FOLDER]

    golden files --atheris: changed, kept where a new line of fovea is reached--> file --parser--> value or FoveaError

A finding is any other exception, an allocation of more than 1 GiB or 30 seconds; libFuzzer then writes the input into
the working folder. What was kept lies in --corpus, from which the next run goes on. `fuzz_readers.py` changes whole
folders and watches what a reader opens; this one goes deeper into a single file.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]
os.environ["HF_HUB_OFFLINE"] = "1"

import atheris  # noqa: E402
import torch  # noqa: E402, F401  (before fovea is instrumented, so that torch is not)

with atheris.instrument_imports(include=["fovea"]):
    from fovea.config import load_toml
    from fovea.data.readers import read_file
    from fovea.errors import FoveaError
    from fovea.sae.formats.guard import read_json
    from fovea.sae.formats.pickled import read_pickled
    from fovea.sae.formats.tensors import read_npz, read_safetensors

GOLDEN = ROOT / "tests" / "golden" / "formats"
Parser = Callable[[Path], object]
PARSERS: dict[str, tuple[str, Parser]] = {
    "safetensors": (".safetensors", read_safetensors),
    "npz": (".npz", read_npz),
    "pickle": (".pt", read_pickled),
    "json": (".json", read_json),
    "jsonl": (".jsonl", lambda path: list(read_file(path, text_field="text"))),
    "toml": (".toml", load_toml),
}
"Name -> suffix of its files, function."


def good_files(suffix: str) -> list[bytes]:
    """Files of that kind that are read: golden SAEs, experiments, or one made here."""
    found = [path.read_bytes() for path in sorted(GOLDEN.rglob(f"*{suffix}"))]
    found += [path.read_bytes() for path in sorted((ROOT / "experiments").glob(f"*{suffix}"))]
    return found or [b'{"text": "one", "n": [1, 2]}\n{"text": "\\u00e4\\n"}\n{"text": null}\n']


def main() -> None:
    """Run one parser on `--n` inputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parser", choices=sorted(PARSERS))
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--corpus", type=Path, default=None, help="where inputs are kept; a temporary folder if missing"
    )
    options = parser.parse_args()
    suffix, parse = PARSERS[options.parser]
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    place = Path(tempfile.mkdtemp(dir=memory))
    corpus = options.corpus or place / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(good_files(suffix)):
        (corpus / f"good-{number}").write_bytes(data)
    path = place / f"input{suffix}"

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            parse(path)
        except FoveaError as error:
            str(error).encode()

    limits = ["-rss_limit_mb=3072", "-malloc_limit_mb=1024", "-timeout=30", "-max_len=65536"]
    atheris.Setup([sys.argv[0], f"-runs={options.n}", f"-seed={options.seed}", *limits, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
