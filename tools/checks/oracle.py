"""What a pruned file must do, told without the product's labels.

Removing channels means that what reads them sees zero. Which ones went is found by value: every weight slice (and, in
products of two activations, every activation) of the pruned file is looked up in the original. The original with zeros
in the consumers' weights at the others is the model that the pruned one must equal, before repair.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from checks.contractions import Operand, operands, sums
from checks.values import Feeds, constants, values

_CLOSE = 1e-5  # relative to the largest value: activations of two graphs that compute the same


class UntoldError(Exception):
    """What went cannot be told by value."""


def kept(whole: np.ndarray, part: np.ndarray, axis: int, close: float = 0.0) -> list[int]:
    """Positions of `whole` along an axis that `part` holds, in their order.

    Where other axes are shorter too, a slice fits where all its values occur.

    Raises:
        UntoldError: a slice of `part` occurs nowhere.
    """
    a, b = (np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in (whole, part))
    same = a.shape[1] == b.shape[1]
    found: list[int] = []
    for row in b:
        start = found[-1] + 1 if found else 0
        fits = (p for p in range(start, len(a)) if (_equal(a[p], row, close) if same else _holds(a[p], row, close)))
        position = next(fits, None)
        if position is None:
            raise UntoldError(
                f"{whole.shape} to {part.shape}, axis {axis}: a slice of the result is none of the original"
            )
        found.append(position)
    return found


def _equal(a: np.ndarray, b: np.ndarray, close: float) -> bool:
    return bool(np.abs(a - b).max(initial=0) <= close)


def _holds(many: np.ndarray, few: np.ndarray, close: float) -> bool:
    """Whether each of a few values is among many."""
    ordered = np.sort(many)
    after = np.searchsorted(ordered, few).clip(0, len(ordered) - 1)
    before = (after - 1).clip(0)
    return bool(np.minimum(np.abs(ordered[after] - few), np.abs(ordered[before] - few)).max(initial=0) <= close)


def silenced(whole: np.ndarray, part: np.ndarray, operand: Operand, blocks: int) -> np.ndarray:
    """A weight with zeros where the pruned file has nothing; `blocks`: the pruned file's number of equal parts."""
    axis = operand.axis % whole.ndim
    if whole.shape[axis] == part.shape[axis]:  # also where whole groups went: nobody reads what they make
        return whole
    if blocks != operand.blocks:
        raise UntoldError(f"{whole.shape} to {part.shape}: both groups and their channels went")
    sources, pieces = np.split(whole, blocks), np.split(part, blocks)
    return np.concatenate([_zeroed(a, b, axis) for a, b in zip(sources, pieces, strict=True)])


def _zeroed(whole: np.ndarray, part: np.ndarray, axis: int) -> np.ndarray:
    result = np.zeros_like(whole)
    positions = kept(whole, part, axis)
    np.moveaxis(result, axis, 0)[positions] = np.moveaxis(whole, axis, 0)[positions]
    return result


def expected(original: onnx.ModelProto, pruned: onnx.ModelProto, feeds: Feeds) -> onnx.ModelProto:
    """The original with its consumers' weights of what went set to zero.

    A node that the pruned file has no more sees nothing but zeros.

    Raises:
        UntoldError: what went cannot be told by value.
    """
    made, fixed, fixed_now = values(pruned, feeds), constants(original.graph), constants(pruned.graph)
    nodes = {node.output[0]: node for node in pruned.graph.node}
    result = onnx.ModelProto()
    result.CopyFrom(original)
    whole = values(original, feeds)
    weightless = []
    for node in result.graph.node:
        read = [operand for operand in operands(node) if operand.index < len(node.input)]
        heavy = [operand for operand in read if node.input[operand.index] in fixed]
        if (read and not heavy) or sums(node):
            weightless.append(node.output[0])
        twin = nodes.get(node.output[0])
        for operand in heavy:
            name = node.input[operand.index]
            weight = np.zeros_like(whole[name])
            if twin is not None:
                if twin.input[operand.index] not in fixed_now:
                    raise UntoldError(f"input {operand.index} of what makes {node.output[0]!r} is no constant now")
                blocks = {now.index: now.blocks for now in operands(twin)}[operand.index]
                weight = silenced(whole[name], made[twin.input[operand.index]], operand, blocks)
            node.input[operand.index] = _added(result.graph, weight, f"silenced_{node.output[0]}_{operand.index}")
    for output in weightless:
        _silence_activation(result, output, nodes.get(output), made, feeds)
    return result


def _silence_activation(
    result: onnx.ModelProto,
    output: str,
    twin: onnx.NodeProto | None,
    made: dict[str, np.ndarray],
    feeds: Feeds,
) -> None:
    """Let a node that contracts without a weight see zeros where the pruned file has nothing.

    That is the left factor of a product of two activations, or what a sum is taken of.
    """
    position, node = next((p, n) for p, n in enumerate(result.graph.node) if n.output[0] == output)
    now = values(result, feeds)
    whole = now[node.input[0]]
    mask = np.zeros([1] * whole.ndim, whole.dtype)
    if twin is not None:
        part = made[twin.input[0]]
        if part.ndim != whole.ndim:
            raise UntoldError(f"an input of what makes {output!r} has another rank")
        shorter = [axis for axis in range(whole.ndim) if part.shape[axis] < whole.shape[axis]]
        contracted = [operand.axis % whole.ndim for operand in operands(node)[:1]]
        if sums(node) and made[output].shape == now[output].shape:
            contracted = shorter
        chosen = [axis for axis in shorter if axis in contracted]
        if not chosen:
            return
        close = _CLOSE * float(np.abs(whole).max(initial=0))
        mask = np.ones([1] * whole.ndim, whole.dtype)
        for axis in chosen:
            line = np.zeros(whole.shape[axis], whole.dtype)
            line[kept(whole, part, axis, close)] = 1
            mask = mask * line.reshape([-1 if a == axis else 1 for a in range(whole.ndim)])
    factor, source = _added(result.graph, mask, f"silenced_{output}"), node.input[0]
    node.input[0] = f"{factor}_input"
    result.graph.node.insert(position, helper.make_node("Mul", [source, factor], [f"{factor}_input"]))


def _added(graph: onnx.GraphProto, array: np.ndarray, name: str) -> str:
    graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def distance(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """The largest difference of two sets of outputs, each relative to the largest value of its output."""
    pairs = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in zip(a, b, strict=True)]
    return max(
        (float(np.abs(x - y).max(initial=0)) / max(float(np.abs(x).max(initial=0)), 1e-30) for x, y in pairs),
        default=0.0,
    )
