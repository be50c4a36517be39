"""Random weights from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from .optional import optional

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Weights: TypeAlias = "NDArray[np.float32]"
"""An array of weights."""


class RandomWeights:
    """Normally distributed numbers from a seed: for speed, one block, read from random offsets."""

    _BLOCK = 1 << 20

    def __init__(self, seed: int) -> None:
        self._np = optional("numpy")
        self._generator = self._np.random.Generator(self._np.random.PCG64(seed))
        self._block = self._generator.standard_normal(self._BLOCK).astype(self._np.float32)

    def __call__(self, rows: int, columns: int, *, deviation: float = 1.0) -> Weights:
        """Return a matrix of numbers around 0 with that standard deviation."""
        count = rows * columns
        start = int(self._generator.integers(self._BLOCK))
        repeated = self._np.tile(self._block, (start + count) // self._BLOCK + 1)
        weights: Weights = repeated[start : start + count] * self._np.float32(deviation)
        return weights.reshape(rows, columns)
