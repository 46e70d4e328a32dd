"""Translates operators into steps of the program: one short rule for each operator family.

A rule is found by operator name in `RULES`. It may ask the `Context` for shapes and constant operands, and gives the
steps that make the node's output. What depends on no input is evaluated before any rule is asked.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Protocol

import numpy as np
from scipy.sparse import csr_array

from onnxprune.core.errors import ModelError
from onnxprune.graph.nodes import Node
from onnxprune.importance.oamip import linear_maps
from onnxprune.importance.oamip.steps import Activation, LinearStep, Maximum, Step
from onnxprune.ops.window import window_pads

_LARGEST = 60_000_000  # nonzeros of one operator's matrix; about 0.7 GB


class Context(Protocol):
    """What the rules may ask about tensors and nodes."""

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor at batch size 1."""

    def value(self, tensor: str) -> np.ndarray | None:
        """Value of a tensor that does not depend on the input; None for others and for an omitted tensor ("")."""

    def move(self, node: Node, operands: Sequence[np.ndarray]) -> np.ndarray:
        """Run the node with these arrays in place of the operands that depend on the input."""

    def fail(self, node: Node, why: str) -> ModelError:
        """The error for a node that the program cannot model."""


Rule = Callable[[Node, Context], list[Step]]
RULES: dict[str, Rule] = {}


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Decorator that registers a rule for operators."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            if op_type in RULES:
                raise RuntimeError(f"operator {op_type} has two rules")
            RULES[op_type] = function
        return function

    return register


def linear(node: Node, inputs: Sequence[str], matrices: Sequence[csr_array | None], bias: np.ndarray) -> list[Step]:
    """One linear step."""
    flat = np.asarray(bias, dtype=np.float64).ravel()
    return [LinearStep(node.name, node.output(), tuple(inputs), tuple(matrices), flat)]


@rule("Conv", "ConvTranspose")
def convolution(node: Node, context: Context) -> list[Step]:
    """Conv and ConvTranspose (the transpose of the convolution with swapped sizes)."""
    source, weight = node.input(0), context.value(node.input(1))
    if weight is None:
        raise context.fail(node, "its weight is computed")
    transposed = node.op_type == "ConvTranspose"
    shape, out = context.shape(source), context.shape(node.output())
    n, group = len(shape) - 2, node.int("group", 1)
    kernel = weight.shape[2:]
    wide, narrow = (out, shape) if transposed else (shape, out)
    pads = _transposed_pads(node, shape, out, kernel) if transposed else window_pads(node, shape[2:], kernel)
    size = weight.size * prod(narrow[2:])
    if size > _LARGEST:
        raise context.fail(node, f"its matrix would hold {size:,} coefficients")
    strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
    at, _ = linear_maps.windows(wide[2:], kernel, strides, pads, dilations, narrow[2:])
    matrix = linear_maps.convolution(weight, at, prod(wide[2:]), group)
    bias = context.value(node.input(2))
    if node.input(2) and bias is None:
        raise context.fail(node, "its bias is computed")
    constant = np.zeros(out[1]) if bias is None else bias
    full = np.repeat(constant, prod(out[2:]))
    return linear(node, [source], [csr_array(matrix.T.tocsr()) if transposed else matrix], full)


