"""Damaged and hostile copies of files, each by its kind.

files of a good folder --mutated(rng)--> a few of them changed, gone, swapped, or links and pipes

Bytes, lengths and cuts fit any file; json, jsonl, toml, safetensors, zip, pickle, parquet, sqlite and packed files are
also taken apart, changed inside and put together again, so that what is wrong lies deeper than the checksum.
"""

import gzip
import io
import json
import random
import re
import struct
import tomllib
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import tomli_w
import zstandard
from scripts.fuzzing import tables


class Link(NamedTuple):
    """In place of a file's bytes: a symbolic link."""

    target: str


class Pipe(NamedTuple):
    """In place of a file's bytes: a FIFO, at which a reader would wait for ever."""


Content = bytes | Link | Pipe
Files = dict[str, bytes]
Changed = dict[str, Content | None]
"Name -> what is there now; None where the file is gone."

STRANGE: list[object] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), float("-inf")),
    *("", "x", "\x1b[2J", "\ud800", "topk", "none", "../../etc/passwd", "__import__('os')", "general", "lm"),
    *([], {}, [1], {"a": {"b": {}}}, "<script>alert(1)</script>", "\0", "9" * 400, "{{ 7 * 7 }}"),
]
"Values that a description may hold where another is due."

SIZES = [0, 1, 7, 8, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1]

PARTS = [
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"X\x04\x00\x00\x00true", b"\x85R", b"(lp0\n"),
    *(b"0", b"}", b"]", b")", b"(", b"R", b"b", b"s", b"u", b"Q", b"2", b"t", b"\x8e", b"\x93"),
    *(b"h\x00", b"q\x00", b"K\x00", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n"),
]
"Pieces of pickle programs."

BROKEN = (ValueError, KeyError, TypeError, OverflowError, RecursionError, struct.error, zlib.error, EOFError)
"What a file that is damaged already makes of being taken apart."


def mutated(files: Mapping[str, bytes], donors: list[Files], rng: random.Random, outside: str) -> Changed:
    """Up to three changes.

    Args:
        donors: Other good folders, whose files may stand in place of these.
        outside: A folder that no reader may look into; links lead there.
    """
    changed: Changed = {}
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        name, chance = rng.choice(sorted(files)), rng.random()
        now = changed.get(name, files[name])
        if chance < 0.06:
            donor = rng.choice(donors)
            changed[name] = donor[rng.choice(sorted(donor))]
        elif chance < 0.1 and len(files) > 1:
            changed[name] = None
        elif chance < 0.13:
            changed[name] = rng.choice([Link(f"{outside}/{name.rpartition('/')[2]}"), Link("."), Link(name), Pipe()])
        elif isinstance(now, bytes):
            changed[name] = rng.choice(_kinds(name))(now, rng)
    return changed


def _kinds(name: str) -> list[Callable[[bytes, random.Random], bytes]]:
    """The mutations that fit a file of this name, as often as they are to be drawn."""
    plain = [some_bytes, cut, grown, integer]
    suffix = name.rpartition(".")[2]
    own = _BY_SUFFIX.get(suffix, zipped)
    return plain + [own] * 6


def some_bytes(data: bytes, rng: random.Random) -> bytes:
    """Some bytes are others."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 2, 8, 64])):
        if changed:
            near_start = rng.random() < 0.6
            changed[rng.randrange(min(len(changed), 600) if near_start else len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end, or a part, is missing."""
    if rng.random() < 0.6:
        return data[: rng.randrange(len(data) + 1)]
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(64) :]


def grown(data: bytes, rng: random.Random) -> bytes:
    """A part is there twice, or noise is."""
    start = rng.randrange(len(data) + 1)
    more = data[start : start + rng.randrange(256)] if rng.random() < 0.5 else rng.randbytes(rng.randrange(64))
    return data[:start] + more * rng.choice([1, 1, 100]) + data[start:]


def integer(data: bytes, rng: random.Random) -> bytes:
    """Eight or four bytes are a number that is too small or too large."""
    start = rng.randrange(max(1, min(len(data), 400) - 8))
    size = rng.choice(SIZES)
    packed = struct.pack("<Q", size) if rng.random() < 0.5 else struct.pack("<I", size % 2**32)
    return data[:start] + packed + data[start + len(packed) :]


