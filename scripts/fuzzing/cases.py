"""One input: made from its number, put on the disk, read, and what came of it."""

import base64
import json
import os
import random
import re
import shutil
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from scripts.fuzzing.mutations import Changed, Content, Files, Link, Pipe, mutated
from scripts.fuzzing.reader import Reader
from scripts.fuzzing.watch import Watch

from fovea.errors import FoveaError

_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|\([^)]*\)|[-\d.e+,]*\d[-\d.e+,]*|\[[^]]*\]|\{[^}]*\}")


class Case(NamedTuple):
    """A seed and what is changed in it."""

    reader: Reader
    seed: str
    changed: Changed


class Bench:
    """The good folders of every reader, and a place where one input at a time is put together.

    Args:
        place: An empty folder, in memory if possible.
        outside: Where hostile links lead.
    """

    def __init__(self, readers: tuple[Reader, ...], place: Path, outside: Path) -> None:
        self.readers, self.place, self.outside = readers, place, outside
        self.seeds: dict[str, dict[str, Files]] = {}
        for reader in readers:
            made = place / "seeds" / reader.name
            made.mkdir(parents=True)
            self.seeds[reader.name] = reader.seeds(made)
            for seed, files in self.seeds[reader.name].items():
                self._write_all(self.folder(reader, seed), files)
                for name, data in files.items():
                    (outside / name.rpartition("/")[2]).write_bytes(data)
        self._shares = [reader.share for reader in readers]

    def folder(self, reader: Reader, seed: str) -> Path:
        """Where the input of a seed lies."""
        return self.place / "cases" / reader.name / seed.replace("/", "-")

    def case(self, seed: int, number: int) -> Case:
        """The input of that number."""
        rng = random.Random(f"{seed}/{number}")
        reader = rng.choices(self.readers, self._shares)[0]
        known = self.seeds[reader.name]
        name = rng.choice(sorted(known))
        changed = mutated(known[name], [known[each] for each in sorted(known)], rng, str(self.outside))
        if reader.mend is not None and rng.random() < 0.9:
            changed = reader.mend(known[name], changed)
        return Case(reader, name, changed)

    def outcome(self, case: Case, watch: Watch | None = None) -> str:
        """What reading it comes to; anything but a FoveaError goes up."""
        folder, good = self.folder(case.reader, case.seed), self.seeds[case.reader.name][case.seed]
        for name, content in case.changed.items():
            _put(folder / name, content)
        try:
            with nullcontext() if watch is None else watch:
                case.reader.read(folder, case.seed)
            return f"{case.reader.name}: read"
        except FoveaError as error:
            text = str(error)
            text.encode()
            text = text.replace(str(folder), "F").replace(str(self.place), "P")
            return f"{case.reader.name}: {type(error).__name__}: " + _VALUES.sub("_", text)[:120]
        finally:
            if case.reader.is_rewritten:
                self._write_all(folder, good)
            else:
                for name in case.changed:
                    _put(folder / name, good.get(name))

    def restore(self, reader: Reader, seed: str) -> None:
        """Make the seed's folder good again."""
        self._write_all(self.folder(reader, seed), self.seeds[reader.name][seed])

    def _write_all(self, folder: Path, files: Files) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _put(path: Path, content: Content | None) -> None:
    """Put something at `path`, whatever is there."""
    path.unlink(missing_ok=True)
    match content:
        case Link(target):
            path.symlink_to(target)
        case Pipe():
            os.mkfifo(path)
        case bytes():
            path.write_bytes(content)
        case None:
            pass


def packed(case: Case, outcome: str) -> str:
    """An input as a line of the corpus: only what is changed in the seed."""
    shown: dict[str, object] = {}
    for name, content in case.changed.items():
        match content:
            case Link(target):
                shown[name] = {"link": f"@{target.rpartition('/')[2]}" if target.startswith("/") else target}
            case Pipe():
                shown[name] = {"pipe": True}
            case bytes():
                shown[name] = base64.b64encode(zlib.compress(content, 9)).decode()
            case None:
                shown[name] = None
    told = {"reader": case.reader.name, "seed": case.seed, "outcome": outcome, "changed": shown}
    return json.dumps(told) + "\n"


def unpacked(line: str, readers: tuple[Reader, ...], outside: Path) -> tuple[Case, str]:
    """The input of a line of the corpus, and the outcome that it had."""
    told = json.loads(line)
    changed: Changed = {}
    for name, content in told["changed"].items():
        match content:
            case {"link": target}:
                changed[name] = Link(f"{outside}/{target[1:]}" if target.startswith("@") else target)
            case {"pipe": _}:
                changed[name] = Pipe()
            case str():
                changed[name] = zlib.decompress(base64.b64decode(content))
            case _:
                changed[name] = None
    (reader,) = (each for each in readers if each.name == told["reader"])
    return Case(reader, told["seed"], changed), told["outcome"]
