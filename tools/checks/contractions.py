"""Which operators contract over channels, told without the product: the oracle's own, short list."""

from dataclasses import dataclass

import numpy as np
import onnx

_CONVOLUTIONS = {"Conv", "FusedConv"}
_PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
_RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ATTENTION = {"MultiHeadAttention"}


@dataclass(frozen=True, slots=True)
class Operand:
    """An input of a node and the axis of it that the node sums over.

    Attributes:
        index: which input.
        axis: the axis.
        blocks: number of equal parts of the first axis, each with channels of its own: groups, or directions.
    """

    index: int
    axis: int
    blocks: int = 1


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def operands(node: onnx.NodeProto) -> tuple[Operand, ...]:
    """The inputs of a node that it contracts over; of a product both factors, the left one first."""
    kind = node.op_type
    found: tuple[Operand, ...] = ()
    if kind in _CONVOLUTIONS:
        found = (Operand(1, 1, attribute(node, "group", 1)),)
    elif kind == "ConvTranspose":
        found = (Operand(1, 0),)
    elif kind in _PRODUCTS:
        sides = attribute(node, "transA", 0), attribute(node, "transB", 0)
        found = (Operand(0, -2 if sides[0] else -1), Operand(1, -1 if sides[1] else -2))
    elif kind in _RECURRENT:
        blocks = 2 if any(a.name == "direction" and a.s == b"bidirectional" for a in node.attribute) else 1
        found = (Operand(1, 2, blocks), Operand(2, 2, blocks))
    elif kind in _ATTENTION:
        found = (Operand(0, -1),)
    return found


def sums(node: onnx.NodeProto) -> bool:
    """Whether a node sums what it reads, without a weight: over channels where its output has none of their axes."""
    return node.op_type.startswith("Reduce")


def macs(node: onnx.NodeProto, values: dict[str, np.ndarray]) -> int:
    """Multiply-adds of a node in one run; 0 for what contracts over nothing."""
    shapes = [values[name].shape if name else () for name in node.input]
    made = next((values[name].size for name in node.output if name), 0)
    kind = node.op_type
    if kind in _CONVOLUTIONS:
        return made * int(np.prod(shapes[1][1:]))
    if kind == "ConvTranspose":
        return int(np.prod(shapes[0])) * int(np.prod(shapes[1][1:]))
    if kind in _PRODUCTS:
        return made * int(shapes[0][operands(node)[0].axis])
    if kind in _RECURRENT:
        steps, rows = shapes[0][:2]
        return int(steps * rows) * (int(np.prod(shapes[1])) + int(np.prod(shapes[2])))
    if kind in _ATTENTION:
        rows, queries, width = shapes[0]
        return int(rows * queries * shapes[1][1]) * int(width + shapes[2][-1])
    return 0


def weighted(node: onnx.NodeProto, constant: set[str]) -> bool:
    """Whether a node contracts with a weight."""
    return any(operand.index < len(node.input) and node.input[operand.index] in constant for operand in operands(node))
