"""Where a layer's output is compared with the original's: behind what follows affinely, before a nonlinearity.

From a layer's output the walk goes on through BatchNormalization, additions, subtractions and multiplications by
constants, and through additions of other branches whose values are already known. There, at the *fit target*, a change
of the layer's output shows as that change times a slope per channel, and a refit of the layer also corrects what the
other branch lost.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.graph.nodes import Graph, Node
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.units import Layer


@dataclass(frozen=True, slots=True)
class FitTarget:
    """Where and how a layer's effect is measured.

    Attributes:
        layer: the layer.
        tensor: the tensor at the fit target, of the shape of the layer's output.
        gain: factor of the layer's product itself (`alpha` of Gemm).
        slope: `(C_out,)` change of `tensor` per change of the layer's output.
        bias: a stored constant that is added to every channel of `tensor` and that no other node reads, so that a
            refit may change it; None where there is none.
        bias_slope: `(C_out,)` change of `tensor` per change of `bias`.
        bounds: values of `tensor` outside this interval all have the same effect (ReLU: 0 and infinity).
    """

    layer: Layer
    tensor: str
    gain: float
    slope: np.ndarray
    bias: str | None
    bias_slope: np.ndarray
    bounds: tuple[float, float] = (-np.inf, np.inf)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Nodes ordered so that every fit target is reached right after its layer, and the fit targets in that order."""

    nodes: tuple[Node, ...]
    points: tuple[FitTarget, ...]


def fit_schedule(analysis: Analysis) -> Schedule:
    """Order the nodes and find each layer's fit target.

    Args:
        analysis: the model's.
    """
    graph, values = analysis.graph, _Values(analysis)
    layers = {layer.node: layer for layer in analysis.layers}
    made = {*graph.inputs}
    order: list[Node] = []
    points: list[FitTarget] = []
    placed: set[str] = set()

    def emit(node: Node) -> None:
        order.append(node)
        placed.add(node.name)
        made.update(name for name in node.outputs if name)

    for node in graph.nodes:
        if node.name in placed:
            continue
        emit(node)
        layer = layers.get(node.name)
        if layer is None or layer.op_type != node.op_type:
            continue
        point = _start(node, layer, values)
        while (step := _step(point, graph, values, made)) is not None:
            following, point = step
            emit(following)
        points.append(replace(point, bounds=_bounds(point.tensor, graph, values)))
    return Schedule(tuple(order), tuple(points))


class _Values:
    """Constants of the model, stored or folded, and shapes."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._graph = analysis.graph

    def get(self, name: str) -> np.ndarray | None:
        return self._analysis.value(name)

    def is_own(self, name: str) -> bool:
        """Whether a constant is stored and has one reader, so that it may change. A graph's output is read outside."""
        readers = len(self._graph.consumers.get(name, ())) + (name in self._graph.outputs)
        return name in self._analysis.model.constants and readers == 1

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._analysis.facts.shapes.get(name, ()))

    def per_channel(self, name: str, tensor: str, axis: int) -> np.ndarray | None:
        """The constant as one value a channel of `tensor`, None where it is something else."""
        value, shape = self.get(name), self.shape(tensor)
        if value is None or not shape:
            return None
        width = shape[axis]
        if value.size == 1:
            return np.full(width, float(value.reshape(())))
        full = (1,) * (len(shape) - value.ndim) + value.shape
        spread = (
            len(full) == len(shape) and all(n == 1 for a, n in enumerate(full) if a != axis) and full[axis] == width
        )
        return value.reshape(-1).astype(np.float64) if spread else None


def _start(node: Node, layer: Layer, values: _Values) -> FitTarget:
    width = values.shape(layer.output)[layer.output_axis]
    gain = float(node.attributes.get("alpha", 1.0)) if node.op_type == "Gemm" else 1.0
    beta = float(node.attributes.get("beta", 1.0)) if node.op_type == "Gemm" else 1.0
    bias = layer.bias
    if bias is not None:
        value = values.get(bias)
        rows = value is not None and value.ndim == 2 and value.shape[0] > 1
        if value is None or value.size != width or rows or beta == 0 or not values.is_own(bias):
            bias = None
    ones = np.ones(width)
    return FitTarget(layer, layer.output, gain, ones, bias, ones * beta if bias else ones)


