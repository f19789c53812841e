"""Writes tests/golden/flags.json and api.json: the command line and the public interface as they are now.

Run it through `make flags` when a change is meant.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.api import interface  # noqa: E402
from tests.flags import command_flags  # noqa: E402


def freeze(name: str, value: Any) -> None:
    """Write one golden file."""
    path = ROOT / "tests" / "golden" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    freeze("flags.json", command_flags())
    freeze("api.json", interface())
