"""Feed the readers of SAE files damaged and hostile inputs: they must refuse with a clear error, or read.

    python scripts/fuzz_readers.py --n 1000000 [--seed 0] [--keep tests/golden/fuzz.jsonl]

golden SAEs (tests/golden/formats) --mutated: bytes, lengths, headers, json values, pickle programs, zips, files-->
    load_sae --> an SAE, or SAEError / UnknownReferenceError

A finding is any other exception, memory above 1 GiB, a file opened for writing, a process, or an import that a reader
asked for. Every input follows from the seed and its number. With --keep, one input of each kind of outcome (message
without names and numbers) is kept, which is a small corpus that tests/sae/formats/test_hostile.py replays.
"""

import argparse
import base64
import io
import json
import random
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch

from fovea.errors import SAEError, UnknownReferenceError
from fovea.sae.files import load_sae
from fovea.sae.formats.tensors import DAMAGE

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "formats"
MAX_GROWTH_BYTES = 2**30
MAX_CORPUS_BYTES = 150_000
MAX_TRIES = 50
"Inputs per kind of outcome that are looked at for the smallest."

STRANGE: list[object] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), float("-inf")),
    *("", "x", "\x1b[2J", "\ud800", "topk", "none", "../../etc/passwd", "__import__('os')"),
    *([], {}, [1], {"a": {"b": {}}}),
]
"Values that a description may hold where another is due."

SIZES = [0, 1, 7, 8, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1]

Files = dict[str, bytes]


def seeds() -> dict[str, Files]:
    """One golden SAE of every kind: name -> the files of its folder."""
    found: dict[str, Files] = {}
    for truth in sorted(GOLDEN.glob("*/*/truth.safetensors")):
        paths = [path for path in truth.parent.rglob("*") if path.is_file() and path != truth]
        weights = max(paths, key=lambda path: path.stat().st_size)
        folder = weights.parent.parent if weights.parent.name == "checkpoints" else weights.parent
        found[str(truth.parent.relative_to(GOLDEN))] = {
            str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_relative_to(folder)
        }
    return found


def mutated(files: Files, everything: list[Files], rng: random.Random) -> Files:
    """A damaged or hostile copy."""
    files = dict(files)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        name, chance = rng.choice(sorted(files)), rng.random()
        if chance < 0.1:
            donor = rng.choice(everything)
            files[name] = donor[rng.choice(sorted(donor))]
        elif chance < 0.15 and len(files) > 1:
            del files[name]
        else:
            files[name] = rng.choice(MUTATIONS)(files[name], rng)
    return files


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Some bytes are others."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 2, 8, 64])):
        if changed:
            near_start = rng.random() < 0.6
            changed[rng.randrange(min(len(changed), 600) if near_start else len(changed))] = rng.randrange(256)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    """The end, or a part, is missing."""
    if rng.random() < 0.6:
        return data[: rng.randrange(len(data) + 1)]
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(64) :]


def _grown(data: bytes, rng: random.Random) -> bytes:
    """A part is there twice, or noise is."""
    start = rng.randrange(len(data) + 1)
    more = data[start : start + rng.randrange(256)] if rng.random() < 0.5 else rng.randbytes(rng.randrange(64))
    return data[:start] + more * rng.choice([1, 1, 100]) + data[start:]


def _integer(data: bytes, rng: random.Random) -> bytes:
    """Eight or four bytes are a number that is too small or too large."""
    start = rng.randrange(max(1, min(len(data), 400) - 8))
    size = rng.choice(SIZES)
    packed = struct.pack("<Q", size) if rng.random() < 0.5 else struct.pack("<I", size % 2**32)
    return data[:start] + packed + data[start + len(packed) :]


def _described(data: bytes, rng: random.Random) -> bytes:
    """A json value, in a description or in a safetensors header, is another."""
    try:
        if data[:1] == b"{":
            return json.dumps(_other(json.loads(data), rng)).encode()
        n = struct.unpack("<Q", data[:8])[0]
        header = json.dumps(_other(json.loads(data[8 : 8 + n]), rng)).encode()
        return struct.pack("<Q", len(header)) + header + data[8 + n :]
    except (ValueError, struct.error, RecursionError):
        return _bytes(data, rng)


def _other(value: object, rng: random.Random) -> object:
    """`value` with one place in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.92:
        key = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _other(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _other(value[at], rng), *value[at + 1 :]]
    if isinstance(value, int) and rng.random() < 0.5:
        return rng.choice([*SIZES, -1, value + 1, value * 1000])
    if rng.random() < 0.02:
        return json.loads("[" * 600 + "]" * 600)
    return rng.choice(STRANGE)


def _zipped(data: bytes, rng: random.Random) -> bytes:
    """An entry of a zip is damaged, twice there, a bomb, or packed anew; a pickle in it is another program."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (*DAMAGE, OSError):
        return _bytes(data, rng)
    if not entries:
        return data
    at = rng.randrange(len(entries))
    name, content = entries[at]
    how = rng.randrange(6)
    if how == 0:
        content = _bytes(content, rng)
    elif how == 1:
        content = _integer(content, rng)
    elif how == 2:
        content = bytes(rng.choice([2**12, 2**20]))
    elif how == 3:
        content = _programmed(content, rng)
    elif how == 4:
        name = rng.choice(["../" + name, "/" + name, name + "\0", name.upper(), "archive/data.pkl"])
    else:
        entries.append((name, content))
    entries[at] = (name, content)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for each, inside in entries:
            archive.writestr(each, inside)
    return packed.getvalue()