def _step(point: FitTarget, graph: Graph, values: _Values, made: Collection[str]) -> tuple[Node, FitTarget] | None:
    """One node further, None where the walk ends."""
    tensor = point.tensor
    readers = graph.consumers.get(tensor, ())
    if len(readers) != 1 or tensor in graph.outputs:
        return None
    node = readers[0]
    others = [name for name in node.inputs if name and name != tensor]
    known = all(values.get(name) is not None or name in made for name in others)
    if not known or node.inputs.count(tensor) != 1 or values.shape(node.output()) != values.shape(tensor):
        return None
    further = _through(node, replace(point, tensor=node.output()), tensor, others, values)
    return None if further is None else (node, further)


def _through(node: Node, point: FitTarget, tensor: str, others: list[str], values: _Values) -> FitTarget | None:
    """The fit target behind a node, None where the node is not affine in `tensor`, channel by channel."""
    match node.op_type:
        case "Identity":
            return point
        case "BatchNormalization":
            return _normalised(node, point, values)
        case "Add" | "Sub":
            sign = -1.0 if node.op_type == "Sub" and node.input(1) == tensor else 1.0
            return _shifted(node, _scaled(point, sign), others[0], tensor, values)
        case "Mul" | "Div":
            factor = values.per_channel(others[0], tensor, point.layer.output_axis)
            if factor is None or (node.op_type == "Div" and (node.input(1) == tensor or not factor.all())):
                return None
            return _scaled(point, factor if node.op_type == "Mul" else 1.0 / factor)
        case _:
            return None


def _scaled(point: FitTarget, factor: np.ndarray | float) -> FitTarget:
    return replace(point, slope=point.slope * factor, bias_slope=point.bias_slope * factor)


def _shifted(node: Node, point: FitTarget, other: str, tensor: str, values: _Values) -> FitTarget:
    """Add or Sub: a constant with one value a channel can serve as the bias."""
    value = values.get(other)
    if point.bias is not None or value is None or value.size == 1 or not values.is_own(other):
        return point
    if values.per_channel(other, tensor, point.layer.output_axis) is None:
        return point
    sign = -1.0 if node.op_type == "Sub" and node.input(1) == other else 1.0
    return replace(point, bias=other, bias_slope=np.full(len(point.slope), sign))


def _normalised(node: Node, point: FitTarget, values: _Values) -> FitTarget | None:
    axis = point.layer.output_axis
    scale, _, _, variance = (values.get(name) for name in node.inputs[1:5])
    several = sum(1 for name in node.outputs if name) > 1
    if axis != 1 or several or scale is None or variance is None or node.int("training_mode", 0):
        return None
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    point = _scaled(point, scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon))
    if point.bias is None and values.is_own(node.input(2)):
        point = replace(point, bias=node.input(2), bias_slope=np.ones(len(point.slope)))
    return point


def _bounds(tensor: str, graph: Graph, values: _Values) -> tuple[float, float]:
    """The interval outside of which no reader tells values apart."""
    low, high = np.inf, -np.inf
    readers = graph.consumers.get(tensor, ())
    if tensor in graph.outputs or not readers:
        return -np.inf, np.inf
    for node in readers:
        if node.op_type == "Relu":
            least, most = 0.0, np.inf
        elif node.op_type == "Clip" and node.input(0) == tensor:
            least, most = _clip_bound(node, 1, "min", -np.inf, values), _clip_bound(node, 2, "max", np.inf, values)
        else:
            least, most = -np.inf, np.inf
        low, high = min(low, least), max(high, most)
    return low, high


def _clip_bound(node: Node, position: int, attribute: str, default: float, values: _Values) -> float:
    name = node.input(position)
    if not name:
        return float(node.attributes.get(attribute, default))
    value = values.get(name)
    return default if value is None else float(value.reshape(()))
