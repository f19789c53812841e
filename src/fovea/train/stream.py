"""Batches of activations for all jobs: domain rows, general rows where a job wants them, and g(x) once.

    MixingBuffer(domain)  --\
                             >-- x, is_domain --> g(x), once --> Batch
    MixingBuffer(general) --/
"""

from typing import Any

import torch

from fovea.data.shuffle import MixingBuffer
from fovea.methods.base import Batch
from fovea.sae.frozen import FrozenSAE


class Stream:
    """An endless source of batches; its state is two buffers."""

    def __init__(
        self,
        domain: MixingBuffer,
        general: MixingBuffer | None,
        frozen: FrozenSAE | None,
        *,
        n_domain: int,
        n_general: int,
    ) -> None:
        assert general is not None or n_general == 0, "general rows need a general buffer"
        self.domain, self.general, self.frozen = domain, general, frozen
        self.n_domain, self.n_general = n_domain, n_general

    def next(self) -> Batch:
        """The next rows, in fp32."""
        parts = [self.domain.next_batch(self.n_domain).x]
        if self.general is not None and self.n_general:
            parts.append(self.general.next_batch(self.n_general).x)
        x = torch.cat(parts) if len(parts) > 1 else parts[0]
        is_domain = torch.zeros(len(x), dtype=torch.bool)
        is_domain[: self.n_domain] = True
        # Part by part: the rounding of g(x) must not depend on which other rows are in the batch.
        x_general = None if self.frozen is None else torch.cat([self.frozen.reconstruct(part) for part in parts])
        return Batch(x, x_general, is_domain)

    def state_dict(self) -> dict[str, Any]:
        """Both buffers: tensors, numbers and lists."""
        state = {f"domain.{name}": value for name, value in self.domain.state_dict().items()}
        if self.general is not None:
            state |= {f"general.{name}": value for name, value in self.general.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.domain.load_state_dict(_under("domain.", state))
        if self.general is not None:
            self.general.load_state_dict(_under("general.", state))


def _under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
