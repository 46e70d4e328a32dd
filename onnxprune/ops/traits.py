"""Plain data with which handlers describe an operator's values: dependence on channels, bounds, slopes, breakpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import numpy as np

from onnxprune.core.errors import ModelError
from onnxprune.graph.nodes import Node

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class Flow(Enum):
    """Which input values one element of an operator's first output depends on."""

    ELEMENTWISE = "the elements in the same place of all inputs, after broadcasting"
    CHANNELWISE = "its channel (axis 1) of the first input, and one number for it of each further input"


class ChannelUse(Enum):
    """The ways in which kernels process a channel axis: they decide at which channel counts kernels are fast."""

    CONVOLVED = "input of a convolution"
    DEPTHWISE = "depthwise convolution"
    GROUPED = "one group of a grouped convolution"
    POOLED = "pooling"
    JOINED = "operand of a join along channels"
    MULTIPLIED = "outer axis of a matrix product"


@dataclass(frozen=True, slots=True)
class Range:
    """Lower and upper bounds of the values in each channel.

    Attributes:
        low: `(C,)` in float64, and `high` alike.
        high: see `low`.
    """

    low: np.ndarray
    high: np.ndarray

    def with_zero(self) -> "Range":
        """The bounds widened to contain 0, for padding with zeros."""
        return Range(np.minimum(self.low, 0.0), np.maximum(self.high, 0.0))


@dataclass(frozen=True, slots=True)
class Carried:
    """Which input channel each output channel is, for an operator that only moves values.

    Attributes:
        axis: the axis of channels in the result.
        channels: `(n,)` for each position there, the channel of the inputs, counted through all of them in order.
        places: `(n,)` which of a channel's values lie at the position; None where channels stay whole.
    """

    axis: int
    channels: np.ndarray
    places: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """An affine change of a tensor, channel by channel: `factor * x + shift`.

    Attributes:
        axis: the axis of channels; None where all elements change alike.
        factor: `(C,)`, or `(1,)` without an axis; and `shift` alike.
        shift: see `factor`.
    """

    axis: int | None
    factor: np.ndarray
    shift: np.ndarray

    @property
    def is_identity(self) -> bool:
        """Whether the change leaves every value as it is."""
        return not self.shift.any() and self.only_shifts

    @property
    def only_shifts(self) -> bool:
        """Whether every factor is 1."""
        return bool((self.factor == 1).all())

    def along(self, axis: int, width: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Factor and shift as `(width,)` along an axis; None where the change varies along another axis."""
        if self.axis not in (None, axis):
            return None
        return np.broadcast_to(self.factor, (width,)), np.broadcast_to(self.shift, (width,))


class ChannelValues(Protocol):
    """Constants that an operator reads, as one number per channel of a tensor with channels along `axis`."""

    @property
    def axis(self) -> int:
        """The channel axis."""

    def constant(self, name: str) -> np.ndarray | None:
        """Value of a constant; None where the tensor is computed or omitted."""

    def per_channel(self, name: str) -> np.ndarray | None:
        """A constant as `(C,)`, one number per channel; None where it has another form."""


@dataclass(frozen=True, slots=True)
class Affine:
    """An affine operator, channel by channel: `result = slope * operand + sign * shift + ...`.

    Attributes:
        slope: a number, or `(C,)`.
        shift: position of the input that is added to each channel of the result as one number; None where none is.
        sign: of the shift.
    """

    slope: float | np.ndarray = 1.0
    shift: int | None = None
    sign: float = 1.0


@dataclass(frozen=True, slots=True)
class Kinks:
    """A piecewise-linear activation: identity between `low` and `high`, constant above, of slope `below` below.

    Attributes:
        low: the lower end, -inf where there is none.
        high: the upper end, inf where there is none.
        below: slope below `low`, a number or of a shape that broadcasts to the tensor's. Where it is not 0, `low` is.
    """

    low: float = -np.inf
    high: float = np.inf
    below: float | np.ndarray = 0.0

    @property
    def flat(self) -> tuple[float, float]:
        """The interval outside of which different inputs give the same result."""
        return (self.low if not np.any(self.below) else -np.inf, self.high)


class Operands(Protocol):
    """Access to shapes and constants for `OpHandler.matrices`."""

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor at batch size 1."""

    def value(self, tensor: str) -> np.ndarray | None:
        """Value of a tensor that does not depend on the input; None for others and for an omitted tensor ("")."""

    def run(self, node: Node, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The node's first output with these arrays in place of its inputs that depend on the model's input."""

    def fail(self, node: Node, why: str) -> ModelError:
        """The error for a node that has no such form."""


@dataclass(frozen=True, slots=True)
class LinearMap:
    """An operator that is linear in flattened tensors: `sum_i matrices[i] inputs[i] + bias`.

    Attributes:
        inputs: names of the operands that are not constant.
        matrices: per operand, a matrix `(n_out, n_in)`; None is the identity.
        bias: `(n_out,)`.
    """

    inputs: tuple[str, ...]
    matrices: "tuple[csr_array | None, ...]"
    bias: np.ndarray


@dataclass(frozen=True, slots=True)
class WindowMaximum:
    """A maximum over windows: `output[i] = max_t input[windows[i, t]]`; entries of -1 lie outside of the tensor."""

    input: str
    windows: np.ndarray


def times(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Products of bounds, where zero times infinity counts as zero."""
    return np.where((p == 0) | (q == 0), 0.0, p * q)
