"""Helpers for gradient rules: ONNX nodes that carry gradients from an operator's output to its inputs."""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from onnxprune.graph.nodes import Node
from onnxprune.ops.base import Backward


def unbroadcast(back: Backward, gradient: str, wide: Sequence[int], narrow: Sequence[int]) -> str:
    """Sum a gradient over the axes that broadcasting added: from shape `wide` back to shape `narrow`."""
    extra = len(wide) - len(narrow)
    if extra:
        gradient = back.sum(gradient, range(extra), keep=False)
    axes = [axis for axis, size in enumerate(narrow) if size == 1 and wide[axis + extra] != 1]
    return back.sum(gradient, axes, keep=True) if axes else gradient


def reshaped_like(back: Backward, gradient: str, tensor: str) -> str:
    """The gradient reshaped to a tensor's shape at run time."""
    return back.node("Reshape", [gradient, back.node("Shape", [tensor])])


def expanded_like(back: Backward, gradient: str, tensor: str) -> str:
    """The gradient broadcast to a tensor's shape at run time."""
    return back.node("Expand", [gradient, back.node("Shape", [tensor])])


def where_true(back: Backward, condition: str, gradient: str) -> str:
    """The gradient where a condition is True, else 0."""
    # The factor depends on no direction, so that one forward pass computes it for all of them.
    return back.node("Mul", [gradient, back.node("Cast", [condition], to=TensorProto.FLOAT)])


def moved_back(back: Backward, node: Node) -> bool:
    """Gradient rule of operators that only reshape their first input."""
    source = node.input(0)
    if back.needs(source):
        back.add(source, reshaped_like(back, back.gradient(node.output()), source))
    return True


def padded(back: Backward, gradient: str, pads: Sequence[int], opset: int) -> str:
    """The gradient padded with zeros; negative pads cut."""
    if not any(pads):
        return gradient
    if opset < 11:
        return back.node("Pad", [gradient], mode="constant", pads=[int(p) for p in pads])
    return back.node("Pad", [gradient, back.constant(np.asarray(pads, np.int64))])


def pieces(back: Backward, gradient: str, sizes: Sequence[int], axis: int, opset: int) -> tuple[str, ...]:
    """The gradient of a concatenation, split along an axis."""
    if len(sizes) == 1:
        return (gradient,)
    if opset < 13:
        return back.nodes("Split", [gradient], len(sizes), axis=axis, split=list(sizes))
    return back.nodes("Split", [gradient, back.constant(np.asarray(sizes, np.int64))], len(sizes), axis=axis)


def selected_back(back: Backward, gradient: str, rank: int, axis: int, taken: np.ndarray, size: int) -> str:
    """The gradient of a selection along an axis: added up at the positions that were selected.

    Args:
        back: where nodes are added.
        gradient: of the selection.
        rank: number of axes.
        axis: along which positions were taken.
        taken: `(n,)` them, in order; negative ones count from the end.
        size: length of the axis before.
    """
    if len(taken) == size and (taken == np.arange(size)).all():
        return gradient
    rows = np.zeros((len(taken), size))
    rows[np.arange(len(taken)), taken] = 1.0
    order = [*(a for a in range(rank) if a != axis), axis]
    last = back.node("Transpose", [gradient], perm=order)
    spread = back.node("MatMul", [last, back.constant(rows)])
    return back.node("Transpose", [spread], perm=[order.index(a) for a in range(rank)])
