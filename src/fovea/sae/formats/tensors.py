"""Named tensors out of safetensors and npz files, float32, with nothing believed that the file says of itself.

file --sizes, types, ratios checked first--> tensors; no object is ever rebuilt
"""

import math
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fovea.errors import SAEError

MAX_HEADER_BYTES = 2**20
"An SAE has some ten tensors; the header of each takes about a hundred bytes."

MAX_ENTRIES = 4096
"Entries of a zip file."

MAX_RATIO = 16
"Uncompressed over compressed size; weights are noise and hardly shrink, a bomb shrinks by a thousand."

FLOATS = ("F64", "F32", "F16", "BF16")
"Types of weights in a safetensors file."

_NPY_HEADER = re.compile(
    rb"\{'descr': '(?P<kind>[<>|=]?[A-Za-z]\d{0,4})', 'fortran_order': (?P<by_column>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,18},? ?){0,4})\), \}\s*"
)

_AGAIN = "download or write the SAE again"


DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)
"What zipfile and zlib raise on a damaged file."


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file as float32.

    Raises:
        SAEError: the header is implausible, the file is damaged, or a tensor is not of a float type.
    """
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
    if n_bytes < 8 or n_header > min(MAX_HEADER_BYTES, n_bytes - 8):
        raise SAEError(
            f"{path} is damaged (its header claims {n_header} bytes of {n_bytes}, at most {MAX_HEADER_BYTES} are "
            f"plausible); {_AGAIN}"
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118
                kind = file.get_slice(name).get_dtype()
                if kind not in FLOATS:
                    raise SAEError(
                        f"{path}: tensor {name!r} is of type {kind}, but weights are {', '.join(FLOATS)}; {_AGAIN}"
                    )
            return {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, RuntimeError, ValueError, OverflowError, TypeError) as error:
        raise SAEError(f"{path} is damaged ({str(error)[:200]}); write or download the SAE again") from None


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an npz file as float32, read without pickle.

    Raises:
        SAEError: it is no zip file, a bomb, or holds anything but arrays of floats.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays: dict[str, Tensor] = {}
            for info in checked_entries(archive, path):
                if not info.filename.endswith(".npy"):
                    raise SAEError(f"{path} holds {info.filename[:100]!r}, which is no array; {_AGAIN}")
                arrays[info.filename.removesuffix(".npy")] = _array(archive.read(info), info, path)
            return arrays
    except DAMAGE as error:
        raise SAEError(f"{path} is damaged ({str(error)[:200]}); {_AGAIN}") from None


def checked_entries(archive: zipfile.ZipFile, path: Path, *, max_ratio: int = MAX_RATIO) -> list[zipfile.ZipInfo]:
    """The entries of a zip file, if they are plausible together.

    Raises:
        SAEError: too many, twice the same name, encrypted, of another kind than stored or deflated, or a bomb.
    """
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES or len({each.filename for each in entries}) < len(entries):
        raise SAEError(f"{path} holds {len(entries)} entries, or one of them twice; {_AGAIN}")
    n_file = path.stat().st_size
    if sum(each.compress_size for each in entries) > n_file:
        raise SAEError(f"{path} has {n_file} bytes, but its entries claim more of them; {_AGAIN}")
    for each in entries:
        if each.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or each.flag_bits & 1:
            raise SAEError(f"{path}: entry {each.filename[:100]!r} is encrypted or packed in a rare way; {_AGAIN}")
        stored = each.compress_type == zipfile.ZIP_STORED
        if each.file_size > (each.compress_size if stored else max_ratio * each.compress_size):
            raise SAEError(
                f"{path}: entry {each.filename[:100]!r} unpacks {each.compress_size} bytes to {each.file_size}, more "
                f"than {max_ratio} times: weights do not shrink like that; do not use this file"
            )
    return entries


def _array(data: bytes, info: zipfile.ZipInfo, path: Path) -> Tensor:
    """One npy array; its header, of the exact form that numpy writes, is compared with what is there.

    numpy's own reader evaluates the header as a Python literal and allocates what it claims.
    """
    where, n = f"{path}: array {info.filename[:100]!r}", int.from_bytes(data[8:10], "little")
    header = _NPY_HEADER.fullmatch(data[10 : 10 + n]) if data[:8] == b"\x93NUMPY\x01\x00" else None
    if header is None:
        raise SAEError(f"{where} is not an array as numpy writes it (npy 1.0); {_AGAIN}")
    kind = header["kind"].decode()
    if kind.endswith("O"):
        raise SAEError(f"{where} is pickled Python objects, which are never read; save arrays of floats")
    if kind not in ("<f2", "<f4", "<f8"):
        raise SAEError(f"{where} is of type {kind!r}, but weights are floats; {_AGAIN}")
    shape, numbers = tuple(int(size) for size in header["shape"].split(b",") if size.strip()), data[10 + n :]
    if math.prod(shape) * int(kind[-1]) != len(numbers):
        raise SAEError(f"{where} claims shape {shape}, but has {len(numbers)} bytes; {_AGAIN}")
    flat = np.frombuffer(numbers, dtype=kind).astype(np.float32)
    return torch.from_numpy(flat.reshape(shape, order="F" if header["by_column"] == b"True" else "C").copy())
