"""What nodes multiply: layers with a constant weight, products of two tensors, and recurrent layers."""

from dataclasses import dataclass
from enum import Enum

from onnxprune.ops.labels import Ids, Labels
from onnxprune.ops.window import Window

Factors = tuple[int | Ids, ...]
"""Factors of a number of multiply-adds: sizes, or the channels along an axis (those that stay count)."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A node as a layer with a constant weight. Fields as in `structure.units.Layer`, which is made from it.

    `factors` are those of its multiply-adds at the batch that was analysed.
    """

    input: str
    weight: str
    bias: str | None
    output: str
    in_axis: int
    out_axis: int
    input_axis: int
    output_axis: int
    factors: Factors
    group: int = 1
    window: Window | None = None
    transposed: bool = False
    gain: float = 1.0
    bias_gain: float = 1.0
    fused: bool = False


@dataclass(frozen=True, slots=True)
class Product:
    """A product of two tensors that a node computes (matrix product, convolution, or a sum of one tensor alone).

    Attributes:
        node: the node's name.
        weight: the constant factor; where both are computed, the second; "" where the source is summed as it is.
        source: the other factor; "" where rows of the weight are picked as they are.
        contracted: `(axis of the weight, axis of the source)` of the sums; -1 where there is no weight.
        made: axes of the weight that reach the result.
    """

    node: str
    weight: str
    source: str
    contracted: tuple[tuple[int, int], ...]
    made: tuple[int, ...]


class Reads(Enum):
    """What some gates of a recurrent layer multiply with their weights."""

    BOTH = "the input with W and the states before with R, summed"
    INPUT = "the input with W"
    STATES = "the states before with R"
    RESET_STATES = "the states before, times the reset gate, with R"


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A recurrent layer: what it multiplies at each step. Steps are axis 0 of the input, the batch is axis 1.

    Attributes:
        node: the node's name.
        input: the input sequence `(T, B, I)`.
        weight: `W (directions, gates * H, I)`.
        recurrent: `R (directions, gates * H, H)`.
        bias: `(directions, 2 * gates * H)`, that of W before that of R; None where there is none.
        states: the states before the first step `(directions, B, H)`, "" where they are zero.
        output: all states `(T, directions, B, H)`, "" where the node does not hand them out.
        backward: per direction, whether it goes from the last step to the first.
        gates: which gates read what, as `(first gate, gate after the last, what)`.
        reset: the gate that `RESET_STATES` are multiplied with; -1 where there is none.
    """

    node: str
    input: str
    weight: str
    recurrent: str
    bias: str | None
    states: str
    output: str
    backward: tuple[bool, ...]
    gates: tuple[tuple[int, int, Reads], ...]
    reset: int = -1


def axis_factors(labels: Labels, tensor: str) -> Factors:
    """The sizes of a tensor's axes, each as its channels where it has some."""
    return tuple(n if ids is None else ids for n, ids in zip(labels.shape(tensor), labels.get(tensor), strict=True))
