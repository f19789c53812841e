"""What other libraries make of our exports -> tests/golden/formats/written.json, for the table in docs/formats.md.

    PYTHONPATH=src:. python tests/golden/make_written.py saelens | sparsify | dictionary_learning

In an environment with fovea and that library. tests/sae/formats/test_writers.py holds the same, where one is installed.
"""

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path

from tests.sae.cases import rows
from tests.sae.formats.test_writers import WRITTEN, made

from fovea.sae.files import SAEMetadata
from fovea.sae.formats.writers import write_sae

OUTPUT = Path(__file__).with_name("formats") / "written.json"
PACKAGES = {"saelens": "sae-lens", "sparsify": "eai-sparsify", "dictionary_learning": "dictionary-learning"}


def main(layout: str) -> None:
    """Write the differences of one layout."""
    known = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for number, (_, name, bias) in enumerate(each for each in WRITTEN if each[0] == layout):
            folder = Path(place) / str(number)
            check = write_sae(made(name, bias), folder, layout=layout, metadata=SAEMetadata(), probe_x=rows(seed=21))
            assert check.library is not None, f"{layout} is not installed"
            found[f"{name}/{bias}"] = {"n_flips": check.n_flips, "x_hat": float(f"{check.max_relative_error:.2g}")}
    known[layout] = {"version": importlib.metadata.version(PACKAGES[layout]), "cases": found}
    OUTPUT.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
