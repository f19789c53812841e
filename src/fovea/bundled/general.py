"""General SAEs that ship with fovea: folders of weights, the experiment that made them, ledger and metrics."""

from importlib.resources import files
from pathlib import Path

from fovea.errors import UnknownReferenceError


def general_names() -> list[str]:
    """Names that `bundled:NAME` takes where an SAE is meant."""
    return sorted(path.name for path in _root().iterdir() if (path / "cfg.json").exists())


def general_folder(name: str) -> Path:
    """The folder of a bundled general SAE.

    Raises:
        UnknownReferenceError: there is none of that name.
    """
    if name not in general_names():
        raise UnknownReferenceError(f"bundled SAE {name!r} does not exist; there are: {', '.join(general_names())}")
    return _root() / name


def _root() -> Path:
    return Path(str(files("fovea"))) / "bundled" / "saes"
