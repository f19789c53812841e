"""The activations that every tool trains on, in one order: batches of a mapped file, over and over."""

import torch
from safetensors import safe_open


class Rows:
    """x [rows d_in], scaled to unit variance, in batches; after the last whole batch, the first again."""

    def __init__(self, path: str, batch_size: int, device: str = "cpu") -> None:
        with safe_open(path, framework="pt", device=device) as file:
            self.x: torch.Tensor = file.get_tensor("x")
        self.batch_size, self._next = batch_size, 0

    @property
    def d_in(self) -> int:
        """Width of a row."""
        return self.x.shape[1]

    def batch(self) -> torch.Tensor:
        """The next batch_size rows."""
        start = self._next
        self._next = start + self.batch_size
        if self._next + self.batch_size > len(self.x):
            self._next = 0
        return self.x[start : start + self.batch_size]
