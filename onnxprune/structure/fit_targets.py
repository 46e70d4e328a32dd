"""Chooses, for each layer, the tensor at which its output is compared with the original's when weights are refitted.

From a layer's output the walk goes on through BatchNormalization, additions, subtractions and multiplications by
constants, and through additions of other branches whose values are already known. There, at the *fit target*, a change
of the layer's output shows as that change times a slope per channel, and a refit of the layer also corrects what the
other branch lost.
"""

from dataclasses import dataclass, replace

import numpy as np

from onnxprune.graph.nodes import Graph, Node
from onnxprune.ops import handler_of
from onnxprune.ops.traits import Affine
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.channel_constants import ChannelConstants
from onnxprune.structure.shared import side_by_side
from onnxprune.structure.units import Layer


@dataclass(frozen=True, slots=True)
class FitTarget:
    """The tensor at which a layer is refitted, and how that tensor depends on the layer's weight and bias.

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

    def bias_step(self, change: np.ndarray) -> np.ndarray:
        """Change of `bias` that has the same effect as a given change of the layer's output.

        `bias_step = change * slope / bias_slope`, `(C_out,)`; 0 for channels where `bias_slope` is 0.
        """
        usable = self.bias_slope != 0
        return np.where(usable, change * self.slope / np.where(usable, self.bias_slope, 1.0), 0.0)

    def shifted_bias(self, bias: np.ndarray, change: np.ndarray) -> np.ndarray:
        """The new bias that has the effect of a `change` of the layer's output; see `bias_step`."""
        return np.asarray((bias.astype(np.float64) + self.bias_step(change).reshape(bias.shape)).astype(bias.dtype))


@dataclass(frozen=True, slots=True)
class Schedule:
    """The order in which nodes run while layers are refitted, and the fit targets in that order.

    Each fit target is computed directly after its layer.

    Attributes:
        nodes: all nodes.
        points: the fit targets.
        shared: names of layers that share a weight, and whose inputs are all known before the first of them runs.
    """

    nodes: tuple[Node, ...]
    points: tuple[FitTarget, ...]
    shared: tuple[tuple[str, ...], ...] = ()


def fit_schedule(analysis: Analysis, *, chains: bool = False) -> Schedule:
    """Find each layer's fit target, and order the nodes so that each is computed directly after its layer.

    Nodes that read constants alone come first: a layer whose bias is reshaped behind it would have to wait for that.

    Args:
        analysis: the model's.
        chains: whether chains of nodes come one after the other, the longest of branches that meet last.
    """
    graph, values = analysis.graph, _Values(analysis)
    nodes, shared = side_by_side(analysis, chains=chains)
    together = {name for names in shared for name in names}
    layers = {layer.node: layer for layer in analysis.layers}
    made = {*analysis.model.constants}
    order: list[Node] = []
    points: list[FitTarget] = []
    placed: set[str] = set()

    def emit(node: Node) -> None:
        order.append(node)
        placed.add(node.name)
        made.update(name for name in node.outputs if name)

    for node in nodes:
        if node.name not in layers and made.issuperset(filter(None, (*node.inputs, *node.captured))):
            emit(node)
    fixed = frozenset(made)
    made.update(graph.inputs)
    for node in nodes:
        if node.name in placed:
            continue
        emit(node)
        layer = layers.get(node.name)
        if layer is None or layer.op_type != node.op_type:
            continue
        point = _start(layer, values)
        # What one of several layers makes up for in a sum, their common weight would add to the others' outputs.
        known = fixed if layer.node in together else made
        while not layer.fused and (step := _step(point, graph, values, known)) is not None:
            following, point = step
            emit(following)
        points.append(replace(point, bounds=_bounds(point.tensor, graph, values)))
    return Schedule(tuple(order), tuple(points), shared)


class _Values:
    """Constants (stored or computed from constants) and shapes of an analysed model."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._graph = analysis.graph

    def get(self, name: str) -> np.ndarray | None:
        return self._analysis.value(name)

    def is_own(self, name: str) -> bool:
        """Whether a constant is stored and read once, so that it may be changed."""
        return name in self._analysis.model.constants and self._graph.reads(name) == 1

    def beside(self, tensor: str, axis: int) -> ChannelConstants:
        return ChannelConstants(self._analysis, tensor, axis)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._analysis.facts.shapes.get(name, ()))


def _start(layer: Layer, values: _Values) -> FitTarget:
    width = values.shape(layer.output)[layer.output_axis]
    bias, beta = layer.bias, layer.bias_gain
    if bias is not None:
        value = values.get(bias)
        rows = value is not None and value.ndim == 2 and value.shape[0] > 1
        if value is None or value.size != width or rows or beta == 0 or not values.is_own(bias):
            bias = None
    ones = np.ones(width)
    return FitTarget(layer, layer.output, layer.gain, ones, bias, ones * beta if bias else ones)


def _step(
    point: FitTarget, graph: Graph, values: _Values, made: set[str] | frozenset[str]
) -> tuple[Node, FitTarget] | None:
    """Follow the fit target through the next node; None where that node is not affine."""
    tensor = point.tensor
    readers = graph.consumers.get(tensor, ())
    if len(readers) != 1 or tensor in graph.outputs:
        return None
    node = readers[0]
    others = [name for name in node.inputs if name and name != tensor]
    if (
        not made.issuperset(others)
        or node.inputs.count(tensor) != 1
        or values.shape(node.output()) != values.shape(tensor)
    ):
        return None
    affine = handler_of(node.op_type).affine(
        node, node.inputs.index(tensor), values.beside(tensor, point.layer.output_axis)
    )
    return None if affine is None else (node, _behind(node, point, affine, values))


def _behind(node: Node, point: FitTarget, affine: Affine, values: _Values) -> FitTarget:
    """The fit target after an affine node. A per-channel constant that the node adds can serve as the bias."""
    slope, bias_slope, bias = point.slope * affine.slope, point.bias_slope * affine.slope, point.bias
    shift = "" if affine.shift is None or bias is not None else node.input(affine.shift)
    value = values.get(shift) if shift else None
    if value is not None and value.size == len(slope) and values.is_own(shift):
        bias, bias_slope = shift, np.full(len(slope), affine.sign)
    return replace(point, tensor=node.output(), slope=slope, bias=bias, bias_slope=bias_slope)


def _bounds(tensor: str, graph: Graph, values: _Values) -> tuple[float, float]:
    """The interval outside of which all readers treat values alike (for ReLU: 0 to infinity)."""
    low, high = np.inf, -np.inf
    readers = graph.consumers.get(tensor, ())
    if tensor in graph.outputs or not readers:
        return -np.inf, np.inf
    for node in readers:
        kinks = handler_of(node.op_type).kinks(node, values.get) if node.input(0) == tensor else None
        least, most = (-np.inf, np.inf) if kinks is None else kinks.flat
        low, high = min(low, least), max(high, most)
    return low, high
