"""Random tensors for the ops' input generators: drawn on the host, so that every device sees the same values."""

from __future__ import annotations

import torch


class Values:
    """Draws tensors of one element type for one device from one seed."""

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int) -> None:
        self.dtype = dtype
        self.device = device
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> torch.Tensor:
        """Return normally distributed values in the element type."""
        drawn = torch.randn(*shape, generator=self._generator) * std + mean
        return drawn.to(self.dtype).to(self.device)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Return float32 values in [low, high)."""
        drawn = torch.rand(*shape, generator=self._generator) * (high - low) + low
        return drawn.to(self.device)

    def integers(self, high: int, *shape: int, low: int = 0) -> torch.Tensor:
        """Return int64 values in [low, high)."""
        return torch.randint(low, high, shape, generator=self._generator).to(self.device)

    def permutation(self, n: int) -> torch.Tensor:
        """Return the numbers below ``n`` in random order."""
        return torch.randperm(n, generator=self._generator).to(self.device)
