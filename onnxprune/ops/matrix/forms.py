"""Operators as matrices on flattened tensors (batch size 1): what `OpHandler.matrices` answers, family by family."""

from collections.abc import Sequence
from math import prod

import numpy as np
from scipy.sparse import csr_array

from onnxprune.graph.nodes import Node
from onnxprune.ops.matrix import matrices
from onnxprune.ops.traits import LinearMap, Operands, WindowMaximum
from onnxprune.ops.window import transposed_pads, window_pads

_LARGEST = 60_000_000  # nonzeros of one operator's matrix; about 0.7 GB


def one(source: str, matrix: csr_array | None, bias: np.ndarray) -> LinearMap:
    """`matrix source + bias`; without a matrix, the identity."""
    return LinearMap((source,), (matrix,), np.asarray(bias, dtype=np.float64).ravel())


def identity(node: Node, operands: Operands) -> LinearMap:
    """The first input as it is."""
    return one(node.input(0), None, np.zeros(prod(operands.shape(node.input(0)))))


def movement(node: Node, operands: Operands) -> LinearMap:
    """An operator that only moves values (Reshape, Transpose, ...): one 1 in each row, or none.

    Run on position numbers, it shows where values go. Numbers start at 1, so that 0 marks what comes from constants and
    padding, whose values are the bias. A second run on the squares of the numbers shows whether values were mixed: the
    mean of two different numbers is not the root of the mean of their squares.
    """
    if any(node.outputs[1:]):
        raise operands.fail(node, "it has several results")
    moved = [name for name in dict.fromkeys(node.inputs) if name and operands.value(name) is None]
    sizes = [prod(operands.shape(name)) for name in moved]
    starts = np.concatenate([[1], 1 + np.cumsum(sizes)]).astype(np.int64)
    numbers = [
        np.arange(a, b, dtype=np.float64).reshape(operands.shape(name))
        for name, a, b in zip(moved, starts, starts[1:], strict=False)
    ]
    bias = operands.run(node, [np.zeros(n.shape) for n in numbers]).ravel().astype(np.float64)
    at = operands.run(node, numbers).ravel() - bias
    squares = operands.run(node, [n**2 for n in numbers]).ravel() - bias
    if not np.allclose(squares, at**2, rtol=1e-6, atol=1e-6):
        raise operands.fail(node, "it mixes values")
    source = np.rint(at).astype(np.int64)
    selections = [
        matrices.selection(np.where((source >= a) & (source < b), source - a, -1), size)
        for a, b, size in zip(starts, starts[1:], sizes, strict=False)
    ]
    return LinearMap(tuple(moved), tuple(selections), bias)


def negative(node: Node, operands: Operands) -> LinearMap:
    """`-x`."""
    size = prod(operands.shape(node.input(0)))
    return one(node.input(0), matrices.diagonal(-np.ones(size)), np.zeros(size))


def convolution(node: Node, operands: Operands, *, transposed: bool = False) -> LinearMap:
    """A convolution; a transposed one is the transpose of the convolution with swapped sizes."""
    source, weight = node.input(0), operands.value(node.input(1))
    if weight is None:
        raise operands.fail(node, "its weight is computed")
    shape, out = operands.shape(source), operands.shape(node.output())
    n, group = len(shape) - 2, node.int("group", 1)
    kernel = weight.shape[2:]
    wide, narrow = (out, shape) if transposed else (shape, out)
    pads = (transposed_pads if transposed else window_pads)(node, shape[2:], kernel)
    size = weight.size * prod(narrow[2:])
    if size > _LARGEST:
        raise operands.fail(node, f"its matrix would hold {size:,} coefficients")
    strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
    at, _ = matrices.windows(wide[2:], kernel, strides, pads, dilations, narrow[2:])
    matrix = matrices.convolution(weight, at, prod(wide[2:]), group)
    bias = operands.value(node.input(2))
    if node.input(2) and bias is None:
        raise operands.fail(node, "its bias is computed")
    constant = np.repeat(np.zeros(out[1]) if bias is None else bias, prod(out[2:]))
    return one(source, csr_array(matrix.T.tocsr()) if transposed else matrix, constant)


def gemm(node: Node, operands: Operands) -> LinearMap:
    """`alpha A B + beta C` with constant `B` and `C`."""
    source, weight, bias = node.input(0), operands.value(node.input(1)), operands.value(node.input(2))
    if weight is None or (node.input(2) and bias is None) or node.int("transA", 0):
        raise operands.fail(node, "only constant weights and no transposed input are handled")
    matrix = (weight.T if node.int("transB", 0) else weight).astype(np.float64)
    alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
    constant = np.zeros(1) if bias is None else beta * bias.astype(np.float64)
    return one(
        source,
        matrices.contraction(operands.shape(source), alpha * matrix),
        np.broadcast_to(constant, operands.shape(node.output())),
    )


def product(node: Node, operands: Operands) -> LinearMap:
    """A matrix product with a constant matrix on either side."""
    left, right = operands.value(node.input(0)), operands.value(node.input(1))
    weight = left if right is None else right
    if weight is None or prod(weight.shape[:-2]) != 1 or weight.ndim < 2:
        raise operands.fail(node, "only products with a constant matrix are handled")
    weight = weight.reshape(weight.shape[-2:])
    source = node.input(1) if right is None else node.input(0)
    shape = operands.shape(source)
    if right is None:
        matrix = matrices.left_contraction(weight, shape if len(shape) > 1 else (*shape, 1))
    else:
        matrix = matrices.contraction(shape, weight)
    return one(source, matrix, np.zeros(matrix.shape[0]))


