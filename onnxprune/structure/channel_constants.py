"""Reads a model's constants as one number per channel: implements `ops.traits.ChannelValues` for an analysed model."""

from dataclasses import dataclass

import numpy as np

from onnxprune.structure.analysis import Analysis


@dataclass(frozen=True, slots=True)
class ChannelConstants:
    """The model's constants, seen from one tensor and its channel axis.

    Attributes:
        analysis: the model's.
        tensor: the tensor.
        axis: its axis of channels.
    """

    analysis: Analysis
    tensor: str
    axis: int

    def constant(self, name: str) -> np.ndarray | None:
        """Value of a constant, stored or computed from constants; None for other tensors and for ""."""
        return self.analysis.value(name)

    def per_channel(self, name: str) -> np.ndarray | None:
        """A constant as `(C,)`, one number per channel of the tensor; None where it has another form."""
        value, shape = self.constant(name), self.analysis.facts.shapes.get(self.tensor, ())
        if value is None or not shape:
            return None
        width = shape[self.axis]
        if value.size == 1:
            return np.full(width, float(value.reshape(())))
        full = (1,) * (len(shape) - value.ndim) + value.shape
        others = [size for axis, size in enumerate(full) if axis != self.axis]
        spread = len(full) == len(shape) and all(size == 1 for size in others) and full[self.axis] == width
        return value.reshape(-1).astype(np.float64) if spread else None
