"""Constants as operators' rules ask for them, beside a tensor with channels: `ops.traits.ChannelValues`."""

from dataclasses import dataclass

import numpy as np

from onnxprune.structure.analysis import Analysis


@dataclass(frozen=True, slots=True)
class ChannelConstants:
    """The constants of a model, as they meet a tensor.

    Attributes:
        analysis: the model's.
        tensor: the tensor.
        axis: its axis of channels.
    """

    analysis: Analysis
    tensor: str
    axis: int

    def constant(self, name: str) -> np.ndarray | None:
        """A constant's value, stored or folded; None where the tensor is computed or omitted."""
        return self.analysis.value(name)

    def per_channel(self, name: str) -> np.ndarray | None:
        """`(C,)` the constant as one number a channel of the tensor; None where it is something else."""
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