def batch_normalization(node: Node, operands: Operands) -> LinearMap:
    """`scale (x - mean) / sqrt(var + epsilon) + bias`, per channel."""
    scale, bias, mean, variance = (operands.value(node.input(i)) for i in range(1, 5))
    if scale is None or bias is None or mean is None or variance is None:
        raise operands.fail(node, "its parameters are computed")
    shape = operands.shape(node.input(0))
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + node.attributes.get("epsilon", 1e-5))
    shift = bias - factor * mean
    spread = [np.broadcast_to(v.reshape(-1, *(1,) * (len(shape) - 2)), shape[1:]) for v in (factor, shift)]
    return one(node.input(0), matrices.diagonal(spread[0].ravel()), spread[1])


def global_average(node: Node, operands: Operands) -> LinearMap:
    """Means over all positions."""
    shape = operands.shape(node.input(0))
    return one(node.input(0), matrices.reduction(shape, range(2, len(shape)), mean=True), np.zeros(shape[1]))


def window_average(node: Node, operands: Operands) -> LinearMap:
    """Means over windows."""
    shape, out = operands.shape(node.input(0)), operands.shape(node.output())
    at, padded = _windows(node, shape, out)
    counted = padded.sum(axis=1) if node.int("count_include_pad", 0) else (at >= 0).sum(axis=1)
    return one(node.input(0), matrices.averaging(at, counted, shape[1], prod(shape[2:])), np.zeros(prod(out)))


def global_maximum(node: Node, operands: Operands) -> WindowMaximum:
    """Maxima over all positions."""
    shape = operands.shape(node.input(0))
    return _maximum(node, shape, np.arange(prod(shape[2:]))[None, :])


def window_maximum(node: Node, operands: Operands) -> WindowMaximum:
    """Maxima over windows."""
    if node.output(1):
        raise operands.fail(node, "its indices are read")
    shape = operands.shape(node.input(0))
    return _maximum(node, shape, _windows(node, shape, operands.shape(node.output()))[0])


def _maximum(node: Node, shape: Sequence[int], at: np.ndarray) -> WindowMaximum:
    channel = np.arange(shape[1])[:, None, None] * prod(shape[2:])
    return WindowMaximum(node.input(0), np.where(at >= 0, at + channel, -1).reshape(-1, at.shape[1]))


def _windows(node: Node, shape: Sequence[int], out: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    kernel = node.ints("kernel_shape") or ()
    n = len(kernel)
    strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
    return matrices.windows(shape[2:], kernel, strides, window_pads(node, shape[2:], kernel), dilations, out[2:])


def reduction(node: Node, operands: Operands, *, mean: bool) -> LinearMap:
    """A sum or mean over axes."""
    shape = operands.shape(node.input(0))
    given = operands.value(node.input(1))
    axes = node.ints("axes") if given is None else tuple(int(a) for a in given.ravel())
    if not axes and node.int("noop_with_empty_axes", 0):
        return identity(node, operands)
    axes = tuple(a % len(shape) for a in axes) if axes else tuple(range(len(shape)))
    matrix = matrices.reduction(shape, axes, mean=mean)
    return one(node.input(0), matrix, np.zeros(matrix.shape[0]))


def addition(node: Node, operands: Operands, signs: Sequence[float]) -> LinearMap:
    """A sum of tensors and constants with these signs, with broadcasting."""
    out = operands.shape(node.output())
    inputs, terms, bias = [], [], np.zeros(out)
    for name, sign in zip(node.inputs, signs, strict=True):
        value = operands.value(name)
        if value is not None:
            bias = bias + sign * value.astype(np.float64)
            continue
        inputs.append(name)
        matrix = _broadcast(operands.shape(name), out)
        if sign < 0:
            matrix = matrices.diagonal(-np.ones(prod(out))) if matrix is None else csr_array(-matrix)
        terms.append(matrix)
    return LinearMap(tuple(inputs), tuple(terms), np.broadcast_to(bias, out).ravel())


def _broadcast(shape: Sequence[int], out: Sequence[int]) -> csr_array | None:
    """The matrix that broadcasts a tensor to a shape; None where nothing changes."""
    if prod(shape) == prod(out):
        return None
    index = np.broadcast_to(np.arange(prod(shape)).reshape(tuple(shape)), tuple(out))
    return matrices.selection(index.ravel(), prod(shape))


def scaling(node: Node, operands: Operands, *, divides: bool) -> LinearMap:
    """A product with a constant, or a quotient by one."""
    first, second = operands.value(node.input(0)), operands.value(node.input(1))
    constant = first if second is None else second
    if constant is None or (divides and second is None):
        raise operands.fail(node, "a product of two computed tensors is not linear")
    source = node.input(1) if second is None else node.input(0)
    out = operands.shape(node.output())
    factor = np.broadcast_to(constant.astype(np.float64), out).ravel()
    factor = 1.0 / factor if divides else factor
    spread = _broadcast(operands.shape(source), out)
    matrix = matrices.diagonal(factor) if spread is None else csr_array(matrices.diagonal(factor) @ spread)
    return one(source, matrix, np.zeros(len(factor)))