PARTS = [
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"X\x04\x00\x00\x00true", b"\x85R", b"(lp0\n"),
    *(b"0", b"}", b"]", b")", b"(", b"R", b"b", b"s", b"u", b"Q", b"2", b"t", b"\x8e", b"\x93"),
    *(b"h\x00", b"q\x00", b"K\x00", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n"),
]
"Pieces of pickle programs."


def _programmed(data: bytes, rng: random.Random) -> bytes:
    """A pickle with an instruction more, or another argument."""
    at = rng.randrange(len(data) + 1)
    if rng.random() < 0.3:
        found = [match.start() for match in re.finditer(rb"[KMJ]", data)]
        if found:
            at = rng.choice(found)
            return data[:at] + b"J" + struct.pack("<i", rng.choice([-1, 0, 2**31 - 1, 25, 1000])) + data[at + 2 :]
    return data[:at] + rng.choice(PARTS) + data[at:]


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    *(_bytes, _cut, _grown, _integer),
    *(_described, _described, _described),
    *(_zipped, _zipped, _zipped),
]


def outcome(folder: Path, files: Files, only_file: bool) -> str:
    """What reading these files comes to; anything but the two errors goes up."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    place = folder / next(iter(files)) if only_file else folder
    try:
        sae = load_sae(place).sae
        with torch.no_grad():
            sae(torch.ones(2, sae.d_in))
        return "read"
    except (SAEError, UnknownReferenceError) as error:
        text = str(error).replace(str(folder), "F")
        return (
            type(error).__name__ + ": " + re.sub(r"'[^']*'|\([^)]*\)|[-\d.e+]*\d[-\d.e+]*|\[[^]]*\]", "_", text)[:120]
        )


def watch(folder: Path, allowed: Path | None) -> None:
    """Stop at once when a reader writes outside its folder, starts a process, or unpickles."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        forbidden = event.startswith(("subprocess.", "os.system", "os.exec", "os.fork", "pickle.", "socket."))
        writes = event == "open" and isinstance(arguments[1], str) and bool(set("wax+") & set(arguments[1]))
        outside = writes and not str(arguments[0]).startswith(str(folder.parent)) and arguments[0] != str(allowed)
        if forbidden or outside:
            raise AssertionError(f"a reader did {event} {arguments[:2]}")

    sys.addaudithook(hook)


def packed(name: str, found: str, files: Files) -> str:
    """An input as a line of the corpus."""
    small = {each: base64.b64encode(zlib.compress(data, 9)).decode() for each, data in files.items()}
    return json.dumps({"from": name, "outcome": found, "files": small}) + "\n"


def corpus(kept: dict[str, str]) -> list[str]:
    """The smallest inputs, one of each kind, together at most MAX_CORPUS_BYTES."""
    lines: list[str] = []
    for line in sorted(kept.values(), key=len):
        if sum(map(len, lines)) + len(line) > MAX_CORPUS_BYTES:
            break
        lines.append(line)
    return lines


def main() -> None:
    """Run, report, and keep what is new."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None)
    options = parser.parse_args()
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="Duplicate name")  # zipfile, when an input is made
    torch.set_num_threads(1)
    known = seeds()
    everything = [known[name] for name in sorted(known)]
    kept: dict[str, str] = {}
    "Outcome -> the smallest input that came to it, as a line of the corpus."
    counts: dict[str, int] = {}
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as place:
        folder = Path(place) / "sae"
        for name in sorted(known):
            outcome(folder, known[name], name.startswith("openai"))
        start, before = time.perf_counter(), _memory()
        watch(folder, options.keep)
        for number in range(options.n):
            rng = random.Random(f"{options.seed}/{number}")
            name = rng.choice(sorted(known))
            files = mutated(known[name], everything, rng)
            try:
                found = outcome(folder, files, name.startswith("openai"))
            except Exception:
                print(f"FINDING: seed {options.seed}, input {number}, from {name}, {len(files)} files", flush=True)
                raise
            counts[found] = counts.get(found, 0) + 1
            if counts[found] <= MAX_TRIES:
                kept[found] = min(kept.get(found, packed(name, found, files)), packed(name, found, files), key=len)
            if _memory() - before > MAX_GROWTH_BYTES:
                raise SystemExit(f"FINDING: memory grew by {_memory() - before} bytes at input {number}")
            if (number + 1) % 50_000 == 0:
                print(
                    f"{number + 1} inputs, {len(counts)} kinds of outcome, {time.perf_counter() - start:.0f} s",
                    flush=True,
                )
        if options.keep is not None:
            options.keep.write_text("".join(corpus(kept)))
    read = counts.get("read", 0)
    print(
        f"{options.n} inputs, seed {options.seed}: {read} read, {options.n - read} refused in {len(counts)} ways, "
        "0 findings; "
        f"memory grew by {(_memory() - before) / 2**20:.0f} MiB at most; {time.perf_counter() - start:.0f} s"
    )


def _memory() -> int:
    """Peak resident memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