def described(data: bytes, rng: random.Random) -> bytes:
    """A json value, in a document or in a safetensors header, is another."""
    try:
        if data[:1] in b"{[":
            return json.dumps(other(json.loads(data), rng)).encode()
        n = struct.unpack("<Q", data[:8])[0]
        header = json.dumps(other(json.loads(data[8 : 8 + n]), rng)).encode()
        return struct.pack("<Q", len(header)) + header + data[8 + n :]
    except BROKEN:
        return some_bytes(data, rng)


def lines(data: bytes, rng: random.Random) -> bytes:
    """A value in one or all of some lines of jsonl is another."""
    every = data.splitlines()
    if not every:
        return data
    for at in rng.sample(range(len(every)), min(len(every), rng.choice([1, 1, 2, 30]))):
        every[at] = described(every[at], rng)
    return b"\n".join(every)


def toml(data: bytes, rng: random.Random) -> bytes:
    """A setting is another."""
    try:
        return tomli_w.dumps(other(tomllib.loads(data.decode()), rng)).encode()
    except (*BROKEN, AttributeError):
        deep = rng.choice([b"a = " + b"[" * 3000, b"a" + b".a" * 3000 + b" = 1", b"x = " + b"9" * 5000])
        return rng.choice([data + b"\n" + deep, some_bytes(data, rng)])


def other(value: object, rng: random.Random) -> object:
    """`value` with one place in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.92:
        key = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: other(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], other(value[at], rng), *value[at + 1 :]]
    if isinstance(value, int) and rng.random() < 0.5:
        return rng.choice([*SIZES, -1, value + 1, value * 1000])
    if rng.random() < 0.02:
        return json.loads("[" * 600 + "]" * 600)
    return rng.choice(STRANGE)


def zipped(data: bytes, rng: random.Random) -> bytes:
    """An entry of a zip is damaged, twice there, a bomb, or packed anew; a pickle in it is another program."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (*BROKEN, OSError, NotImplementedError, RuntimeError, zipfile.BadZipFile):
        return some_bytes(data, rng)
    if not entries:
        return data
    at = rng.randrange(len(entries))
    name, content = entries[at]
    how = rng.randrange(6)
    if how == 0:
        content = some_bytes(content, rng)
    elif how == 1:
        content = integer(content, rng)
    elif how == 2:
        content = bytes(rng.choice([2**12, 2**20]))
    elif how == 3:
        content = programmed(content, rng)
    elif how == 4:
        name = rng.choice(["../" + name, "/" + name, name + "\0", name.upper(), "archive/data.pkl"])
    else:
        entries.append((name, content))
    entries[at] = (name, content)
    packed = io.BytesIO()
    compression = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", compression) as archive:
        warnings.filterwarnings("ignore", "Duplicate name")  # that is the damage
        for each, inside in entries:
            archive.writestr(each, inside)
    return packed.getvalue()


def programmed(data: bytes, rng: random.Random) -> bytes:
    """A pickle with an instruction more, or another argument."""
    at = rng.randrange(len(data) + 1)
    if rng.random() < 0.3:
        found = [match.start() for match in re.finditer(rb"[KMJ]", data)]
        if found:
            at = rng.choice(found)
            return data[:at] + b"J" + struct.pack("<i", rng.choice([-1, 0, 2**31 - 1, 25, 1000])) + data[at + 2 :]
    return data[:at] + rng.choice(PARTS) + data[at:]


def unpacked(data: bytes, rng: random.Random) -> bytes:
    """A packed file whose content is changed, or much more than it seems."""
    is_zst = data[:4] == b"\x28\xb5\x2f\xfd"
    try:
        inside = zstandard.decompress(data) if is_zst else gzip.decompress(data)
    except (*BROKEN, OSError, zstandard.ZstdError):
        return some_bytes(data, rng)
    kind = tables.changed if inside[:4] == b"PAR1" else lines
    how = rng.choice([kind, kind, kind, some_bytes, cut])
    inside = how(inside, rng) * rng.choice([1, 1, 1, 2, 50])
    return zstandard.compress(inside) if is_zst else gzip.compress(inside, 1, mtime=0)


_BY_SUFFIX: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "json": described,
    "safetensors": described,
    "jsonl": lines,
    "toml": toml,
    "parquet": tables.changed,
    "sqlite": tables.database,
    "gz": unpacked,
    "zst": unpacked,
    "txt": grown,
    "md": grown,
}
