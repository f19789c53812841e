"""What a run is made with, noted at every start and compared with what it began with (docs/crash-safety.md).

provenance.json --another lm, g or text--> refused      --another version, code, machine--> said, and the run goes on
"""

import hashlib
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fovea import __version__
from fovea.atomic import read_checked_json, write_checked_json
from fovea.errors import DamagedError, RunError
from fovea.experiment.folder import RunFolder

log = logging.getLogger("fovea")
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "datasets", "pydantic")
_KINDS = {"starts": list, "made_with": dict, "texts": dict}
_PUT_BACK = "put the old one back, or start in a new folder"


def note_start(run: RunFolder, *, command: str, fingerprints: Mapping[str, Any]) -> dict[str, Any]:
    """Write what makes this run as of this start, and add the start to those before it; what stood there before.

    A change that makes other numbers of the same kind (versions, code, machine) is logged and noted with the start: an
    upgrade may be why a run is continued. A change of what is studied is refused.

    Args:
        fingerprints: Of what the run stands on: "lm" and "general_sae".

    Raises:
        RunError: the lm, its precision or g is not what the run began with.
    """
    before = _read(run)
    for name, now in fingerprints.items():
        _refuse_change(name, before.get(name), now)
    made_with = _made_with()
    changed = _changes(before.get("made_with", {}), made_with)
    start = {
        "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command,
        "commit": made_with["commit"],
        "torch": made_with["torch"],
    }
    if changed:
        start["changed"] = "; ".join(changed)
        log.warning(
            "this run goes on with other means than those of its last start (%s); it is as good, but its bytes may "
            "differ from those of a run that was never stopped; to have the same bytes, go on with the old ones",
            "; ".join(changed),
        )
    write_checked_json(
        run.provenance,
        {
            **before,
            "fovea": __version__,
            "commit": made_with["commit"],
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in _PACKAGES},
            "machine": {
                "system": platform.system(),
                "architecture": platform.machine(),
                "processor": made_with["processor"],
                "cores": os.cpu_count(),
            },
            "made_with": made_with,
            "starts": [*before.get("starts", []), start],
            **fingerprints,
        },
    )
    return before


def note_texts(run: RunFolder, fingerprints: Mapping[str, Mapping[str, str]]) -> None:
    """Note the tokens of every split on the first start; on later ones, see that they are the same.

    Args:
        fingerprints: By corpus, then by split.

    Raises:
        RunError: a corpus is not the one that the run began with.
    """
    before = _read(run)
    known = before.get("texts", {})
    for name, now in fingerprints.items():
        for split, digest in now.items():
            was = known.get(name, {}).get(split, digest)
            if was != digest:
                raise RunError(
                    f"the {split} tokens of corpus {name!r} are not those that this run began with (fingerprint "
                    f"{was[:12]} -> {digest[:12]}); {_PUT_BACK}"
                )
    if known != fingerprints:
        write_checked_json(run.provenance, {**before, "texts": {name: dict(now) for name, now in fingerprints.items()}})


def command_line() -> str:
    """The command as typed, for provenance; the program's own path is left out."""
    return " ".join(["fovea", *sys.argv[1:]])


def _read(run: RunFolder) -> dict[str, Any]:
    """What the starts before this one noted; nothing on the first."""
    try:
        noted = read_checked_json(run.provenance)
        if wrong := [name for name, kind in _KINDS.items() if not isinstance(noted.get(name, kind()), kind)]:
            raise DamagedError(f"{run.provenance} is damaged ({wrong[0]} = {noted[wrong[0]]!r:.100})")
        return noted
    except FileNotFoundError:
        return {}
    except DamagedError as error:
        kept = run.provenance.with_name("provenance-damaged.json")
        run.provenance.replace(kept)
        log.warning("%s: kept as %s, and begun anew", error, kept.name)
        return {}


def _refuse_change(name: str, before: Any, now: Any) -> None:
    """Compare what decides numbers; a name or a path may change."""
    if not isinstance(before, dict):
        return
    what = {"lm": "the lm", "general_sae": "the general SAE"}.get(name, name)
    for key in ("fingerprint", "dtype"):
        is_now = None if now is None else now.get(key)
        if before.get(key) not in (None, is_now):
            raise RunError(
                f"{what} has changed since this run began ({key}: {str(before[key])[:20]} -> {str(is_now)[:20]}); "
                f"{_PUT_BACK}"
            )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, in words, from what to what. Commits count only if the code has changed."""
    names = [name for name in now if name in before and before[name] != now[name] and name not in ("code", "commit")]
    changed = [f"{name} {before[name]} -> {now[name]}" for name in names]
    if before.get("code", now["code"]) != now["code"]:
        changed.append(
            f"code of fovea {before['code']} (commit {before.get('commit')}) -> {now['code']} ({now['commit']})"
        )
    return changed


def _made_with() -> dict[str, Any]:
    """What may change the bytes of a run besides its settings."""
    return {
        "fovea": __version__,
        "commit": _commit(),
        "code": _code(),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "processor": _processor(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _code() -> str:
    """Hash of all of fovea's Python files: tells versions apart that carry one number, and changed checkouts."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source tree that fovea runs from, "-dirty" if changed; None when it is not a checkout."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    asked = subprocess.run(
        ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