def _transposed_pads(node: Node, shape: Sequence[int], out: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """Pads of a transposed convolution."""
    n = len(kernel)
    strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
    extra = node.ints("output_padding") or (0,) * n
    total = [
        strides[i] * (shape[2 + i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - out[2 + i] for i in range(n)
    ]
    auto = str(node.attributes.get("auto_pad", "NOTSET"))
    given = node.ints("pads") or (0,) * (2 * n)
    if node.ints("output_shape") or auto.startswith("SAME"):
        begin = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
    else:
        begin = list(given[:n])
    return (*begin, *(t - b for t, b in zip(total, begin, strict=True)))


@rule("Gemm")
def gemm(node: Node, context: Context) -> list[Step]:
    """Gemm: `alpha A B + beta C` with constant `B` and `C`."""
    source, weight = node.input(0), context.value(node.input(1))
    bias = context.value(node.input(2))
    if weight is None or (node.input(2) and bias is None) or node.int("transA", 0):
        raise context.fail(node, "only constant weights and no transposed input are handled")
    matrix = weight.T if node.int("transB", 0) else weight
    out = context.shape(node.output())
    alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
    constant = np.broadcast_to(np.zeros(1) if bias is None else beta * bias.astype(np.float64), out)
    return linear(
        node, [source], [linear_maps.contraction(context.shape(source), alpha * matrix.astype(np.float64))], constant
    )


@rule("MatMul")
def matmul(node: Node, context: Context) -> list[Step]:
    """MatMul with a constant matrix on either side."""
    left, right = context.value(node.input(0)), context.value(node.input(1))
    weight = left if right is None else right
    if weight is None or prod(weight.shape[:-2]) != 1 or weight.ndim < 2:
        raise context.fail(node, "only products with a constant matrix are handled")
    weight = weight.reshape(weight.shape[-2:])
    source = node.input(1) if right is None else node.input(0)
    shape = context.shape(source)
    if right is None:
        matrix = linear_maps.left_contraction(weight, shape if len(shape) > 1 else (*shape, 1))
    else:
        matrix = linear_maps.contraction(shape, weight)
    return linear(node, [source], [matrix], np.zeros(matrix.shape[0]))


@rule("BatchNormalization")
def batch_normalization(node: Node, context: Context) -> list[Step]:
    """BatchNormalization: `scale (x - mean) / sqrt(var + epsilon) + bias`, per channel."""
    scale, bias, mean, variance = (context.value(node.input(i)) for i in range(1, 5))
    if scale is None or bias is None or mean is None or variance is None:
        raise context.fail(node, "its parameters are computed")
    shape = context.shape(node.input(0))
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + node.attributes.get("epsilon", 1e-5))
    shift = bias - factor * mean
    spread = [np.broadcast_to(v.reshape(-1, *(1,) * (len(shape) - 2)), shape[1:]) for v in (factor, shift)]
    return linear(node, [node.input(0)], [linear_maps.diagonal(spread[0].ravel())], spread[1])


@rule("AveragePool", "GlobalAveragePool")
def average_pool(node: Node, context: Context) -> list[Step]:
    """Average pooling, local and global."""
    shape, out = context.shape(node.input(0)), context.shape(node.output())
    if node.op_type == "GlobalAveragePool":
        return linear(
            node, [node.input(0)], [linear_maps.reduction(shape, range(2, len(shape)), mean=True)], np.zeros(out[1])
        )
    at, padded = _pool_windows(node, shape, out)
    counted = padded.sum(axis=1) if node.int("count_include_pad", 0) else (at >= 0).sum(axis=1)
    return linear(
        node, [node.input(0)], [linear_maps.averaging(at, counted, shape[1], prod(shape[2:]))], np.zeros(prod(out))
    )


@rule("MaxPool", "GlobalMaxPool")
def max_pool(node: Node, context: Context) -> list[Step]:
    """Max pooling, local and global."""
    shape, out = context.shape(node.input(0)), context.shape(node.output())
    if node.output(1):
        raise context.fail(node, "its indices are read")
    positions = prod(shape[2:])
    if node.op_type == "GlobalMaxPool":
        at = np.arange(positions)[None, :]
    else:
        at, _ = _pool_windows(node, shape, out)
    channel = np.arange(shape[1])[:, None, None] * positions
    all_windows = np.where(at >= 0, at + channel, -1).reshape(-1, at.shape[1])
    return [Maximum(node.name, node.output(), node.input(0), all_windows)]


def _pool_windows(node: Node, shape: Sequence[int], out: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    kernel = node.ints("kernel_shape") or ()
    n = len(kernel)
    strides, dilations = node.ints("strides") or (1,) * n, node.ints("dilations") or (1,) * n
    return linear_maps.windows(shape[2:], kernel, strides, window_pads(node, shape[2:], kernel), dilations, out[2:])


@rule("ReduceMean", "ReduceSum")
def reduce(node: Node, context: Context) -> list[Step]:
    """ReduceMean and ReduceSum."""
    shape = context.shape(node.input(0))
    given = context.value(node.input(1))
    axes = node.ints("axes") if given is None else tuple(int(a) for a in given.ravel())
    if not axes and node.int("noop_with_empty_axes", 0):
        return linear(node, [node.input(0)], [None], np.zeros(prod(shape)))
    axes = tuple(a % len(shape) for a in axes) if axes else tuple(range(len(shape)))
    matrix = linear_maps.reduction(shape, axes, mean=node.op_type == "ReduceMean")
    return linear(node, [node.input(0)], [matrix], np.zeros(matrix.shape[0]))


@rule("Identity", "Dropout", "Cast")
def identity(node: Node, context: Context) -> list[Step]:
    """Operators that do nothing in inference."""
    return linear(node, [node.input(0)], [None], np.zeros(prod(context.shape(node.input(0)))))


@rule("Neg")
def negative(node: Node, context: Context) -> list[Step]:
    """Neg: `-x`."""
    size = prod(context.shape(node.input(0)))
    return linear(node, [node.input(0)], [linear_maps.diagonal(-np.ones(size))], np.zeros(size))


@rule("Add", "Sub", "Sum")
def add(node: Node, context: Context) -> list[Step]:
    """Add, Sub and Sum of tensors and constants, with broadcasting."""
    out = context.shape(node.output())
    inputs, matrices, bias = [], [], np.zeros(out)
    for position, name in enumerate(node.inputs):
        sign = -1.0 if node.op_type == "Sub" and position == 1 else 1.0
        value = context.value(name)
        if value is not None:
            bias = bias + sign * value.astype(np.float64)
            continue
        inputs.append(name)
        matrix = _broadcast(context.shape(name), out)
        if sign < 0:
            matrix = linear_maps.diagonal(-np.ones(prod(out))) if matrix is None else csr_array(-matrix)
        matrices.append(matrix)
    return linear(node, inputs, matrices, np.broadcast_to(bias, out))


def _broadcast(shape: Sequence[int], out: Sequence[int]) -> csr_array | None:
    """The matrix that broadcasts a tensor to a shape; None where nothing changes."""
    if prod(shape) == prod(out):
        return None
    index = np.broadcast_to(np.arange(prod(shape)).reshape(tuple(shape)), tuple(out))
    return linear_maps.selection(index.ravel(), prod(shape))


@rule("Mul", "Div")
def scale(node: Node, context: Context) -> list[Step]:
    """Mul or Div by a constant."""
    first, second = context.value(node.input(0)), context.value(node.input(1))
    constant = first if second is None else second
    if constant is None or (node.op_type == "Div" and second is None):
        raise context.fail(node, "a product of two computed tensors is not linear")
    source = node.input(1) if second is None else node.input(0)
    out = context.shape(node.output())
    factor = np.broadcast_to(constant.astype(np.float64), out).ravel()
    factor = 1.0 / factor if node.op_type == "Div" else factor
    spread = _broadcast(context.shape(source), out)
    matrix = linear_maps.diagonal(factor) if spread is None else csr_array(linear_maps.diagonal(factor) @ spread)
    return linear(node, [source], [matrix], np.zeros(len(factor)))


@rule(
    *("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Pad", "Concat", "Expand", "Tile"),
    *("DepthToSpace", "SpaceToDepth"),
)
def movement(node: Node, context: Context) -> list[Step]:
    """Operators that only move values (Reshape, Transpose, ...). Run on position numbers, they show where values go."""
    moved = [name for name in dict.fromkeys(node.inputs) if name and context.value(name) is None]
    sizes = [prod(context.shape(name)) for name in moved]
    starts = np.concatenate([[1], 1 + np.cumsum(sizes)]).astype(np.int64)
    numbers = [np.arange(a, b).reshape(context.shape(t)) for t, a, b in zip(moved, starts, starts[1:], strict=False)]
    zeros = [np.zeros(context.shape(name)) for name in moved]
    bias = context.move(node, zeros).ravel().astype(np.float64)
    source = context.move(node, [n.astype(np.float64) for n in numbers]).ravel() - bias
    # Numbers start at 1, so that 0 marks what comes from constants and padding, whose values are the bias.
    source = np.rint(source).astype(np.int64)
    matrices = [
        linear_maps.selection(np.where((source >= a) & (source < b), source - a, -1), size)
        for a, b, size in zip(starts, starts[1:], sizes, strict=False)
    ]
    return linear(node, moved, matrices, bias)


def activation(node: Node, context: Context, **shape: object) -> list[Step]:
    """One activation step without a score; `compile` adds the units."""
    size = prod(context.shape(node.output()))
    return [Activation(node.name, node.output(), node.input(0), np.zeros(size, np.int64), **shape)]  # type: ignore[arg-type]


@rule("Relu")
def relu(node: Node, context: Context) -> list[Step]:
    """Relu: `max(x, 0)`."""
    return activation(node, context, floor=0.0)


@rule("Clip")
def clip(node: Node, context: Context) -> list[Step]:
    """Clip: `min(max(x, low), high)`, with constant ends."""
    ends = []
    for position, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        value = context.value(node.input(position))
        if node.input(position) and value is None:
            raise context.fail(node, "its limits are computed")
        end = float(node.attributes.get(name, default) if value is None else value.ravel()[0])
        ends.append(end if abs(end) < 1e30 else float(np.sign(end)) * np.inf)
    return activation(node, context, floor=ends[0], cap=ends[1])


@rule("LeakyRelu")
def leaky_relu(node: Node, context: Context) -> list[Step]:
    """LeakyRelu: `x` where positive, else `alpha x`."""
    return activation(node, context, slope=np.array(float(node.attributes.get("alpha", 0.01))))


@rule("PRelu")
def prelu(node: Node, context: Context) -> list[Step]:
    """PRelu: `x` where positive, else `slope x` with a constant slope."""
    slope = context.value(node.input(1))
    if slope is None:
        raise context.fail(node, "its slope is computed")
    return activation(node, context, slope=np.broadcast_to(slope, context.shape(node.output())).ravel().astype(float))


@rule("Abs")
def absolute(node: Node, context: Context) -> list[Step]:
    """Abs: `|x|`."""
    return activation(node, context, slope=np.array(-1.0))
