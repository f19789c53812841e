"""Text that the owner types, through the lm and every SAE of the run: which latents fire on which token.

The lm and the SAEs are loaded by the first text and kept; texts that come meanwhile wait their turn.
"""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fovea.app.payload import cut

if TYPE_CHECKING:
    from fovea.features.prompt import Prompt


class Prompter:
    """Answers texts for one run."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._loading = threading.Lock()

    def answer(self, text: str) -> dict[str, Any]:
        """Tokens, whether each counts, and per SAE and token the latents that fire, strongest first, as json.

        Raises:
            ConfigError: the text is empty or too long.
            RunError: the run's evidence is stale.
        """
        with self._loading:
            # Here, because it brings torch and transformers, seconds that a look at the features does not need.
            from fovea.features.prompt import fire

            return _payload(fire(self._run, text))


def _payload(prompt: "Prompt") -> dict[str, Any]:
    return {
        "texts": [cut(token.text) for token in prompt.tokens],
        "ids": [token.token_id for token in prompt.tokens],
        "kept": [token.counted for token in prompt.tokens],
        "jobs": [
            {
                "job": firings.job,
                "fired": [[[each.latent, float(f"{each.activation:.4g}")] for each in at] for at in firings.tokens],
            }
            for firings in prompt.jobs
        ],
    }
