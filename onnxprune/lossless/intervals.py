"""Bounds of every channel over all inputs, by interval arithmetic. Where both bounds agree, the channel is constant.

Bounds are kept per position of one axis of a tensor, the channel axis, as `(low, high)` in float64. A tensor about
which nothing is known is absent. Rounding is of no concern: a channel counts as constant only where its bounds are
the same number, which happens where weights or scales are exactly zero or an activation cuts everything off.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.layer_matrix import as_matrix
from onnxprune.graph.model import release
from onnxprune.graph.nodes import Node
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Layer

_ROWS = 64  # of a weight that are looked at before it is asked whether more are needed
_AT_ONCE = 1 << 20  # elements of a weight


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds `(n,)` per position of `axis` of a tensor."""

    axis: int
    low: np.ndarray
    high: np.ndarray

    def with_zero(self) -> "Interval":
        """Bounds that also hold for padded zeros."""
        return Interval(self.axis, np.minimum(self.low, 0.0), np.maximum(self.high, 0.0))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


_MONOTONE: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "Relu": lambda x: np.maximum(x, 0.0),
    "Sigmoid": _sigmoid,
    "Tanh": np.tanh,
    "Identity": lambda x: x,
    "Dropout": lambda x: x,
    "Exp": np.exp,
    "Floor": np.floor,
    "Ceil": np.ceil,
}
_AVERAGES = ("GlobalAveragePool", "GlobalMaxPool", "MaxPool", "AveragePool")


def bounds(analysis: Analysis) -> dict[str, Interval]:
    """Bounds of all tensors about which something is known.

    Args:
        analysis: the model's.
    """
    layers = {layer.node: layer for layer in analysis.layers}

    known: dict[str, Interval] = {}
    for node in analysis.graph.nodes:
        if not node.outputs or not node.output() or analysis.value(node.output()) is not None:
            continue
        layer = layers.get(node.name)
        with np.errstate(over="ignore", invalid="ignore"):
            found = _layer(node, layer, known, analysis) if layer else _other(node, known, analysis)
        if found is not None and not (np.isnan(found.low).any() or np.isnan(found.high).any()):
            known[node.output()] = found
    return known


def _layer(node: Node, layer: Layer, known: Mapping[str, Interval], analysis: Analysis) -> Interval | None:
    weight = analysis.value(layer.weight)
    if weight is None or weight.dtype.kind != "f":
        return None
    matrix = as_matrix(layer, weight)
    groups, width, _ = matrix.shape
    kernel = int(np.prod(layer.window.kernel)) if layer.window else 1
    source = known.get(layer.input)
    if source is None or source.axis != layer.input_axis:
        low = np.full((groups, width), -np.inf)
        high = -low
    else:
        padded = layer.window is not None and (layer.transposed or any(pad > 0 for pad in layer.window.pads))
        source = source.with_zero() if padded else source
        low, high = (np.repeat(x, kernel).reshape(groups, width) for x in (source.low, source.high))
    alpha = float(node.attributes.get("alpha", 1.0)) if node.op_type == "Gemm" else 1.0
    least, most = _product(matrix if alpha == 1 else matrix * np.float64(alpha), low, high)
    release(weight)
    shift = _shift(node, layer, analysis, least.size)
    return None if shift is None else Interval(layer.output_axis, least + shift, most + shift)


