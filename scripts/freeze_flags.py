"""Writes tests/golden/flags.json: the command line as it is now. Run it through `make flags` when a change is meant."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.flags import command_flags  # noqa: E402

path = ROOT / "tests" / "golden" / "flags.json"
path.parent.mkdir(exist_ok=True)
path.write_text(json.dumps(command_flags(), indent=2) + "\n")
print(f"wrote {path.relative_to(ROOT)}")
