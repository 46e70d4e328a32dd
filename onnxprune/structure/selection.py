"""Tensors that are selected by value: how many values NonMaxSuppression leaves, or which TopK puts first."""

from collections.abc import Collection, Iterable, Iterator

import onnx

from onnxprune.graph.nodes import Node
from onnxprune.graph.order import needed_nodes
from onnxprune.ops import handler_of
from onnxprune.structure.analysis import Analysis

_MANY = 8


def selected_by_value(analysis: Analysis) -> frozenset[str]:
    """The tensors whose size may depend on values: what such nodes make, and all that is computed from it."""
    return behind([node for node in analysis.graph.nodes if _selects(node, analysis) == "number"], analysis)


def last_sorts(analysis: Analysis) -> list[Node]:
    """The nodes that order by value as the last step of a model: no layers read what they make.

    Where layers go on with it (the proposals that a transformer's decoder starts from), it is part of the network.
    """
    nodes = analysis.graph.nodes
    sorts = [node for node in nodes if _selects(node, analysis) == "order"]
    if not sorts:
        return []
    read = (name for node in nodes if _weighs(node, analysis) for name in node.reads)
    ahead = {node.name for node in needed_nodes(nodes, read)}
    return [node for node in sorts if node.name not in ahead]


def sorted_within(analysis: Analysis) -> dict[Node, int]:
    """The nodes that order places of an output by value although layers go on with them: its entries are a set.

    Told by the number of places that stay of the axis that is sorted along, where they are more than a few: it is that
    of an axis of an output. By node.
    """
    shapes, outputs = analysis.facts.shapes, analysis.graph.outputs
    sizes = {size for name in outputs for size in shapes.get(name, ())[1:]}
    last = {node.name for node in last_sorts(analysis)}
    within = (n for n in analysis.graph.nodes if _selects(n, analysis) == "order" and n.name not in last)
    kept = {node: shape[node.int("axis", -1)] for node in within if (shape := shapes.get(node.output()))}
    return {node: size for node, size in kept.items() if size >= _MANY and size in sizes}


def layers_behind(tensors: Collection[str], analysis: Analysis) -> list[Node]:
    """The nodes with weights that read some of these tensors.

    Told by their operators: behind a selection sizes are unknown, and the analysis knows no layers.
    """
    return [node for node in analysis.graph.nodes if not {*node.reads}.isdisjoint(tensors) and _weighs(node, analysis)]


def behind(nodes: Iterable[Node], analysis: Analysis) -> frozenset[str]:
    """All that is computed from the results of some nodes, these included."""
    found = {name for node in nodes for name in node.outputs if name}
    for node in analysis.graph.nodes if found else ():  # in their order
        if found.intersection(node.reads):
            found.update(filter(None, node.outputs))
    return frozenset(found)


def _selects(node: Node, analysis: Analysis) -> str | None:
    return handler_of(node.op_type).selects if analysis.value(node.output()) is None else None


def _weighs(node: Node, analysis: Analysis) -> bool:
    """Whether a node multiplies by trained numbers: a matrix, one of quantised numbers, or one within a subgraph."""
    handler, constants = handler_of(node.op_type), analysis.model.constants
    values = map(analysis.value, handler.trained(node) if handler.trains_numbers else ())
    if any(value is not None and value.ndim > 1 for value in values):
        return True
    stored = (constants[name] for name in node.inputs if name in constants)
    if any(array.ndim > 1 and array.dtype.kind in "iu" and array.dtype.itemsize == 1 for array in stored):
        return True
    outer = (constants[name].shape for name in node.captured if name in constants)
    return any(_is_matrix(shape) for shape in (*outer, *_within(node)))


def _within(node: Node) -> Iterator[tuple[int, ...]]:
    """Shapes of the constants of a node's subgraphs."""
    graphs = [value for value in node.attributes.values() if isinstance(value, onnx.GraphProto)]
    while graphs:
        graph = graphs.pop()
        yield from (tuple(tensor.dims) for tensor in graph.initializer)
        for inner in graph.node:
            yield from (tuple(attribute.t.dims) for attribute in inner.attribute if attribute.HasField("t"))
            graphs += [attribute.g for attribute in inner.attribute if attribute.HasField("g")]


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return sum(size > 1 for size in shape) > 1
