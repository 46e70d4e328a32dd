"""Computes lower and upper bounds of every channel over all inputs, by interval arithmetic, to find constant channels.

Bounds are kept per position of one axis of a tensor, the channel axis, as `(low, high)` in float64. A tensor about
which nothing is known is absent. Rounding is of no concern: a channel counts as constant only where its bounds are
the same number, which happens where weights or scales are exactly zero or an activation cuts everything off.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.layer_matrix import as_matrix
from onnxprune.graph.model import release
from onnxprune.graph.nodes import Node
from onnxprune.ops import handler_of
from onnxprune.ops.base import OpHandler
from onnxprune.ops.traits import Flow, Range
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Layer

_ROWS = 64  # of a weight that are looked at before it is asked whether more are needed
_AT_ONCE = 1 << 20  # elements of a weight


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds `(n,)` for the positions of one axis of a tensor."""

    axis: int
    low: np.ndarray
    high: np.ndarray

    @property
    def range(self) -> Range:
        """The bounds without the axis."""
        return Range(self.low, self.high)


def bounds(analysis: Analysis) -> dict[str, Interval]:
    """Bounds of every tensor for which any can be given.

    Args:
        analysis: the model's.
    """
    layers = {layer.node: layer for layer in analysis.layers}

    known: dict[str, Interval] = {}
    for node in analysis.graph.nodes:
        if not node.outputs or not node.output() or analysis.value(node.output()) is not None:
            continue
        layer = layers.get(node.name)
        if layer is not None and layer.fused:
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            interval = _layer(node, layer, known, analysis) if layer else _other(node, known, analysis)
        if interval is not None and not (np.isnan(interval.low).any() or np.isnan(interval.high).any()):
            known[node.output()] = interval
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
        seen = source.range.with_zero() if padded else source.range
        low, high = (np.repeat(x, kernel).reshape(groups, width) for x in (seen.low, seen.high))
    least, most = _product(matrix if layer.gain == 1 else matrix * np.float64(layer.gain), low, high)
    release(weight)
    shift = bias_shift(node, layer, analysis, least.size)
    return None if shift is None else Interval(layer.output_axis, least + shift, most + shift)


def _product(matrix: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of `x @ matrix` for `low <= x <= high`. A zero weight gives zero, even for unbounded inputs.

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
    """`(groups, C)` outputs without any bound, found without computing the others."""
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
    """Bounds `(n,)` of `n` weighted sums of inputs; weights are `(n, K)`."""
    with np.errstate(invalid="ignore"):
        at_low, at_high = low * weights, high * weights
    hidden = weights == 0
    at_low[hidden], at_high[hidden] = 0.0, 0.0
    least = np.minimum(at_low, at_high).sum(axis=1)
    most = np.maximum(at_low, at_high).sum(axis=1)
    # The two sums may differ by rounding only where they are really equal.
    return least, np.where((at_low == at_high).all(axis=1), least, most)


def bias_shift(node: Node, layer: Layer, analysis: Analysis, width: int) -> np.ndarray | None:
    """The layer's bias per output channel; None where it has another form."""
    if layer.bias is None:
        return None if node.input(2) else np.zeros(width)
    bias = analysis.value(layer.bias)
    if bias is None or (bias.size != 1 and bias.shape not in ((width,), (1, width))):
        return None
    return np.broadcast_to(bias.astype(np.float64).reshape(-1) * layer.bias_gain, (width,))


def _other(node: Node, known: Mapping[str, Interval], analysis: Analysis) -> Interval | None:
    """Bounds of the output of a node that is not a layer."""
    rules = handler_of(node.op_type)
    flow, shape = rules.flow(node), analysis.facts.shapes.get(node.output(), ())
    moved = [known.get(node.input(position)) for position in rules.moves(node)]
    axis = next((known[name].axis for name in node.inputs if name in known), None)
    if axis is None:
        return None
    bounded: Range | None = None
    if flow is Flow.ELEMENTWISE and axis < len(shape):
        bounded = rules.bounds(node, [_side(name, axis, shape, known, analysis) for name in node.inputs])
    elif flow is Flow.CHANNELWISE and axis == 1 and node.input(0) in known:
        parameters = [_constant(analysis.value(name)) for name in node.inputs[1:]]
        bounded = rules.bounds(node, [known[node.input(0)].range, *parameters])
    elif flow is None and moved:
        return _carried(
            node, rules, [part for part in moved if part is not None and part.axis == axis], len(moved), shape
        )
    return None if bounded is None else Interval(axis, bounded.low, bounded.high)


def _carried(
    node: Node, rules: OpHandler, parts: list[Interval], count: int, shape: tuple[int, ...]
) -> Interval | None:
    """Bounds of values that a node only moves; None unless those of all `count` inputs are known."""
    if len(parts) < count:
        return None
    carried = rules.carried(node, parts[0].axis, [len(part.low) for part in parts], shape)
    if carried is None:
        return None
    low, high = (np.concatenate(ends)[carried.channels] for ends in zip(*((p.low, p.high) for p in parts), strict=True))
    return Interval(carried.axis, low, high)


def _constant(values: np.ndarray | None) -> Range | None:
    """Bounds of a constant with one number per channel: lower and upper bound are equal."""
    return None if values is None or values.ndim != 1 else Range(*(values.astype(np.float64),) * 2)


def _side(
    name: str, axis: int, shape: tuple[int, ...], known: Mapping[str, Interval], analysis: Analysis
) -> Range | None:
    """An operand's bounds for each position of the result's axis; None where it is omitted or unknown."""
    if not name:
        return None
    width = shape[axis]
    array = analysis.value(name)
    if array is not None:
        full = array.astype(np.float64).reshape((1,) * (len(shape) - array.ndim) + array.shape)
        others = tuple(a for a in range(full.ndim) if a != axis)
        low, high = full.min(axis=others), full.max(axis=others)
        return Range(np.broadcast_to(low, (width,)), np.broadcast_to(high, (width,)))
    interval = known.get(name)
    if interval is None or interval.axis != axis or analysis.facts.shapes.get(name) != shape:
        unknown = np.full(width, -np.inf)
        return Range(unknown, -unknown)
    return interval.range
