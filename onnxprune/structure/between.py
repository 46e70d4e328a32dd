"""Finds what lies between two layers: what works on each element by itself, such as activations, and one pooling."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Node
from onnxprune.graph.order import needed_nodes
from onnxprune.graph.subgraph import subgraph
from onnxprune.ops import handler_of
from onnxprune.ops.traits import Flow
from onnxprune.ops.window import Pooling
from onnxprune.structure.analysis import Analysis
from onnxprune.structure.channel_constants import ChannelConstants

_MOST_NODES = 32  # an activation that an exporter wrote out has a dozen


@dataclass(frozen=True, slots=True)
class Elementwise:
    """Nodes that work on each element by itself.

    Attributes:
        source: the tensor that they read, besides constants.
        target: the tensor that they make, of the same shape; the source where there are no nodes.
        nodes: in order.
        axis: the channel axis of both tensors. Constants vary along no other.
        rank: number of their axes.
        kind: type of their elements.
        bounds: the interval that values are cut to where that is all the nodes do; None where they do something else.
    """

    source: str
    target: str
    nodes: tuple[Node, ...]
    axis: int
    rank: int
    kind: np.dtype
    bounds: tuple[float, float] | None

    def forward(self, analysis: Analysis) -> Model:
        """The model that computes the target from the source, at any sizes of the other axes."""
        known = {self.source: np.empty(0, self.kind)}
        nodes = needed_nodes(analysis.graph.nodes, [self.target], known.__contains__)  # constants are computed too
        return subgraph(analysis.model, nodes, known, [self.target])


@dataclass(frozen=True, slots=True)
class Between:
    """What lies between two layers.

    Attributes:
        first: what is done to each element of the first layer's values.
        pooling: the windows that are then made one; None where there are none.
        second: what is done to each element behind these.
    """

    first: Elementwise
    pooling: Pooling | None = None
    second: Elementwise | None = None

    @property
    def source(self) -> str:
        """Name of the first layer's values."""
        return self.first.source


def between(analysis: Analysis, target: str, axis: int, sources: Collection[str]) -> Between | None:
    """What lies between a tensor and the one of several sources that alone it is made of.

    Args:
        analysis: the model's.
        target: what a layer reads.
        axis: its channel axis.
        sources: tensors to look for.

    Returns:
        None where the target is not made of one source by such nodes, or something else reads what leads to it.
    """
    last = _elementwise(
        analysis, target, axis, lambda name: name in sources or _pooled(analysis, name, axis) is not None
    )
    if last is None or last.source in sources:
        return None if last is None else Between(last)
    node, pooling = analysis.graph.producer[last.source], _pooled(analysis, last.source, axis)
    first = _elementwise(analysis, node.input(0), axis, sources.__contains__)
    if first is None or analysis.graph.reads(first.target) != 1:
        return None
    return Between(first, pooling, last)


def _pooled(analysis: Analysis, name: str, axis: int) -> Pooling | None:
    """The windows that a tensor is made of, where a node before it pools along all but the first two axes."""
    node = analysis.graph.producer.get(name)
    if node is None or axis != 1 or len(analysis.shape(name)) < 3:
        return None
    return handler_of(node.op_type).pooling(node, analysis.shape(node.input(0))[2:])


def _elementwise(analysis: Analysis, target: str, axis: int, is_source: Callable[[str], bool]) -> Elementwise | None:
    """The nodes that make a tensor of a single source, each element by itself; None where there are other ones."""
    graph, shape = analysis.graph, analysis.shape(target)
    found: dict[str, Node] = {}
    source, pending = "", [target]
    while pending:
        name = pending.pop()
        if source in ("", name) and is_source(name):
            source = name
            continue
        node = graph.producer.get(name)
        operands = None if node is None else _operands(node, ChannelConstants(analysis, name, axis))
        if node is None or operands is None or analysis.shape(name) != shape or len(found) == _MOST_NODES:
            return None
        if node.name not in found:
            found[node.name] = node
            pending += operands
    nodes = tuple(sorted(found.values(), key=lambda node: node.index))
    inner = {source, *(node.output() for node in nodes)} - {target}
    readers = {reader.name for name in inner for reader in graph.consumers.get(name, ())}
    if not readers <= found.keys() or inner & {*graph.outputs} or analysis.shape(source) != shape:
        return None
    kind = onnx.helper.tensor_dtype_to_np_dtype(analysis.facts.dtypes[source])
    return Elementwise(source, target, nodes, axis, len(shape), kind, _bounds(nodes, analysis))


def _operands(node: Node, values: ChannelConstants) -> list[str] | None:
    """What a node reads besides constants; None where it does not work on each element, or channel, alike."""
    if len(node.outputs) != 1 or node.captured:
        return None
    rules, constants = handler_of(node.op_type), [name for name in node.inputs if values.constant(name) is not None]
    operands = [name for name in filter(None, node.inputs) if name not in constants]
    if len(operands) == 1 and rules.affine(node, node.inputs.index(operands[0]), values) is not None:
        return operands
    alike = rules.flow(node) is Flow.ELEMENTWISE and all(values.per_channel(name) is not None for name in constants)
    return operands if alike and not rules.jumps(node) else None  # steps have no slope to descend by


def _bounds(nodes: tuple[Node, ...], analysis: Analysis) -> tuple[float, float] | None:
    if not nodes:
        return -np.inf, np.inf
    kinks = handler_of(nodes[0].op_type).kinks(nodes[0], analysis.value) if len(nodes) == 1 else None
    return None if kinks is None or np.any(kinks.below) else (kinks.low, kinks.high)
