"""Plain data of the analysis: units (sets of coupled channels), the groups they form, and the layers they belong to.

A unit is a set of channels that can only be removed together, for example one output channel of a convolution with
the matching channel of the residual branch that is added to it. A group is a set of interchangeable units.
"""

from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.core.costs import Stored
from onnxprune.graph.model import Narrow
from onnxprune.graph.nodes import is_float
from onnxprune.ops.window import Window

Ids = np.ndarray


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with a constant weight that sums over its input channels (Conv, ConvTranspose, Gemm, MatMul).

    Attributes:
        node: the node's name.
        op_type: its operator.
        input: the contracted activation.
        weight: the weight's tensor name.
        bias: the bias' tensor name; None where the operator has no constant bias (a later Add may still be one).
        output: the result.
        in_axis: the weight's axis that is contracted.
        out_axis: the weight's axis of output channels.
        input_axis: the contracted axis of `input`.
        output_axis: the axis of `output` that carries `out_axis`.
        group: number of convolution groups.
        window: geometry for Conv and ConvTranspose, else None.
        transposed: ConvTranspose.
        gain: factor of the product itself (`alpha` of Gemm).
        bias_gain: factor of the bias (`beta` of Gemm).
        fused: whether the node adds to the product, or puts it through an activation, before it gives `output`.
    """

    node: str
    op_type: str
    input: str
    weight: str
    bias: str | None
    output: str
    in_axis: int
    out_axis: int
    input_axis: int
    output_axis: int
    group: int
    window: Window | None
    transposed: bool
    gain: float = 1.0
    bias_gain: float = 1.0
    fused: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """A node whose multiply-adds count: a layer, a recurrent layer, or a product of two computed tensors.

    Attributes:
        node: the node's name.
        op_type: its operator.
        terms: multiply-adds at the analysed batch, a sum of products: each factor is a number, or the units along an
            axis (the kept ones count).
        weights: its constants.
        input: what it contracts.
        output: the result.
        axis: the channel axis of both.
    """

    node: str
    op_type: str
    terms: tuple[tuple[int | Ids, ...], ...]
    weights: tuple[str, ...]
    input: str
    output: str
    axis: int


@dataclass(frozen=True, slots=True)
class Group:
    """A set of units that appear in the same tensors and layers, so that removing any of them saves the same cost.

    Attributes:
        name: the first producer's name (made unique).
        units: unit numbers, in the order of their channels.
        producers: nodes that make the units' values.
        consumers: nodes that contract over them.
        places: `(tensor, axis)` where the units appear.
    """

    name: str
    units: Ids
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    places: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True, slots=True)
class Mask:
    """A place where setting a removed unit to zero has the same effect as removing it; see `structure.removal.masked`.

    `node` reads `tensor` and sums over its axis `axis`; `units` is `(size,)`, the unit at each position of that axis.
    """

    node: str
    tensor: str
    axis: int
    units: Ids


def is_weight(array: np.ndarray) -> bool:
    """Whether a constant counts as weights: floating-point, or quantised (integers of at most 8 bits)."""
    return is_float(array) or (array.dtype.kind in "iu" and array.dtype.itemsize == 1) or "int4" in array.dtype.name


def as_stored(array: np.ndarray, narrow: Narrow | None = None) -> Stored:
    """What costs need to know of a constant, which the file may hold in a narrower type."""
    kind = array.dtype if narrow is None else onnx.helper.tensor_dtype_to_np_dtype(narrow.data_type)
    return Stored(array.shape, kind.itemsize, is_weight(array))
