"""Corpora, experiment files, references: what a user points fovea at."""

import gzip
import io
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from scripts.fuzzing.mutations import Files
from scripts.fuzzing.reader import Reader

from fovea.config import load_toml
from fovea.data.corpus import CorpusReader
from fovea.experiment.config import override, resolve
from fovea.lm.hookpoint import HookPoint
from fovea.sae.files import load_sae

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["One cell.", "Two\u2028lines and a caf\u00e9.", "", "Three \U0001f9ec genes.", "\0 \ufffd", "x" * 300]
MAX_DOCUMENTS = 500


def corpora(folder: Path) -> dict[str, Files]:  # noqa: ARG001
    """One file of each format, plain and packed."""
    rows = "".join(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(TEXTS)).encode()
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": TEXTS * 20, "n": list(range(len(TEXTS) * 20))}), sink)
    plain = {"jsonl": rows, "parquet": sink.getvalue(), "txt": "\n".join(TEXTS).encode(), "md": b"# Title\n\nBody.\n"}
    codecs = {"": bytes, ".gz": lambda data: gzip.compress(data, mtime=0), ".zst": zstandard.compress}
    found: dict[str, Files] = {}
    for (name, data), (suffix, pack) in itertools.product(plain.items(), codecs.items()):
        found[f"{name}{suffix}"] = {f"a.{name}{suffix}": pack(data), "b/c.txt": b"another"}
    return found


def read_corpus(folder: Path, seed: str) -> None:  # noqa: ARG001
    """Read some documents of it, and what decides them."""
    reader = CorpusReader(str(folder))
    for _ in itertools.islice(reader, MAX_DOCUMENTS):
        pass
    reader.content()


def experiments(folder: Path) -> dict[str, Files]:  # noqa: ARG001
    """The experiment files that come with fovea."""
    paths = [*ROOT.glob("experiments/*.toml"), *ROOT.glob("src/fovea/experiments/*.toml")]
    return {path.name: {"my.toml": path.read_bytes()} for path in sorted(paths)}


def read_experiment(folder: Path, seed: str) -> None:  # noqa: ARG001
    """Resolve it, with a setting changed; a link that the user names is followed."""
    if (folder / "my.toml").is_symlink():
        return
    table = load_toml(folder / "my.toml")
    override(table, "train.n_tokens=1000")
    resolve(table, where="my.toml")


NAMES = [
    *("hf:owner/repo/layers.3/sub", "saelens:release/id", "bundled:nothing", "sparsify:hf:owner/repo/x", "./no/such"),
    *("blocks.14.hook_resid_post", "model.layers.12", "transformer.h.3.attn", "gpt_neox.layers.2.mlp", "14-res-jb"),
    *("hf:../../etc/passwd", "hf:a/b/../../c", "openai:no/such.pt", "~root/x", "hf:a/b/\0"),
]


def names(folder: Path) -> dict[str, Files]:  # noqa: ARG001
    """References and hook points, several in a file."""
    return {"names": {"names.md": "\n".join(NAMES).encode()}}


def read_names(folder: Path, seed: str) -> None:  # noqa: ARG001
    """Resolve each line; every one is refused, or is a hook point."""
    from fovea.errors import FoveaError

    path = folder / "names.md"
    if not path.is_file() or path.is_symlink():
        return
    for line in path.read_bytes().decode("utf-8", "surrogateescape").splitlines():
        if Path(line.rpartition(":")[2]).exists():
            continue  # who names a file of this machine may have it read
        for use in (HookPoint.parse, load_sae):
            try:
                use(line)
            except FoveaError as error:
                str(error).encode("utf-8", "backslashreplace")


CORPORA = Reader("corpus", corpora, read_corpus, share=50)
EXPERIMENTS = Reader("experiment", experiments, read_experiment, share=16)
NAMED = Reader("reference", names, read_names, share=2)
