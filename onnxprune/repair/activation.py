"""Activations between two layers as functions of arrays, with their slopes: an interval, or a part of a graph."""

from typing import Any, Protocol

import numpy as np

from onnxprune.core.engine import Engine
from onnxprune.runtime.session import open_session, runtime_errors
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.between import Elementwise

_STEP = 1e-2  # of the values' spread: single precision leaves four digits of the difference
_LEAST_STEP = 1e-6


class Activation(Protocol):
    """A function of each value of `made`, `(..., C)`, which may differ between channels."""

    def value(self, made: np.ndarray) -> np.ndarray:
        """The function's values."""

    def slope(self, made: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The gradient of a number in `made`, from its gradient in the function's values."""


def function_of(nodes: Elementwise, analysis: Analysis, engine: Engine) -> Activation:
    """The function that some nodes compute."""
    return _Part(nodes, analysis, engine) if nodes.bounds is None else _Interval(*nodes.bounds)


class _Interval:
    """Values are cut to an interval: ReLU, Clip, or nothing at all."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high
        self._everywhere = low == -np.inf and high == np.inf

    def value(self, made: np.ndarray) -> np.ndarray:
        return made if self._everywhere else np.clip(made, self._low, self._high)

    def slope(self, made: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        return gradient * ((made > self._low) & (made < self._high))


class _Part:
    """Any nodes that work on each element by itself, run by onnxruntime; slopes are central differences.

    Its kernels for gradients of activations (choices by a mask) take many times as long as those for the activations.
    """

    def __init__(self, nodes: Elementwise, analysis: Analysis, engine: Engine) -> None:
        self._nodes, self._analysis, self._engine = nodes, analysis, engine
        self._session: Any = None

    def value(self, made: np.ndarray) -> np.ndarray:
        # The tensors' number of axes, with channels where these have them: constants may be one number a channel.
        shape = (-1, *(made.shape[-1] if axis == self._nodes.axis else 1 for axis in range(1, self._nodes.rank)))
        feed = {self._nodes.source: np.ascontiguousarray(made, self._nodes.kind).reshape(shape)}
        if self._session is None:
            self._session = open_session(self._nodes.forward(self._analysis), engine=self._engine)
        with runtime_errors(f"{self._analysis.name}: onnxruntime cannot run the model"):
            (result,) = self._session.run(None, feed)
        return np.asarray(result, made.dtype).reshape(made.shape)

    def slope(self, made: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        step = made.dtype.type(max(_STEP * float(made.std()), _LEAST_STEP))
        return np.asarray((self.value(made + step) - self.value(made - step)) * gradient / (2 * step))