def _product(matrix: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of `x @ matrix` for `low <= x <= high`; a weight of zero hides any input.

    Args:
        matrix: `(groups, K, C)`.
        low: `(groups, K)`, and `high` alike.
        high: see `low`.

    Returns:
        `(groups * C,)` each.
    """
    groups, width, outputs = matrix.shape
    least, most = np.full((groups, outputs), -np.inf), np.full((groups, outputs), np.inf)
    bounded = np.argwhere(~_unbounded(matrix, low, high))
    step = max(1, _AT_ONCE // max(1, width))
    for start in range(0, len(bounded), step):
        group, output = bounded[start : start + step].T
        weights = matrix[group, :, output].astype(np.float64)
        least[group, output], most[group, output] = _summed(weights, low[group], high[group])
    return least.reshape(-1), most.reshape(-1)


def _unbounded(matrix: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """`(groups, C)` outputs that may be anything, which a few weights show where inputs have no bounds."""
    down, up = np.zeros((2, len(matrix), matrix.shape[2]), bool)
    below, above = np.isneginf(low)[:, :, None], np.isposinf(high)[:, :, None]
    for start in range(0, matrix.shape[1], _ROWS):
        rows = slice(start, start + _ROWS)
        if not (below[:, rows].any() or above[:, rows].any()):
            continue
        positive, negative = matrix[:, rows] > 0, matrix[:, rows] < 0
        up |= ((positive & above[:, rows]) | (negative & below[:, rows])).any(axis=1)
        down |= ((positive & below[:, rows]) | (negative & above[:, rows])).any(axis=1)
        if (up & down).all():
            break
    return np.asarray(up & down)


def _summed(weights: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds `(n,)` of `n` sums of inputs times weights, all `(n, K)`."""
    with np.errstate(invalid="ignore"):
        at_low, at_high = low * weights, high * weights
    hidden = weights == 0
    at_low[hidden], at_high[hidden] = 0.0, 0.0
    least = np.minimum(at_low, at_high).sum(axis=1)
    most = np.maximum(at_low, at_high).sum(axis=1)
    # The two sums may differ by rounding only where they are really equal.
    return least, np.where((at_low == at_high).all(axis=1), least, most)


def _shift(node: Node, layer: Layer, analysis: Analysis, width: int) -> np.ndarray | None:
    """The layer's bias per output, None where it is not one number a channel."""
    if layer.bias is None:
        return None if node.input(2) else np.zeros(width)
    bias = analysis.value(layer.bias)
    beta = float(node.attributes.get("beta", 1.0)) if node.op_type == "Gemm" else 1.0
    if bias is None or (bias.size != 1 and bias.shape not in ((width,), (1, width))):
        return None
    return np.broadcast_to(bias.astype(np.float64).reshape(-1) * beta, (width,))


def _other(node: Node, known: Mapping[str, Interval], analysis: Analysis) -> Interval | None:
    """Bounds behind a node that is no layer."""
    if node.op_type in ("Add", "Sub", "Mul"):
        return _arithmetic(node, known, analysis)
    shape = analysis.facts.shapes.get(node.output(), ())
    if node.op_type == "Concat":
        return _joined([known.get(name) for name in node.inputs], node.int("axis", 0) % max(1, len(shape)))
    first = known.get(node.input(0))
    return None if first is None else _unary(node, first, analysis, shape)


def _unary(node: Node, first: Interval, analysis: Analysis, shape: tuple[int, ...]) -> Interval | None:
    """Bounds behind a node of one computed input."""
    found = None
    if node.op_type in _MONOTONE:
        function = _MONOTONE[node.op_type]
        found = Interval(first.axis, function(first.low), function(first.high))
    elif node.op_type == "Clip":
        found = _clipped(node, first, analysis)
    elif node.op_type == "BatchNormalization" and first.axis == 1:
        found = _normalised(node, first, analysis)
    elif node.op_type in _AVERAGES and first.axis == 1:
        pads = node.ints("pads") or ()
        zeros = node.op_type == "AveragePool" and (any(pads) or "auto_pad" in node.attributes)
        found = first.with_zero() if zeros else first
    elif (
        node.op_type == "Flatten"
        and first.axis == node.int("axis", 1) == 1
        and len(shape) == 2
        and shape[1] % len(first.low) == 0
    ):
        each = shape[1] // len(first.low)
        found = Interval(1, np.repeat(first.low, each), np.repeat(first.high, each))
    return found


def _joined(parts: list[Interval | None], axis: int) -> Interval | None:
    present = [part for part in parts if part is not None and part.axis == axis]
    if len(present) < len(parts) or not parts:
        return None
    return Interval(axis, np.concatenate([p.low for p in present]), np.concatenate([p.high for p in present]))


def _arithmetic(node: Node, known: Mapping[str, Interval], analysis: Analysis) -> Interval | None:
    shape = analysis.facts.shapes.get(node.output(), ())
    axis = next((known[name].axis for name in node.inputs if name in known), None)
    if axis is None or axis >= len(shape) or len(node.inputs) != 2:
        return None
    sides = [_side(name, axis, shape, known, analysis) for name in node.inputs]
    if sides[0] is None or sides[1] is None:
        return None
    (a, b), (c, d) = ((side.low, side.high) for side in sides if side is not None)
    if node.op_type == "Add":
        return Interval(axis, a + c, b + d)
    if node.op_type == "Sub":
        return Interval(axis, a - d, b - c)
    corners = np.stack([_times(p, q) for p in (a, b) for q in (c, d)])
    return Interval(axis, corners.min(axis=0), corners.max(axis=0))


def _times(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Products in which zero times infinity is zero."""
    return np.where((p == 0) | (q == 0), 0.0, p * q)


def _side(
    name: str, axis: int, shape: tuple[int, ...], known: Mapping[str, Interval], analysis: Analysis
) -> Interval | None:
    """An operand's bounds per position of the result's axis."""
    width = shape[axis]
    array = analysis.value(name)
    if array is not None:
        full = array.astype(np.float64).reshape((1,) * (len(shape) - array.ndim) + array.shape)
        others = tuple(a for a in range(full.ndim) if a != axis)
        low, high = full.min(axis=others), full.max(axis=others)
        return Interval(axis, np.broadcast_to(low, (width,)), np.broadcast_to(high, (width,)))
    found = known.get(name)
    if found is None or found.axis != axis or analysis.facts.shapes.get(name) != shape:
        unknown = np.full(width, -np.inf)
        return Interval(axis, unknown, -unknown)
    return found


def _clipped(node: Node, source: Interval, analysis: Analysis) -> Interval | None:
    limits: list[float] = []
    for position, attribute, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        name = node.input(position)
        found = analysis.value(name) if name else np.array(float(node.attributes.get(attribute, default)))
        if found is None or found.size != 1:
            return None
        limits.append(float(found.reshape(())))
    low, high = limits
    return Interval(source.axis, np.clip(source.low, low, high), np.clip(source.high, low, high))


def _normalised(node: Node, source: Interval, analysis: Analysis) -> Interval | None:
    scale, bias, mean, variance = (analysis.value(name) for name in node.inputs[1:5])
    if scale is None or bias is None or mean is None or variance is None or node.int("training_mode", 0):
        return None
    factor = scale.astype(np.float64) / np.sqrt(
        variance.astype(np.float64) + float(node.attributes.get("epsilon", 1e-5))
    )
    ends = np.stack([_times(end - mean, factor) + bias for end in (source.low, source.high)])
    return Interval(1, ends.min(axis=0), ends.max(axis=0))
