"""Finds the nodes that sum products, how their multiply-adds follow from numbers of channels, and which stay whole."""

from collections.abc import Iterator

import onnx

from onnxprune.graph.model import Model
from onnxprune.graph.nodes import Graph, Node, named_failures, qualified
from onnxprune.graph.shapes import Facts
from onnxprune.ops import handler_of, multiplies
from onnxprune.ops.base import OpHandler, Unknown, normal_axis
from onnxprune.ops.labels import Ids, Labels
from onnxprune.structure.units import Operation, is_weight


def find_operations(
    model: Model, graph: Graph, facts: Facts, labels: Labels, unit: Ids
) -> tuple[tuple[Operation, ...], tuple[Node, ...]]:
    """Find all nodes with multiply-adds.

    Args:
        model: the model.
        graph: its nodes.
        facts: shapes and constants.
        labels: channel ids of all tensors.
        unit: the unit of each channel id.

    Returns:
        The nodes that can be counted, and those that sum products but cannot be.
    """
    operations: list[Operation] = []
    uncounted: list[Node] = []
    for node in graph.nodes:
        if labels.is_constant(node.output()):
            continue
        handler = handler_of(node.op_type)
        known = multiplies(node.op_type)
        if not known or any(name and name not in facts.shapes for name in (*node.inputs, *node.outputs[:1])):
            if known or (type(handler) is Unknown and _reads_matrix(node, labels)) or _has_bodies(model, node):
                uncounted.append(node)
            continue
        with named_failures(model, node):
            terms = handler.multiply_adds(node, labels)
        if terms is None:
            uncounted.append(node)
        elif terms:
            operations.append(
                Operation(
                    node=node.name,
                    op_type=node.op_type,
                    terms=tuple(tuple(f if isinstance(f, int) else unit[f] for f in factors) for factors in terms),
                    weights=_weights(node, handler, labels),
                    input=next((name for name in node.inputs if not labels.is_constant(name)), node.input(0)),
                    output=next(filter(None, node.outputs)),
                    axis=handler.channel_axis,
                )
            )
    return tuple(operations), tuple(uncounted)


def name_kept_channels(node: Node, labels: Labels) -> None:
    """Give what a frozen layer makes channels: they stay, for the reason that the layer is frozen for.

    Without them a layer that reads nothing with channels, such as the first one, would be no part of any reason.
    """
    handler, output = handler_of(node.op_type), next(filter(None, node.outputs), "")
    rank = labels.rank(output)
    if not rank or labels.is_labelled(output) or not labels.is_frozen(output):
        return
    if (multiplies(node.op_type) or type(handler) is Unknown) and _reads_matrix(node, labels):
        axis = normal_axis(handler.channel_axis, rank)
        labels.set(output, axis, labels.fresh(labels.shape(output)[axis], node, output))


def _weights(node: Node, handler: OpHandler, labels: Labels) -> tuple[str, ...]:
    names = handler.trained(node) or node.inputs
    return tuple(dict.fromkeys(name for name in names if name and labels.is_constant(name)))


def _reads_matrix(node: Node, labels: Labels) -> bool:
    """Whether a node reads a constant that may be the weight of a layer."""
    values = (labels.constant(name) for name in node.inputs if name)
    return any(v is not None and is_weight(v) and sum(size > 1 for size in v.shape) > 1 for v in values)


def _has_bodies(model: Model, node: Node) -> bool:
    """Whether a node has bodies in which something sums products."""
    if node.index < 0:
        return False
    return any(
        multiplies(qualified(inner.op_type, inner.domain)) for inner in _inner(model.proto.graph.node[node.index])
    )


def _inner(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a node's bodies."""
    waiting = [node]
    while waiting:
        for attribute in waiting.pop().attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.node
                waiting.extend(graph.node)
