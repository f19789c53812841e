"""The C kernels as a loaded library, compiled where they run: once for each processor, compiler and torch.

    native.c --(cc -O3 -march=native, against torch's own OpenMP)--> CACHE/native/KEY-SHA256.so --(checked)--> ctypes

No compiler, another system, a folder that cannot be written, a file that is not what its name says: None, and the torch
path stands. FOVEA_NATIVE=0 asks for that. The file is complete or absent, so processes may build side by side.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

from fovea.bundled.cache import cache_folder, sha256_of

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-strict-aliasing", "-fno-trapping-math")
"Without the last, choices between floats are not made eight at a time. None changes a result."
COMPILE_SECONDS = 120
"A compiler that takes longer is given up on; two seconds are usual."

_log = logging.getLogger(__name__)


@cache
def library() -> ctypes.CDLL | None:
    """The kernels; None where they cannot be had, which is logged once."""
    if os.environ.get("FOVEA_NATIVE") == "0":
        return None
    try:
        return build(cache_folder() / "native")
    except (OSError, subprocess.SubprocessError, _CannotBuildError) as error:
        _log.info("training steps take the torch path, which is slower: %s", error)
        return None


class _CannotBuildError(Exception):
    """Something that the kernels need is missing."""


def build(folder: Path) -> ctypes.CDLL:
    """The kernels from `folder`, compiled into it if they are not there yet.

    Raises:
        OSError: the folder cannot be written, or the library not be loaded.
        _CannotBuildError: no compiler, no OpenMP of torch, or a system that is not Linux.
        SubprocessError: the compiler failed.
    """
    compiler = shutil.which(os.environ.get("CC") or "cc")
    openmp = _openmp_of_torch()
    if compiler is None:
        raise _CannotBuildError("no C compiler `cc` on the PATH")
    key = _key(compiler, openmp)
    for path in folder.glob(f"{key}-*.so"):
        if _is_sound(path):
            return ctypes.CDLL(str(path))
    return ctypes.CDLL(str(_compiled(folder, key, compiler=compiler, openmp=openmp)))


def _compiled(folder: Path, key: str, *, compiler: str, openmp: Path) -> Path:
    """A new library, under a name that its own bytes give."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as building:
        unlinked, linked = (str(Path(building) / name) for name in ("native.o", "native.so"))
        # Linked apart and without -fopenmp: a second OpenMP beside torch's would fight with it over the processor.
        for command in (
            [compiler, *FLAGS, "-c", str(SOURCE), "-o", unlinked],
            [compiler, "-shared", unlinked, str(openmp), "-lm", "-o", linked],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)
        path = folder / f"{key}-{sha256_of(Path(linked))}.so"
        os.replace(linked, path)
    return path


def _is_sound(path: Path) -> bool:
    """True if the file holds the bytes that its name promises and nobody else can have put it there."""
    owner = path.stat().st_uid
    return owner in (os.getuid(), 0) and path.stem.rpartition("-")[2] == sha256_of(path)


def _openmp_of_torch() -> Path:
    """The OpenMP runtime that torch has loaded into this process."""
    if not sys.platform.startswith("linux"):
        raise _CannotBuildError(f"the kernels are built on Linux alone, not on {sys.platform}")
    mapped = {Path(line.split(maxsplit=5)[5].rstrip("\n")) for line in _maps() if line.count("/")}
    runtimes = [path for path in mapped if path.name.startswith(("libgomp", "libiomp5", "libomp"))]
    own = Path(torch.__file__).parent
    found = sorted(runtimes, key=lambda path: (not path.is_relative_to(own), path))
    if not found:
        raise _CannotBuildError("torch runs without OpenMP")
    return found[0]


def _maps() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def _key(compiler: str, openmp: Path) -> str:
    """What a library depends on: source, flags, compiler, OpenMP and processor."""
    known = os.stat(compiler)
    facts = [SOURCE.read_text(), *FLAGS, os.path.realpath(compiler), known.st_size, known.st_mtime_ns, openmp]
    return hashlib.sha256(repr([*facts, platform.machine(), _processor()]).encode()).hexdigest()[:16]


def _processor() -> list[str]:
    """Its model and what it can do, as Linux tells."""
    named = ("model name", "flags", "Features", "CPU part")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return sorted({line for line in lines if line.startswith(named)})
