"""Writes the table in docs/formats.md: every golden SAE and every export against the library itself. `make docs` "
"runs it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.sae.formats.golden import FOLDER, READ, difference, load  # noqa: E402

PAGE = ROOT / "docs" / "formats.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
HEAD = """
| library | version | SAE | direction | here | flipped latents | largest difference |
|---|---|---|---|---|---|---|
"""


class Row(NamedTuple):
    """One cell of format x architecture x direction."""

    library: str
    version: str
    name: str
    direction: str
    here: str
    n_flips: int
    difference: float

    def __str__(self) -> str:
        cells = (
            self.library,
            self.version,
            self.name,
            self.direction,
            self.here,
            self.n_flips,
            f"{self.difference:.0e}",
        )
        return "| " + " | ".join(map(str, cells)) + " |\n"


def rows() -> Iterator[Row]:
    """All rows; reading is measured now, writing was measured where the libraries are (written.json)."""
    versions = json.loads((FOLDER / "versions.json").read_text())
    for case in READ:
        library, _, name = case.partition("/")
        found = difference(case)
        largest = max(found.latents, found.x_hat)
        here = load(case).sae.file_architecture
        yield Row(library, versions[library]["version"], name, "read", here, found.n_flips, largest)
    for layout, made in json.loads((FOLDER / "written.json").read_text()).items():
        for name, found in made["cases"].items():
            architecture, _, bias = name.partition("/")
            said = f"{architecture}, pre-bias {bias}"
            yield Row(layout, made["version"], said, "write", architecture, found["n_flips"], found["x_hat"])


def page(text: str) -> str:
    """The page with its table written anew."""
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return before + BEGIN + HEAD + "".join(map(str, rows())) + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
