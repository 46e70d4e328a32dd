"""What lies between two layers as a function of tiles of values, with its gradient: activations and a pooling."""

import numpy as np

from onnxprune.core.engine import Engine
from onnxprune.repair.activation import function_of
from onnxprune.repair.pairs import PairFit, RowTile
from onnxprune.repair.pooling import Windows
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.between import Between


class Middle:
    """What lies between two layers, from `(T, P, C)` values of the first to `(T, Q, C)` that the second reads."""

    def __init__(self, between: Between, analysis: Analysis, engine: Engine) -> None:
        self._first = function_of(between.first, analysis, engine)
        self._second = None if between.second is None else function_of(between.second, analysis, engine)
        self._pooling = between.pooling
        self._windows: Windows | None = None

    def value(self, made: np.ndarray, rows: PairFit) -> np.ndarray:
        """What the second layer reads, where it reads no padding."""
        seen = self._first.value(made)
        if self._pooling is None or self._second is None:
            return seen
        return self._second.value(self._pooled(rows.tile, made.shape[1]).value(seen, rows.exists))

    def gradient(self, made: np.ndarray, rows: PairFit, gradient: np.ndarray) -> np.ndarray:
        """The gradient of a number in the first layer's values, from that in what the second layer reads."""
        if self._pooling is not None and self._second is not None:
            seen, windows = self._first.value(made), self._pooled(rows.tile, made.shape[1])
            pooled = windows.value(seen, rows.exists)
            gradient = windows.gradient(seen, rows.exists, pooled, self._second.slope(pooled, gradient))
        return self._first.slope(made, gradient)

    def _pooled(self, tile: RowTile, values: int) -> Windows:
        if self._windows is None:  # a pair's tiles are all alike
            assert self._pooling is not None
            assert tile.windows is not None
            self._windows = Windows(tile.windows, values, mean=self._pooling.mean)
        return self._windows
