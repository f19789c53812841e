"""Text that the owner types, through the lm and every SAE of the run: which latents fire on which token.

The lm and the SAEs are loaded by the first text and kept; one text at a time.
"""

import threading
from pathlib import Path
from typing import Any

from fovea.errors import RunError


class Prompter:
    """Answers texts for one run."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._lock = threading.Lock()

    def answer(self, text: str) -> dict[str, Any]:
        """Tokens and, per SAE and token, the largest activations."""
        raise RunError("not yet")
