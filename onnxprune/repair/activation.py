"""Activations between two layers as functions of arrays, with their slopes: an interval, or a part of a graph."""

from typing import Any, Protocol

import numpy as np

from onnxprune.core.engine import Engine
from onnxprune.runtime.session import open_session, runtime_errors
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.between import Between
from onnxprune.structure.gradient import SEED, slope_model


class Activation(Protocol):
    """What lies between two layers; `made` is `(..., C)`."""

    def value(self, made: np.ndarray) -> np.ndarray:
        """What the second layer reads."""

    def slope(self, made: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The gradient of a number in `made`, from its gradient in what the second layer reads."""


def activation(between: Between, analysis: Analysis, engine: Engine) -> Activation:
    """The function that nodes between two layers compute.

    Raises:
        ModelError: an operator has no rule for its slope, or values are not in single precision.
    """
    return _Part(between, analysis, engine) if between.bounds is None else _Interval(*between.bounds)


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
    """Any nodes that work on each element by itself, run by onnxruntime."""

    def __init__(self, between: Between, analysis: Analysis, engine: Engine) -> None:
        forward = between.forward(analysis)
        backward = slope_model(analysis, forward, between.source, between.target)
        self._between, self._engine, self._models = between, engine, {True: forward, False: backward}
        self._sessions: dict[bool, Any] = {}

    def value(self, made: np.ndarray) -> np.ndarray:
        return self._run(made, {}, forward=True)

    def slope(self, made: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        return self._run(made, {SEED: gradient}, forward=False)

    def _run(self, made: np.ndarray, others: dict[str, np.ndarray], *, forward: bool) -> np.ndarray:
        """Run a model on arrays that are given the tensors' number of axes, channels where these have them."""
        model = self._models[forward]
        if forward not in self._sessions:
            self._sessions[forward] = open_session(model, engine=self._engine)
        rank, axis = self._between.rank, self._between.axis
        width = made.shape[-1]
        shape = (-1, *(width if position == axis else 1 for position in range(1, rank)))
        feed = {self._between.source: made, **others}
        feed = {name: np.ascontiguousarray(array, np.float32).reshape(shape) for name, array in feed.items()}
        with runtime_errors(f"{model.name}: onnxruntime cannot run the model"):
            (result,) = self._sessions[forward].run(None, feed)
        return np.asarray(result, made.dtype).reshape(made.shape)
