"""The table in docs/formats.md says what is so: every case, no flips, differences as stated."""

from runpy import run_path

import pytest

from tests.house import ROOT
from tests.sae.formats.golden import FOLDER, READ, difference
from tests.sae.formats.test_writers import WRITTEN

PAGE = (ROOT / "docs" / "formats.md").read_text()
SCRIPT = run_path(str(ROOT / "scripts" / "write_formats_page.py"))
CELLS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition(SCRIPT["BEGIN"])[2].splitlines()
    if line.startswith("| ") and not line.startswith("| library")
]


def test_every_golden_sae_and_every_export_is_in_the_table_once() -> None:
    read = sorted(f"{cells[0]}/{cells[2]}" for cells in CELLS if cells[3] == "read")
    assert read == sorted(READ)
    written = sorted((cells[0], *cells[2].split(", pre-bias ")) for cells in CELLS if cells[3] == "write")
    assert written == sorted(WRITTEN)
    assert (FOLDER / "written.json").exists()


def test_no_latent_flips_in_any_cell() -> None:
    assert CELLS
    assert {cells[5] for cells in CELLS} == {"0"}
    assert max(float(cells[6]) for cells in CELLS) < 2e-6


@pytest.mark.parametrize("cells", [cells for cells in CELLS if cells[3] == "read"], ids=lambda cells: cells[2])
def test_the_stated_difference_is_the_measured_one(cells: list[str]) -> None:
    found = difference(f"{cells[0]}/{cells[2]}")
    # another processor sums in another order: the last bits may differ
    assert max(found.latents, found.x_hat) <= max(4 * float(cells[6]), 5e-7), "run `make docs`"
