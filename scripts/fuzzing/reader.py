"""What the fuzzer needs to know of one reader."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scripts.fuzzing.mutations import Changed, Files


class Reader(NamedTuple):
    """One entry point that is given files of strangers."""

    name: str
    seeds: Callable[[Path], dict[str, Files]]
    "Good folders by name, made in an empty folder: each the files of one input before it is damaged."
    read: Callable[[Path, str], object]
    "Reads the folder (second: the seed's name); anything but a FoveaError is a finding."
    share: int
    "How often its inputs are drawn, among the shares of all."
    mend: Callable[[Files, Changed], Changed] | None = None
    "Puts checksums right after a change, as whoever wants to do harm would."
    is_rewritten: bool = False
    "It writes into the folder, which is made anew for each input."


def files_of(folder: Path) -> Files:
    """The files below a folder by their relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
